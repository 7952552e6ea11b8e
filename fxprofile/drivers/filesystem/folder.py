"""
The files of a bucket: calls that block, for threads.

Everything is reached from an open folder by one name at a time, and no link is
followed, so that whatever lies in the folder no path leads out of it.  Only the folder
of the bucket itself may be a link.
"""

from __future__ import annotations

import errno
import heapq
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fxprofile.model.ports import ObjectInfo

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: For everything below the bucket's folder.
LINKLESS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
#: What the system says when there is no such file, or something that is not one.
NO_SUCH_FILE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO}
)


class Folder:
    """
    The folder of a bucket.

    :param path: is made when it is first written to.
    :param shared: whether the group may read it.
    """

    def __init__(self, path: Path, shared: bool) -> None:
        self.path = path
        self.file_mode = 0o640 if shared else 0o600
        self._folder_mode = 0o750 if shared else 0o700
        self._stamp_lock = threading.Lock()
        self._stamp = 0

    @contextmanager
    def opened(self, parts: Sequence[str] = (), make: bool = False) -> Iterator[int]:
        """
        Open the bucket's folder or one below it.

        :param make: whether to make the folders that are missing.
        :raises OSError: if there is none.
        """
        if make:
            self._make_root()
        current = os.open(self.path, FOLDER)
        try:
            for part in parts:
                below = self._below(current, part, make)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    def _make_root(self) -> None:
        missing: list[Path] = []
        path = self.path
        while not path.exists():
            missing.append(path)
            path = path.parent
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir()
                path.chmod(self._folder_mode)

    def _below(self, above: int, name: str, make: bool) -> int:
        try:
            return os.open(name, FOLDER | LINKLESS, dir_fd=above)
        except FileNotFoundError:
            if not make:
                raise
        with suppress(FileExistsError):
            os.mkdir(name, self._folder_mode, dir_fd=above)
        below = os.open(name, FOLDER | LINKLESS, dir_fd=above)
        try:
            # The umask of the process is for files that nobody thought about.
            os.fchmod(below, self._folder_mode)
            sync_folder(above)
        except BaseException:
            os.close(below)
            raise
        return below

    def open_file(self, parts: Sequence[str]) -> tuple[int, os.stat_result]:
        """
        Open an object.

        :returns: a descriptor, and what the system knows of the file.
        :raises OSError: with one of :data:`NO_SUCH_FILE` if there is none.
        """
        with self.opened(parts[:-1]) as folder:
            # A pipe that somebody left here must not stop the thread.
            file = os.open(parts[-1], os.O_RDONLY | os.O_NONBLOCK | LINKLESS, dir_fd=folder)
        try:
            return file, _of_a_file(os.fstat(file))
        except BaseException:
            os.close(file)
            raise

    def look(self, parts: Sequence[str]) -> os.stat_result:
        """
        What the system knows of the file of an object.

        :raises OSError: with one of :data:`NO_SUCH_FILE` if there is none.
        """
        with self.opened(parts[:-1]) as folder:
            return _of_a_file(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False))

    def remove(self, parts: Sequence[str]) -> None:
        """Remove an object, if it is there, and the folders that are empty without it."""
        try:
            with self.opened(parts[:-1]) as folder:
                os.unlink(parts[-1], dir_fd=folder)
                sync_folder(folder)
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise
        for end in range(len(parts) - 1, 0, -1):
            try:
                with self.opened(parts[: end - 1]) as above:
                    # Fails if somebody has put something in.  A put that finds the
                    # folder gone makes it again.
                    os.rmdir(parts[end - 1], dir_fd=above)
            except OSError:
                return

    def list(self, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
        """At most ``limit`` objects, in the order of their keys."""
        found: list[ObjectInfo] = []
        if limit > 0:
            with suppress(FileNotFoundError), self.opened() as root:
                for info in _walk(root, "", prefix, after, limit):
                    found.append(info)
                    if len(found) >= limit:
                        break
        return found

    def expire(self, before: float, stopped: Callable[[], bool]) -> int:
        """
        Remove the objects that were last put before a time.

        :param before: seconds since the epoch.
        :param stopped: whether to leave the rest for another time.
        :returns: how many there were.
        """
        removed = 0
        with suppress(FileNotFoundError), self.opened() as root:
            for parts in _older(root, [], before):
                if stopped():
                    break
                self.remove(parts)
                removed += 1
        return removed

    def stamp(self, seconds: float, above: int) -> int:
        """
        The time to give to a new file, in nanoseconds: never the same one twice, so
        that files of the same length have different tags.

        :param above: that of the file it replaces.
        """
        with self._stamp_lock:
            self._stamp = max(int(seconds * 1e9), self._stamp + 1, above + 1)
            return self._stamp


def object_info(key: str, status: os.stat_result) -> ObjectInfo:
    """What a bucket says of a file; the tag is made as nginx makes it."""
    return ObjectInfo(
        key=key,
        length=status.st_size,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}",
        modified=status.st_mtime_ns / 1e9,
    )


def sync_folder(folder: int) -> None:
    """Make the names in an open folder durable."""
    try:
        os.fsync(folder)
    except OSError as error:
        # Some network file systems have nothing to do here, and say so this way.
        if error.errno != errno.EINVAL:
            raise


def _of_a_file(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EISDIR, "not a file")
    return status


def _walk(folder: int, path: str, prefix: str, after: str, page: int) -> Iterator[ObjectInfo]:
    """The objects below an open folder, in order; at most a page of names is kept."""
    handled = ""
    while True:
        names = heapq.nsmallest(page, _children(folder, path, prefix, after, handled))
        for name in names:
            try:
                if name.endswith("/"):
                    below = os.open(name[len(path) : -1], FOLDER | LINKLESS, dir_fd=folder)
                    try:
                        yield from _walk(below, name, prefix, after, page)
                    finally:
                        os.close(below)
                else:
                    status = os.stat(name[len(path) :], dir_fd=folder, follow_symlinks=False)
                    yield object_info(name, _of_a_file(status))
            except OSError as error:
                if error.errno not in NO_SUCH_FILE:
                    raise
                # It went while we looked.
        if len(names) < page:
            return
        handled = names[-1]


def _children(folder: int, path: str, prefix: str, after: str, handled: str) -> Iterator[str]:
    """
    The keys of the files in a folder, and of the folders in it with a slash behind,
    which is where the order of keys has them.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = path + entry.name
            if entry.is_dir(follow_symlinks=False):
                name += "/"
                wanted = (name.startswith(prefix) or prefix.startswith(name)) and (
                    name > after or after.startswith(name)
                )
            else:
                wanted = (
                    name.startswith(prefix)
                    and name > after
                    and entry.is_file(follow_symlinks=False)
                )
            if wanted and name > handled:
                yield name


def _older(folder: int, parts: list[str], before: float) -> Iterator[list[str]]:
    """The parts of the keys of old objects below an open folder, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            here = [*parts, entry.name]
            try:
                if entry.is_dir(follow_symlinks=False):
                    below = os.open(entry.name, FOLDER | LINKLESS, dir_fd=folder)
                    try:
                        yield from _older(below, here, before)
                    finally:
                        os.close(below)
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                    yield here
            except OSError as error:
                if error.errno not in NO_SUCH_FILE:
                    raise
