"""
Tests of :mod:`fxprofile.images.memory_cache`.
"""

from __future__ import annotations

from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import read_all
from fxprofile.images.memory_cache import (
    FRESH_SECONDS,
    MAX_SHARED_BYTES,
    MAX_WAIT,
    MAX_WAITING,
    OVERHEAD,
    STALE_AFTER,
    CachedObject,
    ObjectCache,
    OpenObject,
)
from fxprofile.model.errors import ObjectNotFound, StorageError
from fxprofile.model.ports import Body, ObjectInfo
from tests.contracts.bucket import ScriptedBody
from tests.support.fakes.bucket import MemoryBucket

KEY = "a/" + "1" * 32
OTHER = "a/" + "2" * 32
THIRD = "a/" + "3" * 32

ALWAYS = "a/" + "0" * 32
PINNED = {ALWAYS: CachedObject(ObjectInfo(ALWAYS, 6, "tag", 0.0), b"pinned", source="default")}


class ObjectCacheTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.bucket = MemoryBucket()
        self.bucket.objects[KEY] = b"picture"
        self.cache = ObjectCache(
            bucket=self.bucket,
            clock=self.clock,
            pinned=PINNED,
            max_object=50_000,
            max_shared=50_000,
            cached=LRUCache(100_000, CachedObject.size),
        )

    def open(self, key: str = KEY) -> OpenObject:
        return self.successResultOf(Deferred.fromCoroutine(self.cache.open(key)))

    def start(self, key: str = KEY) -> Deferred[OpenObject]:
        return Deferred.fromCoroutine(self.cache.open(key))

    def look(self, key: str = KEY) -> tuple[ObjectInfo, str]:
        return self.successResultOf(Deferred.fromCoroutine(self.cache.head(key)))

    def read(self, picture: OpenObject) -> bytes:
        return self.successResultOf(Deferred.fromCoroutine(read_all(picture.body, 1 << 20)))

    def close(self, picture: OpenObject) -> None:
        self.successResultOf(Deferred.fromCoroutine(picture.body.aclose()))

    def calls(self) -> list[str]:
        """Return the operations of the bucket since the last call."""
        calls = [operation for operation, _ in self.bucket.calls]
        self.bucket.calls.clear()
        return calls

    def hold(self, operation: str = "get") -> Deferred[None]:
        """Make calls of the bucket wait for the returned Deferred."""
        held: Deferred[None] = Deferred()

        def interrupt(called: str, moment: str, keys: object) -> Deferred[None] | None:
            if (called, moment) != (operation, "before"):
                return None
            waiter: Deferred[None] = Deferred()
            held.addCallback(lambda _: waiter.called or waiter.callback(None))
            return waiter

        self.bucket.interrupt = interrupt
        return held

    def test_second_open_comes_from_memory(self) -> None:
        """An object that was fetched a moment ago is served from memory."""
        first, second = self.open(), self.open()
        self.assertEqual((self.read(first), self.read(second)), (b"picture", b"picture"))
        self.assertEqual((first.source, second.source), ("bucket", "memory"))
        self.assertEqual(first.info, second.info)
        self.assertEqual(self.calls(), ["get"])

    def test_concurrent_misses_share_one_get(self) -> None:
        """Concurrent requests for an uncached object share one get."""
        held = self.hold()
        waiting = [self.start() for _ in range(50)]
        held.callback(None)
        for one in waiting:
            self.assertEqual(self.read(self.successResultOf(one)), b"picture")
        self.assertEqual(self.calls(), ["get"])

    def test_first_caller_cancels(self) -> None:
        """If the first of several callers cancels, the others still get the object."""
        held = self.hold()
        first, second = self.start(), self.start()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        held.callback(None)
        self.assertEqual(self.read(self.successResultOf(second)), b"picture")

    def test_unchanged_object_is_revalidated(self) -> None:
        """An object past its freshness is checked by a head, and stays if it is unchanged."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.calls()
        self.assertEqual(self.read(self.open()), b"picture")
        self.assertEqual(self.calls(), ["head"])
        self.clock.advance(FRESH_SECONDS / 2)
        self.assertEqual(self.open().source, "memory")
        self.assertEqual(self.calls(), [])

    def test_deleted_object_expires(self) -> None:
        """A deleted object is served for at most two seconds."""
        self.close(self.open())
        del self.bucket.objects[KEY]
        self.clock.advance(1.75)
        self.close(self.open())
        self.clock.advance(0.25)
        self.failureResultOf(self.start(), ObjectNotFound)
        self.assertEqual(self.cache.used, 0)
        self.failureResultOf(Deferred.fromCoroutine(self.cache.head(KEY)), ObjectNotFound)

    def test_age_counts_from_the_request(self) -> None:
        """The age of an object counts from the request to the bucket, not from its last byte."""
        held = self.hold()
        waiting = self.start()
        self.clock.advance(FRESH_SECONDS / 2)
        held.callback(None)
        self.close(self.successResultOf(waiting))
        self.bucket.interrupt = None
        del self.bucket.objects[KEY]
        self.clock.advance(FRESH_SECONDS / 2)
        self.failureResultOf(self.start(), ObjectNotFound)

    def test_changed_object_is_fetched_again(self) -> None:
        """A changed object is fetched again when its freshness ends."""
        self.close(self.open())
        self.bucket.objects[KEY] = b"another picture"
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.read(self.open()), b"another picture")
        self.assertEqual(self.cache.used, len(b"another picture") + OVERHEAD)

    def test_absence_is_not_cached(self) -> None:
        """A missing object is requested from the bucket again by the next request."""
        self.failureResultOf(self.start(OTHER), ObjectNotFound)
        self.bucket.objects[OTHER] = b"here now"
        self.assertEqual(self.read(self.open(OTHER)), b"here now")

    def test_failure_is_not_cached(self) -> None:
        """A failure of the bucket is raised, and the next request tries again."""
        self.bucket.fail_next("get", StorageError("down"))
        self.failureResultOf(self.start(), StorageError)
        self.assertEqual(self.cache.used, 0)
        self.assertEqual(self.read(self.open()), b"picture")

    def test_stale_object_is_not_served_when_revalidation_fails(self) -> None:
        """A stale object is not served if the bucket cannot confirm it."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.bucket.fail_next("head", StorageError("down"))
        self.failureResultOf(self.start(), StorageError)
        self.assertEqual(self.open().source, "bucket")

    def test_stale_object_is_served_while_the_bucket_fails(self) -> None:
        """
        While the bucket fails a cached object is served for `images.max_stale`, and the bucket is
        asked again only every two seconds.
        """
        self.cache = ObjectCache(bucket=self.bucket, clock=self.clock, pinned=PINNED, max_stale=10)
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.calls()
        self.bucket.fail_next("head", StorageError("down"))
        for _ in range(3):
            served = self.open()
            self.assertEqual((self.read(served), served.source), (b"picture", "stale"))
            self.assertEqual(self.look()[1], "stale")
        self.assertEqual(self.calls(), ["head"])
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.open().source, "bucket")
        self.clock.advance(10)
        self.bucket.fail_next("head", StorageError("down"))
        self.failureResultOf(self.start(), StorageError)

    def test_stale_object_is_served_while_the_bucket_hangs(self) -> None:
        """While the bucket hangs a cached object is served after a second, to all its readers."""
        self.cache = ObjectCache(bucket=self.bucket, clock=self.clock, pinned=PINNED, max_stale=10)
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.calls()
        self.hold("head")
        waiting = [self.start() for _ in range(3)]
        self.clock.advance(STALE_AFTER)
        for start in waiting:
            self.assertEqual(self.read(self.successResultOf(start)), b"picture")
        self.assertEqual(self.open().source, "stale")
        self.assertEqual(self.calls(), ["head"])

    def test_deleted_object_is_not_served_stale(self) -> None:
        """An object that the bucket no longer has is not served, even if it is cached."""
        self.cache = ObjectCache(bucket=self.bucket, clock=self.clock, pinned=PINNED, max_stale=10)
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        del self.bucket.objects[KEY]
        self.failureResultOf(self.start(), ObjectNotFound)

    def test_waiting_requests_are_bounded(self) -> None:
        """
        If too many requests wait for a bucket that hangs, more are refused at once, and each of
        the others fails in time.
        """
        self.hold()
        waiting = [self.start(f"a/{number:032x}") for number in range(1, MAX_WAITING + 1)]
        self.failureResultOf(self.start(), StorageError)
        self.failureResultOf(Deferred.fromCoroutine(self.cache.head(KEY)), StorageError)
        self.assertEqual(self.read(self.open(ALWAYS)), b"pinned")
        self.clock.advance(MAX_WAIT)
        for start in waiting:
            self.failureResultOf(start, StorageError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_least_recently_used_object_is_evicted(self) -> None:
        """The cache stays within its size, and evicts the least recently used object."""
        size = 40_000
        for key in (KEY, OTHER):
            self.bucket.objects[key] = b"x" * size
            self.close(self.open(key))
        self.close(self.open(KEY))
        self.bucket.objects[THIRD] = b"x" * size
        self.close(self.open(THIRD))
        self.assertEqual(self.cache.used, 2 * (size + OVERHEAD))
        self.calls()
        self.assertEqual([self.open(k).source for k in (KEY, THIRD)], ["memory", "memory"])
        self.assertEqual(self.calls(), [])
        self.assertEqual(self.open(OTHER).source, "bucket")

    def test_overhead_counts(self) -> None:
        """The overhead of tiny objects counts towards the size of the cache."""
        for number in range(500):
            key = f"a/{number:032x}"
            self.bucket.objects[key] = b"x"
            self.close(self.open(key))
            self.assertLessEqual(self.cache.used, 100_000)

    def test_evicted_object_can_be_read_to_its_end(self) -> None:
        """A client that reads an evicted object gets all of it."""
        self.bucket.objects.update(dict.fromkeys((KEY, OTHER, THIRD), b"y" * 48_000))
        reading = [self.open(key) for key in (KEY, OTHER, THIRD)]
        self.assertEqual(self.cache.used, 2 * (48_000 + OVERHEAD))
        for picture in reading:
            self.assertEqual(self.read(picture), b"y" * 48_000)

    def test_object_without_room_bypasses_the_cache(self) -> None:
        """An object that does not fit beside those being fetched goes straight to its client."""
        self.bucket.objects.update(dict.fromkeys((KEY, OTHER, THIRD), b"y" * 48_000))
        bodies = [ScriptedBody(wait, b"y" * 48_000) for wait in (Deferred(), Deferred())]
        get = self.bucket.get
        slow = iter(bodies)

        async def slow_get(*, key: str) -> tuple[ObjectInfo, Body]:
            info, body = await get(key=key)
            return info, next(slow, body)

        self.bucket.get = slow_get  # type: ignore[method-assign]
        first, second = self.start(KEY), self.start(OTHER)
        self.assertEqual(self.cache.used, 2 * (48_000 + OVERHEAD))
        self.assertEqual(self.read(self.open(THIRD)), b"y" * 48_000)
        self.assertEqual(self.cache.used, 2 * (48_000 + OVERHEAD))
        for waiting in (first, second):
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.cache.used, 0)

    def test_readers_share_the_bytes(self) -> None:
        """All readers of a cached object get the same bytes object."""
        self.close(self.open())
        pieces = [
            self.successResultOf(Deferred.fromCoroutine(self.open().body.__anext__()))
            for _ in range(3)
        ]
        self.assertEqual(pieces[0], b"picture")
        self.assertTrue(all(piece is pieces[0] for piece in pieces))

    def test_pinned_object_never_reaches_the_bucket(self) -> None:
        """A pinned object is always served from memory, without a request to the bucket."""
        self.bucket.objects[ALWAYS] = b"not this"
        self.clock.advance(10 * FRESH_SECONDS)
        picture = self.open(ALWAYS)
        self.assertEqual((self.read(picture), picture.source), (b"pinned", "default"))
        self.assertEqual(self.look(ALWAYS), (PINNED[ALWAYS].info, "default"))
        self.assertEqual((self.calls(), self.cache.used), ([], 0))

    def test_large_object_is_not_cached(self) -> None:
        """An object that is too large for memory is fetched from the bucket for each request."""
        self.bucket.objects[KEY] = b"x" * 50_001
        held = self.hold()
        waiting = [self.start() for _ in range(3)]
        held.callback(None)
        for one in waiting:
            self.assertEqual(len(self.read(self.successResultOf(one))), 50_001)
        self.assertEqual(self.calls(), ["get"] * 3)
        self.assertEqual(self.cache.used, 0)

    def test_large_object_is_shared(self) -> None:
        """A large object is fetched once for all that read it, and then forgotten."""
        self.cache._max_shared = 60_000
        self.bucket.objects[KEY] = b"x" * 50_001
        first = self.open()
        for _ in range(3):
            self.assertEqual(len(self.read(self.open())), 50_001)
        self.assertEqual(self.calls(), ["get"])
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(len(self.read(self.open())), 50_001)
        self.assertEqual(self.calls(), ["head"])
        self.assertEqual((self.cache.used, self.cache._shared_bytes), (0, 50_001))
        del first
        self.assertEqual(self.cache._shared_bytes, 0)
        self.read(self.open())
        self.assertEqual(self.calls(), ["get"])

    def test_shared_objects_are_bounded(self) -> None:
        """Beyond the limit of shared objects a large one is streamed to each client."""
        self.cache._max_shared = MAX_SHARED_BYTES
        self.cache._shared_bytes = MAX_SHARED_BYTES - 50_000
        self.bucket.objects[KEY] = b"x" * 50_001
        for _ in range(2):
            self.assertEqual(len(self.read(self.open())), 50_001)
        self.assertEqual(self.calls(), ["get", "get"])

    def test_head_does_not_fetch(self) -> None:
        """A head fetches no bytes, and uses a cached object without asking the bucket."""
        info, source = self.look()
        self.assertEqual((info.length, source), (7, "bucket"))
        self.assertEqual(self.calls(), ["head"])
        self.close(self.open())
        self.calls()
        self.assertEqual(self.look(), (info, "memory"))
        self.assertEqual(self.calls(), [])

    def test_head_revalidates(self) -> None:
        """A head for a stale object makes it fresh if it is unchanged, and drops it otherwise."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.look()[1], "bucket")
        self.assertEqual(self.open().source, "memory")
        self.bucket.objects[KEY] = b"another picture"
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.look()[0].length, len(b"another picture"))
        self.assertEqual(self.cache.used, 0)


class BrokenBodyTests(SynchronousTestCase):
    """A bucket whose bodies differ from their announced length."""

    def setUp(self) -> None:
        self.body = ScriptedBody()
        self.cache = ObjectCache(bucket=self, clock=Clock(), pinned={})  # type: ignore[arg-type]

    async def get(self, *, key: str) -> tuple[ObjectInfo, ScriptedBody]:
        return ObjectInfo(key, 10, "tag", 0.0), self.body

    def test_broken_body_is_closed_and_not_cached(self) -> None:
        """A short, long or failing body is an error; it is closed, and nothing is cached."""
        for script in ([b"short"], [b"much too long"], [b"ab", StorageError("cut")]):
            self.body = ScriptedBody(*script)
            self.failureResultOf(Deferred.fromCoroutine(self.cache.open(KEY)), StorageError)
            self.assertTrue(self.body.closed)
            self.assertEqual(self.cache.used, 0)

    def test_abandoned_body_is_closed(self) -> None:
        """When every caller has cancelled, the body is closed and its reservation released."""
        self.body = ScriptedBody(b"ab", Deferred())
        waiting = Deferred.fromCoroutine(self.cache.open(KEY))
        self.assertGreater(self.cache.used, 0)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(self.body.closed)
        self.assertEqual(self.cache.used, 0)
