"""
Buckets that are folders.

Several processes of one machine may use the same folder.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import IO, Final, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.deferreds.services import Repeating
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.filesystem.folder import NO_SUCH_FILE, Folder, object_info
from fxprofile.drivers.filesystem.upload import INCOMING, Upload, sweep
from fxprofile.model.errors import BodyMismatch, ObjectNotFound, StorageError
from fxprofile.model.keys import check_key_prefix, key_parts
from fxprofile.model.ports import Body, IBucket, ObjectInfo

#: Seconds from one cleaning to the next.
CLEANING_PERIOD: Final = 3600.0

#: The most that a read of a file takes, in bytes.
PIECE: Final = 1 << 16

P = ParamSpec("P")
T = TypeVar("T")

_log = Logger()


@implementer(IBucket)
class FilesystemBucket(Service):
    """
    A bucket whose objects are files; their keys are their paths.

    It works without being started; started, it removes from time to time what killed
    processes left behind and what is too old.

    :param threads: where files are touched.
    :param directory: the folder of this bucket alone.
    :param clock: dates the objects.
    :param expire_after: the age at which an object is removed, in seconds; never if
        left out.
    :param shared: whether the group may read the files, as a web server does.
    """

    def __init__(
        self,
        threads: Threads,
        directory: Path,
        clock: IReactorTime,
        expire_after: float | None = None,
        shared: bool = False,
    ) -> None:
        self._threads = threads
        self.folder = Folder(Path(directory), shared)
        self._clock = clock
        self._expire_after = expire_after
        self._stopping = threading.Event()
        self._cleaning = Repeating(clock, CLEANING_PERIOD, self.clean, f"clean {self}")

    def startService(self) -> None:
        super().startService()
        self._stopping.clear()
        self._cleaning.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._stopping.set()
        return self._cleaning.stopService()

    def make_folder(self) -> None:
        """
        Make the folder, unless it is there; this blocks.

        :raises OSError: if nothing can be put into it.
        """
        try:
            with (
                self.folder.opened([INCOMING], make=True) as incoming,
                self.folder.opened() as root,
            ):
                for opened in (root, incoming):
                    if not os.access(".", os.W_OK | os.X_OK, dir_fd=opened, effective_ids=True):
                        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder.path)) from None

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Write an object: into a file of its own, which then takes the name.

        The caller closes the body.
        """
        upload = Upload(self.folder, key_parts(key), self._clock.seconds)
        try:
            received = 0
            async for piece in body:
                received += len(piece)
                if received > length:
                    raise BodyMismatch(f"put {key}: more than {length} bytes")
                await self._run(f"put {key}", upload.write, piece)
            if received < length:
                raise BodyMismatch(f"put {key}: {received} of {length} bytes")
            await self._run(f"put {key}", upload.publish)
        except GeneratorExit:
            # Nothing can be waited for any more.
            self.forget(upload.abort)
            raise
        except BaseException:
            await detached(self._abort(key, upload))
            raise

    async def _abort(self, key: str, upload: Upload) -> None:
        try:
            await self._threads.run(upload.abort)
        except OSError:
            # The next sweep tries again.
            _log.failure("Cannot remove what is left of a put of {key}", key=key)

    async def get(self, *, key: str) -> tuple[ObjectInfo, Body]:
        """Open an object.  Up to 64 KiB are read at once, in the same call of a thread."""
        body = _FileBody(self, key)
        return await body.open(), body

    async def head(self, *, key: str) -> ObjectInfo:
        status = await self.look(f"head {key}", self.folder.look, key_parts(key))
        return object_info(key, status)

    async def delete(self, *, keys: Sequence[str]) -> None:
        paths = [key_parts(key) for key in keys]

        def remove_in_thread() -> None:
            for path in paths:
                self.folder.remove(path)

        await self._run(f"delete {', '.join(keys)}", remove_in_thread)

    async def list(self, *, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        check_key_prefix(prefix)
        check_key_prefix(after)
        return await self._run("list", self.folder.list, prefix, after, limit)

    async def check(self) -> None:
        def check_in_thread() -> None:
            with self.folder.opened(make=True) as folder, os.scandir(folder) as entries:
                next(entries, None)

        await self._run("check", check_in_thread)

    async def clean(self) -> None:
        """
        Remove what killed processes left behind, and what is too old.

        :raises StorageError: if something cannot be removed.
        """
        left = await self._run("sweep", sweep, self.folder)
        if left:
            _log.warn("Removed {left} unfinished uploads from {bucket}", left=left, bucket=self)
        if self._expire_after is not None:
            before = self._clock.seconds() - self._expire_after
            old = await self._run("expire", self.folder.expire, before, self._stopping.is_set)
            if old:
                _log.info("Removed {old} expired objects from {bucket}", old=old, bucket=self)

    async def look(self, what: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Read files in a thread.

        :param what: for the text of an error.
        :raises ObjectNotFound: if there is no such file.
        :raises StorageError: for any other error of the system.
        """
        try:
            return await self._in_thread(call, *args, **kwargs)
        except OSError as error:
            if error.errno in NO_SUCH_FILE:
                raise ObjectNotFound(self._text(what, error)) from error
            raise StorageError(self._text(what, error)) from error

    async def _run(self, what: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._in_thread(call, *args, **kwargs)
        except OSError as error:
            raise StorageError(self._text(what, error)) from error

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        running = self._threads.run(call, *args, **kwargs)
        try:
            return await running
        except GeneratorExit:
            # Nobody is left to hear how it ends.
            running.addErrback(lambda failure: None)
            raise

    def _text(self, what: str, error: OSError) -> str:
        return f"{what:.200} in {self.folder.path}: {error.strerror or error}"

    async def finally_run(self, call: Callable[[], object]) -> None:
        """Clean up in a thread, whoever stops waiting for it."""
        await detached(self._run("close", call))

    def forget(self, call: Callable[[], object]) -> None:
        """Clean up in a thread, where nothing can be waited for any more."""
        self._threads.run(call).addErrback(
            lambda failure: _log.failure("Cannot clean up", failure=failure)
        )

    def __repr__(self) -> str:
        return f"<FilesystemBucket {str(self.folder.path)!r}>"


class _FileBody:
    """
    The bytes of a file, read as they are asked for.

    As with an upload, a call that was given up may still run in its thread.
    """

    def __init__(self, bucket: FilesystemBucket, key: str) -> None:
        self._bucket = bucket
        self._key = key
        self._parts = key_parts(key)
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._left = 0
        self._first = b""
        self._over = False

    async def open(self) -> ObjectInfo:
        status = await self._in_thread(self._open)
        return object_info(self._key, status)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            piece, self._first = self._first, b""
            return piece
        if self._over or not self._left:
            raise StopAsyncIteration
        return await self._in_thread(self._read)

    async def aclose(self) -> None:
        over, self._over = self._over, True
        self._first = b""
        if not over and self._file is not None:
            await self._bucket.finally_run(self._close)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await self._bucket.look(f"get {self._key}", call)
        except GeneratorExit:
            self._over = True
            self._bucket.forget(self._close)
            raise
        except BaseException:
            self._over = True
            await self._bucket.finally_run(self._close)
            raise

    def _open(self) -> os.stat_result:
        with self._lock:
            self._check_wanted()
            descriptor, status = self._bucket.folder.open_file(self._parts)
            # A file object is closed with the last reference to this, at the latest.
            self._file = os.fdopen(descriptor, "rb", buffering=0)
            self._left = status.st_size
            self._first = self._next()
        return status

    def _read(self) -> bytes:
        with self._lock:
            self._check_wanted()
            return self._next()

    def _next(self) -> bytes:
        piece = b""
        if self._file is not None and self._left:
            piece = self._file.read(min(PIECE, self._left))
            if not piece:
                raise OSError(errno.EIO, "the file became shorter")
        self._left -= len(piece)
        if not self._left:
            self._close_file()
        return piece

    def _close(self) -> None:
        with self._lock:
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _check_wanted(self) -> None:
        if self._over:
            raise OSError(errno.ECANCELED, "nobody waits for this any more")
