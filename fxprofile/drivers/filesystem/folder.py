"""
The files of a bucket: blocking calls, to be made in threads.

Every file is opened relative to an open folder, one path component at a time and without
following links, so that no content of the folder leads out of it.  Only the bucket's own
folder may be a link.  ``pathlib`` and ``shutil`` resolve whole paths, which follows links.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, Final

import attrs

from fxprofile.drivers.filesystem.space import DiskSpace
from fxprofile.model.ports import ObjectInfo

#: Bytes that one call reads at most.
PIECE: Final = 1 << 16

#: The folder of unfinished uploads.  No key begins with a dot.
INCOMING: Final = ".incoming"

#: Errors that mean there is no such file, or that it is not a regular one.
NO_SUCH_FILE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO}
)

#: Names that one scan of a folder keeps while objects expire.
EXPIRY_PAGE: Final = 10_000

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINKS = os.O_NOFOLLOW | os.O_CLOEXEC

#: Attempts to create or rename a file while other processes remove its folder.
_ATTEMPTS = 10


class Folder:
    """
    The folder of a bucket.

    :param path: created when it is first written to.
    :param shared: whether the group may read it.
    :param space: what objects may take of the disk; None: all of it.
    """

    def __init__(self, path: Path, shared: bool, space: DiskSpace | None = None) -> None:
        self.path = path
        self.space = space
        self.file_mode = 0o640 if shared else 0o600
        self._folder_mode = 0o750 if shared else 0o700
        self._timestamp_lock = threading.Lock()
        self._timestamp = 0

    @contextmanager
    def opened(self, parts: Sequence[str] = (), make: bool = False) -> Iterator[int]:
        """
        Open the bucket's folder or one below it, and return its descriptor.

        :param make: whether to create the missing folders.
        :raises OSError: if there is no such folder.
        """
        try:
            current = os.open(self.path, _FOLDER)
        except FileNotFoundError:
            if not make:
                raise
            self._make_root()
            current = os.open(self.path, _FOLDER)
        try:
            for part in parts:
                above = current
                try:
                    current = os.open(part, _FOLDER | _NO_LINKS, dir_fd=above)
                except FileNotFoundError:
                    if not make:
                        raise
                    current = self._make_below(above, part)
                os.close(above)
            yield current
        finally:
            os.close(current)

    def _make_below(self, above: int, part: str) -> int:
        """Make a folder in an open one, unless another process just did, and open it."""
        made = False
        with suppress(FileExistsError):
            os.mkdir(part, self._folder_mode, dir_fd=above)
            made = True
        folder = os.open(part, _FOLDER | _NO_LINKS, dir_fd=above)
        try:
            if made:
                # The mode of mkdir is subject to the umask.
                os.fchmod(folder, self._folder_mode)
                _sync(above)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def make(self) -> None:
        """
        Create the folder if it is missing.

        :raises OSError: if it is not writable.
        """
        try:
            with self.opened([INCOMING], make=True) as incoming, self.opened() as root:
                for opened in (root, incoming):
                    if not os.access(".", os.W_OK | os.X_OK, dir_fd=opened, effective_ids=True):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def check(self) -> None:
        """
        Read the folder, and create it if it is missing.

        :raises OSError: if it is not readable.
        """
        with self.opened(make=True) as folder, os.scandir(folder) as entries:
            next(entries, None)

    def _make_root(self) -> None:
        missing = list(takewhile(lambda path: not path.exists(), (self.path, *self.path.parents)))
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir()
                path.chmod(self._folder_mode)

    def open_object(self, parts: Sequence[str], *, read: bool) -> tuple[ObjectFile, bytes]:
        """
        Open an object, and return it with its first piece.

        :param read: whether to read the piece; it is empty otherwise.
        :raises OSError: with one of :data:`NO_SUCH_FILE` if there is none.
        """
        with self.opened(parts[:-1]) as folder:
            # Without O_NONBLOCK, opening a named pipe would block the thread.
            flags = os.O_RDONLY | os.O_NONBLOCK | _NO_LINKS
            descriptor = os.open(parts[-1], flags, dir_fd=folder)
        try:
            status = _regular(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        file = ObjectFile(descriptor, status)
        # At the end of an empty object the file is closed.
        return file, file.read() if read or not file.remaining else b""

    def stat(self, parts: Sequence[str]) -> os.stat_result:
        """
        Return the status of an object's file.

        :raises OSError: with one of :data:`NO_SUCH_FILE` if there is none.
        """
        with self.opened(parts[:-1]) as folder:
            return _status(parts[-1], folder)

    def remove(self, keys: Sequence[Sequence[str]]) -> None:
        """
        Remove objects that exist, and the folders that become empty.

        :param keys: the parts of each key.
        """
        names: dict[tuple[str, ...], list[str]] = {}
        for key in keys:
            names.setdefault(tuple(key[:-1]), []).append(key[-1])
        for parts, here in names.items():
            with _ignore_missing(), self.opened(parts) as folder:
                removed = [_unlink(name, folder) for name in here]
                if any(removed):
                    # One call makes the removal of all of them durable.
                    _sync(folder)
            # A folder that another process has put something in stays.  A put whose folder was
            # removed creates it again.
            with suppress(OSError):
                for end in range(len(parts), 0, -1):
                    with self.opened(parts[: end - 1]) as above:
                        os.rmdir(parts[end - 1], dir_fd=above)

    def list(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """Return at most ``limit`` objects, in the order of their keys."""
        with suppress(FileNotFoundError), self.opened() as root:
            return list(islice(_walk(root, "", prefix, after, limit), limit))
        return []

    def expire(self, before: float, stopped: Callable[[], bool]) -> int:
        """
        Remove the objects that were last put before a time.

        :param before: seconds since the epoch.
        :param stopped: whether to leave the rest for the next time.
        :returns: the number of removed objects.
        """
        removed = 0
        with suppress(FileNotFoundError), self.opened() as root:
            for info in _walk(root, "", "", "", EXPIRY_PAGE):
                if stopped():
                    break
                if info.modified < before:
                    self.remove([info.key.split("/")])
                    removed += 1
        return removed

    def sweep(self) -> int:
        """
        Remove the unfinished uploads of processes that were killed.

        A process holds a lock on the file of its upload, which the kernel releases when the
        process ends.

        :returns: the number of removed files.
        """
        removed = 0
        with suppress(FileNotFoundError), self.opened([INCOMING]) as incoming:
            for name in os.listdir(incoming):
                with _ignore_missing():
                    flags = os.O_RDWR | os.O_NONBLOCK | _NO_LINKS
                    file = os.open(name, flags, dir_fd=incoming)
                    try:
                        if _lock(file):
                            os.unlink(name, dir_fd=incoming)
                            removed += 1
                    finally:
                        os.close(file)
        return removed

    def timestamp(self, seconds: float, replaced: int) -> int:
        """
        Return the modification time of a new file, in nanoseconds; never the same twice, so
        that files of the same length have different ETags.

        :param replaced: that of the file that it replaces.
        """
        with self._timestamp_lock:
            self._timestamp = max(int(seconds * 1e9), self._timestamp + 1, replaced + 1)
            return self._timestamp


class ObjectFile:
    """
    An object that is open for reading.  It closes itself at its end, and when it is dropped.

    A cancelled read still runs in its thread; closing waits for it.

    :ivar status: of the file.
    :ivar remaining: bytes that have not been read.
    """

    def __init__(self, descriptor: int, status: os.stat_result) -> None:
        self.status = status
        self.remaining = status.st_size
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._lock = threading.Lock()

    def read(self) -> bytes:
        """
        Return the next piece.

        :raises OSError: if the file has been truncated.
        """
        with self._lock:
            piece = self._file.read(min(PIECE, self.remaining))
            if not piece and self.remaining:
                raise OSError(errno.EIO, "the file was truncated")
            self.remaining -= len(piece)
            if not self.remaining:
                self._file.close()
            return piece

    def take(self) -> IO[bytes]:
        """Return the file, which the caller closes."""
        self.remaining = 0
        return self._file

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()


@attrs.define(eq=False, slots=False)
class ObjectWriter:
    """
    An object that is being written to a temporary file, invisible until it is published.

    Its calls may overlap in several threads, because a cancelled call still runs.

    :param parts: of the key.
    :param seconds: returns the time.
    """

    folder: Folder
    parts: Sequence[str]
    _seconds: Callable[[], float]
    lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _file: int | None = attrs.field(default=None, init=False)
    _name: str = attrs.field(default="", init=False)
    _aborted: bool = attrs.field(default=False, init=False)
    _replaces: bool = attrs.field(default=False, init=False)
    _published: tuple[int, int] | None = attrs.field(default=None, init=False)

    def write(self, piece: bytes) -> None:
        """Append to the file."""
        with self.lock:
            self._append(piece)

    def _append(self, piece: bytes, incoming: int | None = None) -> int:
        file = self._opened(incoming)
        # An empty object, as for a superseded upload, fits on a full disk.
        if piece and self.folder.space is not None:
            self.folder.space.require(len(piece))
        view = memoryview(piece)
        while view:
            view = view[os.write(file, view) :]
        return file

    def finish(self, last: bytes, incoming: int, folder: int | None) -> None:
        """
        Make the file durable, under its temporary name; its lock is held.

        :param last: is appended before.
        :param incoming: the open folder of unfinished files.
        :param folder: the open folder of the key, if it exists.
        """
        file = self._append(last, incoming)
        replaced = 0
        if folder is not None:
            with _ignore_missing():
                replaced = _status(self.parts[-1], folder).st_mtime_ns
        self._replaces = bool(replaced)
        timestamp = self.folder.timestamp(self._seconds(), replaced)
        os.utime(file, ns=(timestamp, timestamp))
        os.fsync(file)

    def rename(self, incoming: int, folder: int) -> None:
        """
        Rename a file that is finished to its key; its lock is held.

        :param incoming: the open folder of unfinished files.
        :param folder: the open folder of the key.
        """
        os.rename(self._name, self.parts[-1], src_dir_fd=incoming, dst_dir_fd=folder)
        if not self._replaces and self._file is not None:
            self._published = _identity(os.fstat(self._file))

    def abort(self) -> None:
        """
        Remove the file, even if it has just been published.

        A file that has replaced an older one stays, because the older one is gone and a whole
        object is better than none.  So does a file that another put has published since.
        """
        with self.lock:
            self._aborted = True
            if self._file is not None:
                try:
                    with suppress(FileNotFoundError), self.folder.opened([INCOMING]) as incoming:
                        os.unlink(self._name, dir_fd=incoming)
                finally:
                    self.close()
            if self._published is not None:
                with suppress(FileNotFoundError):
                    if _identity(self.folder.stat(self.parts)) == self._published:
                        self.folder.remove([self.parts])

    def _opened(self, incoming: int | None) -> int:
        if self._aborted:
            raise OSError(errno.ECANCELED, "the upload was cancelled")
        if self._file is not None:
            return self._file
        if incoming is None:
            with self.folder.opened([INCOMING], make=True) as incoming:
                return self._create(incoming)
        return self._create(incoming)

    def _create(self, incoming: int) -> int:
        mode = self.folder.file_mode
        for _ in range(_ATTEMPTS):
            self._name = secrets.token_hex(16)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS
            self._file = os.open(self._name, flags, mode, dir_fd=incoming)
            os.fchmod(self._file, mode)
            if _lock(self._file) and os.fstat(self._file).st_nlink:
                return self._file
            # A sweep locked the file first, and removes it.
            self.close()
        raise OSError(errno.EAGAIN, "another process keeps removing the unfinished file")

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def publish(files: Mapping[ObjectWriter, bytes]) -> None:
    """
    Make files of one bucket durable, and rename them to their keys in place of older files.

    Each folder is synced once.  If this fails, each of them has to be aborted.

    :param files: what is appended to each of them before.
    """
    if not files:
        return
    bucket = next(iter(files)).folder
    with ExitStack() as stack:
        incoming = stack.enter_context(bucket.opened([INCOMING], make=True))
        folders: dict[tuple[str, ...], list[ObjectWriter]] = {}
        for writer in files:
            stack.enter_context(writer.lock)
            folders.setdefault(tuple(writer.parts[:-1]), []).append(writer)
        for parts, writers in folders.items():
            with ExitStack() as existing:
                folder = None
                with _ignore_missing():
                    folder = existing.enter_context(bucket.opened(parts))
                for writer in writers:
                    writer.finish(files[writer], incoming, folder)
        for parts, writers in folders.items():
            _rename(parts, writers, incoming)
        for writer in files:
            writer.close()


def _rename(parts: Sequence[str], writers: Sequence[ObjectWriter], incoming: int) -> None:
    """Rename files to keys in one folder, and sync it."""
    left = list(writers)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with writers[0].folder.opened(parts, make=True) as folder:
                while left:
                    left[-1].rename(incoming, folder)
                    left.pop()
                _sync(folder)
                return
        except FileNotFoundError:
            # A delete may remove the empty folder after it was opened.
            if attempt == _ATTEMPTS:
                raise


def object_info(key: str, status: os.stat_result) -> ObjectInfo:
    """Return what the port reports of a file; the ETag has nginx's format."""
    return ObjectInfo(
        key=key,
        length=status.st_size,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}",
        modified=status.st_mtime_ns / 1e9,
    )


def _unlink(name: str, folder: int) -> bool:
    """Remove a file, and return whether it existed."""
    with _ignore_missing():
        os.unlink(name, dir_fd=folder)
        return True
    return False


@contextmanager
def _ignore_missing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SUCH_FILE:
            raise


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def _lock(file: int) -> bool:
    """Lock a file unless another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(folder: int) -> None:
    """Make the names in an open folder durable."""
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network file systems do not support this on a folder.
        if error.errno != errno.EINVAL:
            raise


def _status(name: str, folder: int) -> os.stat_result:
    return _regular(os.stat(name, dir_fd=folder, follow_symlinks=False))


def _regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR, "not a regular file")
    return status


def _walk(folder: int, path: str, prefix: str, after: str, page: int) -> Iterator[ObjectInfo]:
    """Yield the objects below an open folder, in order; at most a page of names is kept."""
    last = ""
    while True:
        names = heapq.nsmallest(page, _children(folder, path, prefix, after, last))
        for name in names:
            # An entry may be removed during the walk.
            with _ignore_missing():
                if name.endswith("/"):
                    below = os.open(name[len(path) : -1], _FOLDER | _NO_LINKS, dir_fd=folder)
                    try:
                        yield from _walk(below, name, prefix, after, page)
                    finally:
                        os.close(below)
                else:
                    status = os.stat(name[len(path) :], dir_fd=folder, follow_symlinks=False)
                    yield object_info(name, _regular(status))
        if len(names) < page:
            return
        last = names[-1]


def _children(folder: int, path: str, prefix: str, after: str, last: str) -> Iterator[str]:
    """
    Yield the keys of the files in a folder, and of its folders with a slash, by which they
    sort among the keys.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            below = entry.is_dir(follow_symlinks=False)
            name = path + entry.name + "/" * below
            if (
                (below or entry.is_file(follow_symlinks=False))
                and (name.startswith(prefix) or (below and prefix.startswith(name)))
                and (name > after or (below and after.startswith(name)))
                and name > last
                and not entry.name.startswith(".")
            ):
                yield name
