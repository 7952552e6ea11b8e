"""
The filesystem driver of :class:`fxprofile.model.ports.IBucket`.

Several processes of one host may use the same folder.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.deferreds.services import Repeating
from fxprofile.deferreds.tasks import detached
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.filesystem.folder import (
    NO_SUCH_FILE,
    Folder,
    ObjectFile,
    ObjectWriter,
    object_info,
    publish,
)
from fxprofile.drivers.filesystem.space import DiskSpace
from fxprofile.model.errors import BodyMismatch, ObjectNotFound, StorageError
from fxprofile.model.keys import check_key_prefix, key_parts
from fxprofile.model.ports import Body, IBucket, NewObject, ObjectInfo

#: Seconds from one clean-up to the next.
CLEANING_PERIOD: Final = 3600.0

T = TypeVar("T")

_log = Logger()


@implementer(IBucket)
@attrs.define(eq=False, slots=False, repr=False)
class FilesystemBucket(Service):
    """
    A bucket whose objects are files; their keys are their paths.

    It works without being started.  Started, it removes the unfinished files of killed
    processes, and expired objects.

    :param threads: where files are accessed.
    :param directory: the folder of this bucket alone.
    :param clock: gives the modification times of objects.
    :param expire_after: the age at which an object is removed, in seconds; None for never.
    :param shared: whether the group may read the files, as a web server does.
    :param space: what objects may take of the disk; None: all of it.
    """

    _threads: Threads
    _directory: Path
    _clock: IReactorTime
    _expire_after: float | None = None
    _shared: bool = False
    _space: DiskSpace | None = None
    _stopping: threading.Event = attrs.field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self.folder = Folder(self._directory, self._shared, self._space)
        self._cleaning = Repeating(self._clock, CLEANING_PERIOD, self.clean, f"clean {self}")

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
        Create the folder if it is missing; this blocks.

        :raises OSError: if it is not writable.
        """
        self.folder.make()

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        """
        Write an object to a temporary file, which is then renamed to its key.

        The caller closes the body.
        """
        writer = self._writer(key)
        call = f"put {key}"
        try:
            received, last = 0, b""
            async for piece in body:
                received += len(piece)
                if received > length:
                    raise BodyMismatch(f"{call}: more than {length} bytes")
                if received == length:
                    # It is written and published in one call.
                    last += piece
                else:
                    await self.run(call, partial(writer.write, piece))
            if received < length:
                raise BodyMismatch(f"{call}: {received} of {length} bytes")
            await self.run(call, partial(publish, {writer: last}))
        except BaseException as error:
            aborting = detached(self._abort(call, writer))
            if not isinstance(error, GeneratorExit):  # A closed coroutine cannot wait.
                await aborting
            raise

    async def put_all(self, *, objects: Sequence[NewObject]) -> None:
        """Write the objects in one call of a thread, and sync each folder once."""
        files = {self._writer(each.key): each.data for each in objects}
        call = f"put {', '.join(each.key for each in objects)}"
        try:
            await self.run(call, partial(publish, files))
        except BaseException as error:
            aborting = detached(self._abort(call, *files))
            if not isinstance(error, GeneratorExit):  # A closed coroutine cannot wait.
                await aborting
            raise

    def _writer(self, key: str) -> ObjectWriter:
        return ObjectWriter(self.folder, key_parts(key), self._clock.seconds)

    async def _abort(self, call: str, *writers: ObjectWriter) -> None:
        def abort() -> None:
            for writer in writers:
                writer.abort()

        try:
            await self._threads.run(abort)
        except OSError:
            # The next clean-up tries again.
            _log.failure("Cannot remove the unfinished files of {call}", call=call)

    async def get(self, *, key: str, as_file: bool = False) -> tuple[ObjectInfo, Body]:
        """Open an object, and read its first 64 KiB in the same call of a thread."""
        opening = partial(self.folder.open_object, key_parts(key), read=not as_file)
        file, first = await self.run(f"get {key}", opening, ObjectNotFound)
        return object_info(key, file.status), _FileBody(self, key, file, first)

    async def head(self, *, key: str) -> ObjectInfo:
        parts = key_parts(key)
        status = await self.run(f"head {key}", lambda: self.folder.stat(parts), ObjectNotFound)
        return object_info(key, status)

    async def delete(self, *, keys: Sequence[str]) -> None:
        remove = partial(self.folder.remove, [key_parts(key) for key in keys])
        await self.run(f"delete {', '.join(keys)}", remove)

    async def list(self, *, prefix: str, after: str, limit: int) -> Sequence[ObjectInfo]:
        check_key_prefix(prefix)
        check_key_prefix(after)
        return await self.run("list", lambda: self.folder.list(prefix, after, limit))

    async def check(self) -> None:
        await self.run("check", self.folder.check)

    async def clean(self) -> None:
        """
        Remove the unfinished files of killed processes, and expired objects.

        :raises StorageError: if something cannot be removed.
        """
        unfinished = await self.run("sweep", self.folder.sweep)
        if unfinished:
            _log.warn(
                "Removed {count} unfinished uploads from {bucket}", count=unfinished, bucket=self
            )
        if self._expire_after is not None:
            before = self._clock.seconds() - self._expire_after
            expire = partial(self.folder.expire, before, self._stopping.is_set)
            expired = await self.run("expire", expire)
            if expired:
                _log.info(
                    "Removed {count} expired objects from {bucket}", count=expired, bucket=self
                )

    async def run(
        self, what: str, call: Callable[[], T], missing: type[StorageError] = StorageError
    ) -> T:
        """
        Run a blocking call in a thread, and translate its errors.

        :param what: names the call in the text of an error.
        :param missing: raised if there is no such file.
        :raises StorageError: for any other error of the system.
        """
        running = self._threads.run(call)
        try:
            return await running
        except OSError as error:
            text = f"{what:.200} in {self.folder.path}: {error.strerror or error}"
            raise (missing if error.errno in NO_SUCH_FILE else StorageError)(text) from error
        except GeneratorExit:
            # The coroutine is closed: the outcome has no receiver.
            running.addErrback(lambda failure: None)
            raise

    def __repr__(self) -> str:
        return f"<FilesystemBucket {str(self.folder.path)!r}>"


@attrs.define(eq=False, slots=False)
class _FileBody:
    """The bytes of a file, read as they are asked for."""

    _bucket: FilesystemBucket
    _key: str
    _file: ObjectFile | None
    _first: bytes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece, self._first = self._first, b""
        if piece:
            return piece
        if self._file is None or not self._file.remaining:
            raise StopAsyncIteration
        try:
            return await self._bucket.run(f"get {self._key}", self._file.read)
        except BaseException as error:
            closing = Deferred.fromCoroutine(self.aclose())
            if not isinstance(error, GeneratorExit):  # A closed coroutine cannot wait.
                await closing
            raise

    def take(self) -> IO[bytes]:
        """Return the file, which the caller closes."""
        file, self._file = self._file, None
        if file is None:
            raise ValueError("the body is closed")
        return file.take()

    async def aclose(self) -> None:
        file, self._file = self._file, None
        self._first = b""
        if file is not None and file.remaining:
            await detached(self._bucket.run(f"close {self._key}", file.close))
