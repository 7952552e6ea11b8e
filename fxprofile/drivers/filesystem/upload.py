"""
Files that are being written: calls that block, for threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from fxprofile.drivers.filesystem.folder import LINKLESS, NO_SUCH_FILE, Folder, sync_folder

#: Where uploads in progress are.  No key begins with a dot.
INCOMING: Final = ".incoming"

_TRIES = 10


class Upload:
    """
    A file that is being written, and that nobody sees until it is whole.

    Its calls come from several threads: one that was given up may still run while
    the next begins.

    :param parts: of the key.
    :param seconds: gives the time.
    """

    def __init__(self, folder: Folder, parts: Sequence[str], seconds: Callable[[], float]) -> None:
        self._folder = folder
        self._parts = parts
        self._seconds = seconds
        self._lock = threading.Lock()
        self._file: int | None = None
        self._name = ""
        self._over = False
        self._published: tuple[int, int] | None = None

    def write(self, piece: bytes) -> None:
        """Add to the file."""
        with self._lock:
            file = self._open()
            view = memoryview(piece)
            while view:
                view = view[os.write(file, view) :]

    def publish(self) -> None:
        """Make the file durable, and give it its name in place of an older file."""
        with self._lock:
            file = self._open()
            replaced = self._finish(file)
            self._rename(replaced)
            if not replaced:
                self._published = _identity(os.fstat(file))
            self._close()

    def abort(self) -> None:
        """
        Leave nothing behind, although the file may already have its name.

        What has taken the place of an older file stays: the older one is gone, and whole
        bytes are better than none.  So does what somebody else has put there since.
        """
        with self._lock:
            self._over = True
            if self._file is not None:
                try:
                    with suppress(FileNotFoundError), self._folder.opened([INCOMING]) as incoming:
                        os.unlink(self._name, dir_fd=incoming)
                finally:
                    self._close()
            if self._published is not None:
                with suppress(FileNotFoundError):
                    if _identity(self._folder.look(self._parts)) == self._published:
                        self._folder.remove(self._parts)

    def _open(self) -> int:
        if self._over:
            raise OSError(errno.ECANCELED, "the upload was given up")
        for _ in range(_TRIES):
            if self._file is not None:
                return self._file
            self._create()
        raise OSError(errno.EAGAIN, "others remove the files of uploads")

    def _create(self) -> None:
        name = secrets.token_hex(16)
        with self._folder.opened([INCOMING], make=True) as incoming:
            file = os.open(
                name,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | LINKLESS,
                self._folder.file_mode,
                dir_fd=incoming,
            )
        self._file, self._name = file, name
        os.fchmod(file, self._folder.file_mode)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        else:
            taken = os.fstat(file).st_nlink == 0
        if taken:
            # A sweep came before the lock, and removes the file.
            self._close()

    def _finish(self, file: int) -> bool:
        """
        Make the bytes durable.

        :returns: whether there is an older file under the key.
        """
        try:
            older = self._folder.look(self._parts).st_mtime_ns
        except OSError as error:
            if error.errno not in NO_SUCH_FILE:
                raise
            older = None
        stamp = self._folder.stamp(self._seconds(), older or 0)
        os.utime(file, ns=(stamp, stamp))
        os.fsync(file)
        return older is not None

    def _rename(self, replaced: bool) -> None:
        for _ in range(_TRIES):
            # A delete may take the empty folder away after we have opened it.
            with suppress(FileNotFoundError):
                self._rename_once(replaced)
                return
        self._rename_once(replaced)

    def _rename_once(self, replaced: bool) -> None:
        name = self._parts[-1]
        with (
            self._folder.opened([INCOMING]) as incoming,
            self._folder.opened(self._parts[:-1], make=True) as folder,
        ):
            os.rename(self._name, name, src_dir_fd=incoming, dst_dir_fd=folder)
            try:
                sync_folder(folder)
            except OSError:
                # See abort.
                if not replaced:
                    os.unlink(name, dir_fd=folder)
                raise

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_ino, status.st_mtime_ns


def sweep(folder: Folder) -> int:
    """
    Remove what uploads left behind whose processes were killed.

    A process holds a lock on the file of its upload, and the system gives the lock back
    when the process ends, however it ends.

    :returns: how many there were.
    """
    removed = 0
    with suppress(FileNotFoundError), folder.opened([INCOMING]) as incoming:
        for name in os.listdir(incoming):
            removed += _sweep_one(incoming, name)
    return removed


def _sweep_one(incoming: int, name: str) -> bool:
    try:
        file = os.open(name, os.O_RDWR | os.O_NONBLOCK | LINKLESS, dir_fd=incoming)
    except OSError as error:
        if error.errno in NO_SUCH_FILE:
            return False
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=incoming)
    except (BlockingIOError, FileNotFoundError):
        return False  # It is being written, or has its name by now.
    finally:
        os.close(file)
    return True
