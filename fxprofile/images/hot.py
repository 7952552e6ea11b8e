"""
The public bucket behind a small memory.

What many ask for at the same time is got once, and stays in memory for those who come
after.  It is never older than :data:`FRESH_SECONDS`: then the bucket is asked whether the
object is still there and still the same.  So a deleted avatar is served for at most that
long.  That an object is not there is never remembered.

The memory is bounded by what it really holds: objects that are known, objects that are
on their way in, and objects that were put out while a slow client still reads them.  When
there is no room, or the object is large, its bytes go straight from the bucket to the
client.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from twisted.internet.interfaces import IReactorTime

from fxprofile.aio import read_all
from fxprofile.errors import ObjectNotFound, StorageError
from fxprofile.images.flights import Flights
from fxprofile.interfaces import Body, IBucket
from fxprofile.model import ObjectInfo

#: How long an object is served from memory before the bucket is asked again, in seconds.
FRESH_SECONDS: Final = 30.0

#: How many bytes are held at most.
MAX_BYTES: Final = 64 << 20

#: A longer object is not held.
MAX_OBJECT_BYTES: Final = 256 << 10

#: About what an object costs besides its bytes.
OVERHEAD: Final = 1024

_PIECE = 1 << 16


@dataclass(frozen=True)
class Picture:
    """
    An object, and its bytes.  Whoever gets one closes the body.

    :ivar source: ``memory`` or ``bucket``.
    """

    info: ObjectInfo
    body: Body
    source: str


class HotPictures:
    """
    Objects of a bucket, the hot ones from memory.

    :param bucket: an :class:`fxprofile.interfaces.IBucket`.
    :param clock: tells how old something is.
    :param max_bytes: how much is held at most.
    :param max_object: a longer object is not held.
    :param fresh: seconds before the bucket is asked again.
    """

    def __init__(
        self,
        *,
        bucket: IBucket,
        clock: IReactorTime,
        max_bytes: int = MAX_BYTES,
        max_object: int = MAX_OBJECT_BYTES,
        fresh: float = FRESH_SECONDS,
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_object = max_object
        self._fresh = fresh
        self._known: OrderedDict[str, _Held] = OrderedDict()
        self._flights: Flights[_Held | _Loose] = Flights()
        self._used = 0

    @property
    def used(self) -> int:
        """How many bytes are held, the overhead included."""
        return self._used

    async def open(self, key: str) -> Picture:
        """
        An object with its bytes.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: here, or out of the body.
        """
        held = self._fresh_one(key)
        if held is not None:
            return Picture(held.info, _HeldBody(held), "memory")
        got = await self._flights.join(key, lambda: self._get(key))
        if isinstance(got, _Held):
            return Picture(got.info, _HeldBody(got), "bucket")
        info, body = got.claim() or await self._bucket.get(key=key)
        return Picture(info, body, "bucket")

    async def look(self, key: str) -> tuple[ObjectInfo, str]:
        """
        An object without its bytes, and where that is known from.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: if nobody knows.
        """
        held = self._fresh_one(key)
        if held is not None:
            return held.info, "memory"
        return await self._bucket.head(key=key), "bucket"

    def _fresh_one(self, key: str) -> _Held | None:
        held = self._known.get(key)
        if held is None or self._clock.seconds() - held.seen >= self._fresh:
            return None
        self._known.move_to_end(key)
        return held

    async def _get(self, key: str) -> _Held | _Loose:
        # The age counts from before the question: the answer may be as old as that.
        now = self._clock.seconds()
        held = self._known.get(key)
        if held is not None:
            if await self._is_still(held):
                held.seen = now
                return held
            self._forget(key)
        info, body = await self._bucket.get(key=key)
        size = info.length + OVERHEAD
        if info.length > self._max_object or not self._make_room(size):
            return _Loose(info, body)
        self._used += size
        try:
            data = await _exactly(info, body)
        except BaseException:
            self._used -= size
            raise
        self._forget(key)
        held = self._known[key] = _Held(info, data, now, self._settle)
        return held

    async def _is_still(self, held: _Held) -> bool:
        try:
            info = await self._bucket.head(key=held.info.key)
        except ObjectNotFound:
            self._forget(held.info.key)
            raise
        return (info.etag, info.length) == (held.info.etag, held.info.length)

    def _make_room(self, size: int) -> bool:
        while self._used + size > self._max_bytes:
            # Putting out what somebody still reads would free nothing.
            oldest = next((key for key, held in self._known.items() if not held.readers), None)
            if oldest is None:
                return False
            self._forget(oldest)
        return True

    def _forget(self, key: str) -> None:
        held = self._known.pop(key, None)
        if held is not None:
            held.known = False
            self._settle(held)

    def _settle(self, held: _Held) -> None:
        if held.counted and not held.known and not held.readers:
            held.counted = False
            self._used -= len(held.data) + OVERHEAD


async def _exactly(info: ObjectInfo, body: Body) -> bytes:
    try:
        data = await read_all(body, info.length)
    except OverflowError:
        raise StorageError(f"get {info.key}: more than {info.length} bytes") from None
    if len(data) < info.length:
        raise StorageError(f"get {info.key}: {len(data)} of {info.length} bytes")
    return data


class _Held:
    """
    An object in memory.

    :ivar seen: when the bucket was last asked about it.
    :ivar known: whether it can still be found.
    :ivar readers: how many bodies of it are open.
    :ivar counted: whether its bytes count as held.
    """

    def __init__(
        self, info: ObjectInfo, data: bytes, seen: float, settle: Callable[[_Held], None]
    ) -> None:
        self.info = info
        self.data = data
        self.seen = seen
        self.known = True
        self.readers = 0
        self.counted = True
        self._settle = settle

    def left(self) -> None:
        """A reader is done."""
        self.readers -= 1
        self._settle(self)


class _HeldBody:
    """A :class:`fxprofile.interfaces.Body` that shares the bytes in memory."""

    def __init__(self, held: _Held) -> None:
        self._held: _Held | None = held
        self._at = 0
        held.readers += 1

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._held is None or self._at >= len(self._held.data):
            raise StopAsyncIteration
        piece = self._held.data[self._at : self._at + _PIECE]
        self._at += len(piece)
        return piece

    async def aclose(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.left()


class _Loose:
    """An open object that is not held: for one of those who wait for it."""

    def __init__(self, info: ObjectInfo, body: Body) -> None:
        self._open: tuple[ObjectInfo, Body] | None = (info, body)

    def claim(self) -> tuple[ObjectInfo, Body] | None:
        """The object, for who comes first."""
        opened, self._open = self._open, None
        return opened
