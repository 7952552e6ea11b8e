"""
A memory cache of small public objects, in front of the bucket, and the default avatar.

Concurrent requests for an object share one ``get``.  After :data:`FRESH_SECONDS` a cached
object is revalidated by a ``head``, so a deleted avatar is served from memory for at most that
long, and a popular one costs its bucket one ``head`` in that time.  A missing object is not
cached.  While the bucket fails or hangs, a cached object is still served for a limited
time (stale-if-error, RFC 5861), and the number of requests that wait for the bucket is limited.

A longer object is in memory only while clients read it, once for all of them, so that a crowd
of slow readers costs no more than one.  The longer objects together have a limit, too; beyond
it each client has a stream of its own from the bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakValueDictionary, finalize

import attrs
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import ObjectNotFound, StorageError
from fxprofile.model.keys import DEFAULT_AVATAR_ID, VARIANTS, public_key
from fxprofile.model.ports import Body, IBucket, ObjectInfo

T = TypeVar("T")

#: How long an object is served without revalidation, in seconds.
FRESH_SECONDS: Final = 2.0

#: How long a client waits for the revalidation of a cached object, in seconds.
STALE_AFTER: Final = 1.0

#: How long a client waits for any object, in seconds.
MAX_WAIT: Final = 8.0

#: Requests that wait for the bucket; further ones are refused.
MAX_WAITING: Final = 512

#: The size of the cache.
MAX_BYTES: Final = 64 << 20

#: Longer objects are not cached.  A photograph of 200 by 200 pixels is shorter.
MAX_OBJECT_BYTES: Final = 128 << 10

#: Longer objects are never read into memory; no picture of a worker is longer.
MAX_SHARED_OBJECT: Final = 2 << 20

#: The size of all objects together that are in memory only while they are read.
MAX_SHARED_BYTES: Final = 32 << 20

#: The approximate cost of an object besides its bytes.
OVERHEAD: Final = 1024

_DEFAULT_AVATAR: Final = Path(__file__).with_name("default")


@dataclass
class CachedObject:
    """
    An object in memory.

    :ivar validated: when the bucket last confirmed it, in seconds; an object that is not from
        a bucket is always fresh.
    :ivar retry_at: until when the bucket is not asked again, after it has failed.
    :ivar source: ``memory`` or ``default``, for metrics.
    """

    info: ObjectInfo
    data: bytes = field(repr=False)
    validated: float = float("inf")
    retry_at: float = 0.0
    source: str = "memory"

    def size(self) -> int:
        """Return what it costs, in bytes."""
        return len(self.data) + OVERHEAD


@dataclass(frozen=True)
class OpenObject:
    """
    An object and its bytes.  The caller closes the body.

    :ivar source: ``default``, ``memory``, ``stale`` or ``bucket``, for metrics.
    :ivar held: what the bytes are part of, which is in memory for as long as this.
    """

    info: ObjectInfo
    body: Body
    source: str = "bucket"
    held: CachedObject | None = field(default=None, repr=False)

    async def pieces(self) -> AsyncIterator[bytes]:
        """
        Yield the bytes.

        :raises StorageError: if the bucket fails, or there are more or fewer than it announced.
        """
        info, received = self.info, 0
        async for piece in self.body:
            received += len(piece)
            if received > info.length:
                raise StorageError(f"get {info.key}: more than {info.length} bytes")
            yield piece
        if received < info.length:
            raise StorageError(f"get {info.key}: {received} of {info.length} bytes")


@attrs.define(kw_only=True, eq=False, slots=False)
class ObjectCache:
    """
    A bounded LRU cache of the objects of a bucket.

    :param clock: measures ages.
    :param pinned: objects that are always served from memory.
    :param max_stale: the setting ``images.max_stale``, in seconds.
    :param max_object: longer objects are not cached.
    :param max_shared: longer objects are streamed to each client from the bucket.
    :param cached: the cache, empty.  Its size limits the objects that are being read, too.
    """

    _bucket: IBucket
    _clock: IReactorTime
    _pinned: Mapping[str, CachedObject]
    _max_stale: float = 0
    _max_object: int = MAX_OBJECT_BYTES
    _max_shared: int = MAX_SHARED_OBJECT
    _cached: LRUCache[str, CachedObject] = attrs.field(
        factory=lambda: LRUCache(MAX_BYTES, CachedObject.size)
    )
    _flights: SingleFlight[str, CachedObject | list[OpenObject]] = attrs.field(
        init=False, factory=SingleFlight
    )
    _revalidations: SingleFlight[str, ObjectInfo] = attrs.field(init=False, factory=SingleFlight)
    _waiting: int = attrs.field(init=False, default=0)
    # Longer objects that clients read at the moment, and their size.
    _shared: WeakValueDictionary[str, CachedObject] = attrs.field(
        init=False, factory=WeakValueDictionary
    )
    _shared_bytes: int = attrs.field(init=False, default=0)
    # Bytes that are reserved for objects that are being read from the bucket.
    _reserved: int = attrs.field(init=False, default=0)

    @property
    def used(self) -> int:
        """How many bytes are cached or reserved, the overhead included."""
        return int(self._cached.currsize) + self._reserved

    async def open(self, key: str) -> OpenObject:
        """
        Return an object with its bytes.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: here, or from the body.
        """
        held = self._if_fresh(key)
        if held is not None:
            return _opened(held, self._source(held))
        return await self._limited(key, lambda: self._open(key))

    async def _open(self, key: str) -> OpenObject:
        fetched = await self._flights.join(key, lambda: self._fetch(key))
        if isinstance(fetched, CachedObject):
            is_stale = fetched.retry_at > self._clock.seconds()
            return _opened(fetched, "stale" if is_stale else "bucket")
        # The body of an uncached object is for one caller: the first that gets here.
        return fetched.pop() if fetched else OpenObject(*await self._bucket.get(key=key))

    async def head(self, key: str) -> tuple[ObjectInfo, str]:
        """
        Return an object without its bytes, and its source.

        :raises ObjectNotFound: if there is none.
        :raises StorageError: if the bucket fails.
        """
        held = self._if_fresh(key)
        if held is not None:
            return held.info, self._source(held)
        return await self._limited(key, lambda: self._confirm(key)), "bucket"

    async def _limited(
        self, key: str, work: Callable[[], Coroutine[Deferred[object], object, T]]
    ) -> T:
        """
        Wait for the bucket.

        :raises StorageError: if too many requests wait already, or this takes too long.
        """
        if self._waiting >= MAX_WAITING:
            raise StorageError(f"get {key}: {self._waiting} requests wait for the bucket")
        self._waiting += 1
        try:
            return await Deferred.fromCoroutine(work()).addTimeout(MAX_WAIT, self._clock)
        except DeferredTimeout:
            raise StorageError(f"get {key}: no response in {MAX_WAIT:g} s") from None
        finally:
            self._waiting -= 1

    def _if_fresh(self, key: str) -> CachedObject | None:
        held = self._pinned.get(key) or self._held(key)
        now = self._clock.seconds()
        if held is None or (now - held.validated >= FRESH_SECONDS and now >= held.retry_at):
            return None
        return held

    def _source(self, held: CachedObject) -> str:
        is_stale = self._clock.seconds() - held.validated >= FRESH_SECONDS
        return "stale" if is_stale else held.source

    def _held(self, key: str) -> CachedObject | None:
        return self._cached.get(key) or self._shared.get(key)

    async def _confirm(self, key: str) -> ObjectInfo:
        return await self._revalidations.join(key, lambda: self._revalidate(key))

    async def _revalidate(self, key: str) -> ObjectInfo:
        """
        Ask the bucket about an object, and mark the cached one as fresh or drop it.

        If the bucket fails or hangs, a cached object that is not too old stays.
        """
        # The age counts from before the request: the response may be that old.
        now = self._clock.seconds()
        held = self._held(key)
        asking = Deferred.fromCoroutine(self._bucket.head(key=key))
        may_be_stale = held is not None and now - held.validated < self._max_stale
        if may_be_stale:
            asking.addTimeout(STALE_AFTER, self._clock)
        try:
            info = await asking
        except ObjectNotFound:
            self._drop(key)
            raise
        except (StorageError, DeferredTimeout):
            if held is None or not may_be_stale:
                raise
            held.retry_at = self._clock.seconds() + FRESH_SECONDS
            return held.info
        held = self._held(key)
        if held is not None:
            if (held.info.etag, held.info.length) == (info.etag, info.length):
                held.validated = max(held.validated, now)
            else:
                self._drop(key)
        return info

    def _drop(self, key: str) -> None:
        self._cached.pop(key, None)
        self._shared.pop(key, None)

    async def _fetch(self, key: str) -> CachedObject | list[OpenObject]:
        """Get an object; one that cannot be cached comes in a list, for one caller."""
        if self._held(key) is not None:
            await self._confirm(key)
            held = self._held(key)
            if held is not None:
                return held
        now = self._clock.seconds()
        opened = OpenObject(*await self._bucket.get(key=key))
        size = opened.info.length + OVERHEAD
        is_shared = self._max_object < opened.info.length <= self._max_shared
        if is_shared and self._shared_bytes + opened.info.length <= MAX_SHARED_BYTES:
            return await self._share(key, opened, now)
        if opened.info.length > self._max_object or not self._make_room(size):
            return [opened]
        self._reserved += size
        try:
            data = b"".join([piece async for piece in opened.pieces()])
        finally:
            self._reserved -= size
            await opened.body.aclose()
        held = self._cached[key] = CachedObject(opened.info, data, now)
        return held

    async def _share(self, key: str, opened: OpenObject, now: float) -> CachedObject:
        """Read a longer object into memory, where it stays for as long as clients read it."""
        held = CachedObject(opened.info, b"", now)
        self._shared_bytes += held.info.length
        finalize(held, self._unshare, held.info.length)
        try:
            held.data = b"".join([piece async for piece in opened.pieces()])
        finally:
            await opened.body.aclose()
        self._shared[key] = held
        return held

    def _unshare(self, length: int) -> None:
        self._shared_bytes -= length

    def _make_room(self, size: int) -> bool:
        while self._cached and self.used + size > self._cached.maxsize:
            self._cached.popitem()
        return self.used + size <= self._cached.maxsize


def _opened(held: CachedObject, source: str) -> OpenObject:
    # In one piece, which is not copied.
    return OpenObject(held.info, BytesBody(held.data, piece=max(1, len(held.data))), source, held)


def read_default_avatar() -> Mapping[str, CachedObject]:
    """
    Return the default avatar in its three sizes, by the keys that it would have in the bucket.

    The pictures are part of the package; ``etc/default-avatar/draw.py`` draws them.  This
    blocks for 15 KiB.

    :raises OSError: if the package is incomplete.
    """
    pictures = {}
    for variant, (_, side) in VARIANTS.items():
        path = _DEFAULT_AVATAR / f"{side}.png"
        data = path.read_bytes()
        key = public_key(DEFAULT_AVATAR_ID, variant)
        # The tag is the same on every machine, and changes only with the picture.
        info = ObjectInfo(
            key=key,
            length=len(data),
            etag=hashlib.sha256(data).hexdigest()[:32],
            modified=path.stat().st_mtime,
        )
        pictures[key] = CachedObject(info, data, source="default")
    return pictures
