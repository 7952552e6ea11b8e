"""
The public bucket behind a small memory.

What many ask for at the same time is got once, and stays in memory for those who come
after.  After :data:`FRESH_SECONDS` the bucket is asked whether the object is still there
and still the same: a deleted avatar is served from memory for at most that long, and a hot
one costs its bucket one ``head`` in that time.  That an object is not there is never
remembered.

Only small objects are held.  A client that reads one slowly keeps it alive when it has been
put out of the memory, but no more than that: it is no longer than what a client may leave
unread of a body that comes straight from the bucket.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.interfaces import IReactorTime

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import ObjectNotFound, StorageError
from fxprofile.model.ports import Body, IBucket, ObjectInfo

#: How long an object is served from memory before the bucket is asked again, in seconds.
FRESH_SECONDS: Final = 2.0

#: How many bytes are held at most.
MAX_BYTES: Final = 64 << 20

#: A longer object is not held.  A photograph of 200 by 200 pixels is shorter.
MAX_OBJECT_BYTES: Final = 128 << 10

#: About what an object costs besides its bytes.
OVERHEAD: Final = 1024


@dataclass
class Held:
    """
    An object in memory.

    :ivar seen: when the bucket was last asked about it, in seconds; what never was in a
        bucket is fresh for ever.
    :ivar source: where it comes from, for the figures.
    """

    info: ObjectInfo
    data: bytes = field(repr=False)
    seen: float = float("inf")
    source: str = "memory"

    def body(self) -> Body:
        """Its bytes in one piece, which is not copied."""
        return BytesBody(self.data, piece=max(1, len(self.data)))


@dataclass(frozen=True)
class Picture:
    """
    An object and its bytes.  Whoever gets one closes the body.

    :ivar source: ``default``, ``memory`` or ``bucket``.
    """

    info: ObjectInfo
    body: Body
    source: str = "bucket"


class HotPictures:
    """
    Objects of a bucket, the hot ones from memory.

    :param bucket: an :class:`fxprofile.model.ports.IBucket`.
    :param clock: tells how old something is.
    :param pinned: objects that are always in memory, and never asked of the bucket.
    :param max_bytes: how much is held at most.
    :param max_object: a longer object is not held.
    :param fresh: seconds before the bucket is asked again.
    """

    def __init__(
        self,
        *,
        bucket: IBucket,
        clock: IReactorTime,
        pinned: Mapping[str, Held],
        max_bytes: int = MAX_BYTES,
        max_object: int = MAX_OBJECT_BYTES,
        fresh: float = FRESH_SECONDS,
    ) -> None:
        self._bucket = bucket
        self._clock = clock
        self._pinned = pinned
        self._max_bytes = max_bytes
        self._max_object = max_object
        self._fresh = fresh
        self._known: OrderedDict[str, Held] = OrderedDict()
        self._flights: SingleFlight[str, Held | list[Picture]] = SingleFlight()
        self._used = 0

    @property
    def used(self) -> int:
        """How many bytes are held or on their way in, the overhead included."""
        return self._used

    async def open(self, key: str) -> Picture:
        """
        An object with its bytes.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: here, or out of the body.
        """
        held = self._at_hand(key)
        if held is not None:
            return Picture(held.info, held.body(), held.source)
        got = await self._flights.join(key, lambda: self._get(key))
        if isinstance(got, Held):
            return Picture(got.info, got.body())
        # Its bytes can go to one client only: the first of those who waited for it.
        return got.pop() if got else Picture(*await self._bucket.get(key=key))

    async def look(self, key: str) -> tuple[ObjectInfo, str]:
        """
        An object without its bytes, and where that is known from.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: if nobody knows.
        """
        held = self._at_hand(key)
        if held is not None:
            return held.info, held.source
        return await self._ask(key), "bucket"

    def _at_hand(self, key: str) -> Held | None:
        held = self._pinned.get(key) or self._known.get(key)
        if held is None or self._clock.seconds() - held.seen >= self._fresh:
            return None
        if key in self._known:
            self._known.move_to_end(key)
        return held

    async def _ask(self, key: str) -> ObjectInfo:
        """What the bucket says of an object; what is held of it is fresh again, or goes."""
        # The age counts from before the question: the answer may be as old as that.
        now = self._clock.seconds()
        try:
            info = await self._bucket.head(key=key)
        except ObjectNotFound:
            self._forget(key)
            raise
        held = self._known.get(key)
        if held is not None:
            if (held.info.etag, held.info.length) == (info.etag, info.length):
                held.seen = max(held.seen, now)
            else:
                self._forget(key)
        return info

    async def _get(self, key: str) -> Held | list[Picture]:
        if key in self._known:
            await self._ask(key)
            if key in self._known:
                return self._known[key]
        now = self._clock.seconds()
        info, body = await self._bucket.get(key=key)
        size = info.length + OVERHEAD
        if info.length > self._max_object or not self._make_room(size):
            return [Picture(info, body)]
        self._used += size
        try:
            data = await _exactly(info, body)
        except BaseException:
            self._used -= size
            raise
        self._forget(key)
        held = self._known[key] = Held(info, data, now)
        return held

    def _make_room(self, size: int) -> bool:
        while self._known and self._used + size > self._max_bytes:
            self._forget(next(iter(self._known)))
        return self._used + size <= self._max_bytes

    def _forget(self, key: str) -> None:
        held = self._known.pop(key, None)
        if held is not None:
            self._used -= len(held.data) + OVERHEAD


async def _exactly(info: ObjectInfo, body: Body) -> bytes:
    try:
        data = await read_all(body, info.length)
    except OverflowError:
        raise StorageError(f"get {info.key}: more than {info.length} bytes") from None
    if len(data) < info.length:
        raise StorageError(f"get {info.key}: {len(data)} of {info.length} bytes")
    return data
