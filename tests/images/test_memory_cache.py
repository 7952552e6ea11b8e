"""
Tests of :mod:`fxprofile.images.memory_cache`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import read_all
from fxprofile.images.memory_cache import (
    FRESH_SECONDS,
    OVERHEAD,
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
            max_bytes=100_000,
            max_object=50_000,
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
        """What the bucket was asked since the last time."""
        calls = [operation for operation, _ in self.bucket.calls]
        self.bucket.calls.clear()
        return calls

    def hold(self, operation: str = "get") -> Deferred[None]:
        """Let calls of the bucket wait for this."""
        held: Deferred[None] = Deferred()

        def interrupt(called: str, moment: str, keys: object) -> Deferred[None] | None:
            if (called, moment) != (operation, "before"):
                return None
            waiter: Deferred[None] = Deferred()
            held.addCallback(lambda _: waiter.called or waiter.callback(None))
            return waiter

        self.bucket.interrupt = interrupt
        return held

    def test_got_once(self) -> None:
        """What was got a moment ago comes from memory."""
        first, second = self.open(), self.open()
        self.assertEqual((self.read(first), self.read(second)), (b"picture", b"picture"))
        self.assertEqual((first.source, second.source), ("bucket", "memory"))
        self.assertEqual(first.info, second.info)
        self.assertEqual(self.calls(), ["get"])

    def test_concurrent_misses(self) -> None:
        """Many who ask for the same object at the same time cost one get."""
        held = self.hold()
        waiting = [self.start() for _ in range(50)]
        held.callback(None)
        for one in waiting:
            self.assertEqual(self.read(self.successResultOf(one)), b"picture")
        self.assertEqual(self.calls(), ["get"])

    def test_one_of_many_leaves(self) -> None:
        """Who asked first and went away does not spoil it for the others."""
        held = self.hold()
        first, second = self.start(), self.start()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        held.callback(None)
        self.assertEqual(self.read(self.successResultOf(second)), b"picture")

    def test_same_after_a_while(self) -> None:
        """After its time an object is looked at, and stays if it is the same."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.calls()
        self.assertEqual(self.read(self.open()), b"picture")
        self.assertEqual(self.calls(), ["head"])
        self.clock.advance(FRESH_SECONDS / 2)
        self.assertEqual(self.open().source, "memory")
        self.assertEqual(self.calls(), [])

    def test_deleted(self) -> None:
        """A deleted object is served for two seconds at most, and then forgotten."""
        self.close(self.open())
        del self.bucket.objects[KEY]
        self.clock.advance(1.75)
        self.close(self.open())
        self.clock.advance(0.25)
        self.failureResultOf(self.start(), ObjectNotFound)
        self.assertEqual(self.cache.used, 0)
        self.failureResultOf(Deferred.fromCoroutine(self.cache.head(KEY)), ObjectNotFound)

    def test_deleted_while_it_was_got(self) -> None:
        """The time counts from the question to the bucket, not from its last byte."""
        held = self.hold()
        waiting = self.start()
        self.clock.advance(FRESH_SECONDS / 2)
        held.callback(None)
        self.close(self.successResultOf(waiting))
        self.bucket.interrupt = None
        del self.bucket.objects[KEY]
        self.clock.advance(FRESH_SECONDS / 2)
        self.failureResultOf(self.start(), ObjectNotFound)

    def test_replaced(self) -> None:
        """After its time an object that has changed is got anew."""
        self.close(self.open())
        self.bucket.objects[KEY] = b"another picture"
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.read(self.open()), b"another picture")
        self.assertEqual(self.cache.used, len(b"another picture") + OVERHEAD)

    def test_missing_is_not_remembered(self) -> None:
        """An object that was not there a moment ago is asked for again."""
        self.failureResultOf(self.start(OTHER), ObjectNotFound)
        self.bucket.objects[OTHER] = b"here now"
        self.assertEqual(self.read(self.open(OTHER)), b"here now")

    def test_failure_is_not_remembered(self) -> None:
        """A failure of the bucket is raised, and the next one asks again."""
        self.bucket.fail_next("get", StorageError("down"))
        self.failureResultOf(self.start(), StorageError)
        self.assertEqual(self.cache.used, 0)
        self.assertEqual(self.read(self.open()), b"picture")

    def test_failing_look(self) -> None:
        """An object whose time is over is not served when the bucket cannot be asked."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.bucket.fail_next("head", StorageError("down"))
        self.failureResultOf(self.start(), StorageError)
        self.assertEqual(self.open().source, "bucket")

    def test_bound(self) -> None:
        """No more is held than allowed; what was not used for longest goes first."""
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

    def test_many_small_ones(self) -> None:
        """The cost of tiny objects besides their bytes counts too."""
        for number in range(500):
            key = f"a/{number:032x}"
            self.bucket.objects[key] = b"x"
            self.close(self.open(key))
            self.assertLessEqual(self.cache.used, 100_000)

    def test_read_while_put_out(self) -> None:
        """Who reads an object that is put out of the memory has it to its end."""
        self.bucket.objects.update(dict.fromkeys((KEY, OTHER, THIRD), b"y" * 48_000))
        reading = [self.open(key) for key in (KEY, OTHER, THIRD)]
        self.assertEqual(self.cache.used, 2 * (48_000 + OVERHEAD))
        for picture in reading:
            self.assertEqual(self.read(picture), b"y" * 48_000)

    def test_no_room(self) -> None:
        """What has no room beside all that is on its way in goes straight to its client."""
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

    def test_not_copied(self) -> None:
        """Many readers share the bytes."""
        self.close(self.open())
        pieces = [
            self.successResultOf(Deferred.fromCoroutine(self.open().body.__anext__()))
            for _ in range(3)
        ]
        self.assertEqual(pieces[0], b"picture")
        self.assertTrue(all(piece is pieces[0] for piece in pieces))

    def test_pinned(self) -> None:
        """What is pinned is in memory for ever, whatever the bucket has under its key."""
        self.bucket.objects[ALWAYS] = b"not this"
        self.clock.advance(10 * FRESH_SECONDS)
        picture = self.open(ALWAYS)
        self.assertEqual((self.read(picture), picture.source), (b"pinned", "default"))
        self.assertEqual(self.look(ALWAYS), (PINNED[ALWAYS].info, "default"))
        self.assertEqual((self.calls(), self.cache.used), ([], 0))

    def test_large(self) -> None:
        """A large object is not held: each who asks has it from the bucket."""
        self.bucket.objects[KEY] = b"x" * 50_001
        held = self.hold()
        waiting = [self.start() for _ in range(3)]
        held.callback(None)
        for one in waiting:
            self.assertEqual(len(self.read(self.successResultOf(one))), 50_001)
        self.assertEqual(self.calls(), ["get"] * 3)
        self.assertEqual(self.cache.used, 0)

    def test_look(self) -> None:
        """Looking at an object does not get it, and asks nobody if it is in memory."""
        info, source = self.look()
        self.assertEqual((info.length, source), (7, "bucket"))
        self.assertEqual(self.calls(), ["head"])
        self.close(self.open())
        self.calls()
        self.assertEqual(self.look(), (info, "memory"))
        self.assertEqual(self.calls(), [])

    def test_look_after_a_while(self) -> None:
        """A look at an object whose time is over makes it fresh, or forgets it."""
        self.close(self.open())
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.look()[1], "bucket")
        self.assertEqual(self.open().source, "memory")
        self.bucket.objects[KEY] = b"another picture"
        self.clock.advance(FRESH_SECONDS)
        self.assertEqual(self.look()[0].length, len(b"another picture"))
        self.assertEqual(self.cache.used, 0)


class BrokenBodyTests(SynchronousTestCase):
    """A bucket whose bodies do not hold what it says of them."""

    def setUp(self) -> None:
        self.body = ScriptedBody()
        self.cache = ObjectCache(bucket=self, clock=Clock(), pinned={})  # type: ignore[arg-type]

    async def get(self, *, key: str) -> tuple[ObjectInfo, ScriptedBody]:
        return ObjectInfo(key, 10, "tag", 0.0), self.body

    def test_broken(self) -> None:
        """Short, long and failing bodies are closed and held by nobody."""
        for script in ([b"short"], [b"much too long"], [b"ab", StorageError("cut")]):
            self.body = ScriptedBody(*script)
            self.failureResultOf(Deferred.fromCoroutine(self.cache.open(KEY)), StorageError)
            self.assertTrue(self.body.closed)
            self.assertEqual(self.cache.used, 0)

    def test_all_leave(self) -> None:
        """When everybody who waits has gone, the body is closed."""
        self.body = ScriptedBody(b"ab", Deferred())
        waiting = Deferred.fromCoroutine(self.cache.open(KEY))
        self.assertGreater(self.cache.used, 0)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertTrue(self.body.closed)
        self.assertEqual(self.cache.used, 0)
