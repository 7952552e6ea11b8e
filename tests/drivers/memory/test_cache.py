"""The profile cache in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.app.services import Services
from fxprofile.drivers.memory.cache import MemoryCache
from fxprofile.settings.load import load
from tests.contracts.cache import ALICE, BOB, CacheContract


class MemoryCacheTests(CacheContract, TestCase):
    """What the memory driver does, and what it never grows beyond."""

    def setUp(self) -> None:
        self.clock = Clock()

    async def make_cache(self, *, ttl: float) -> MemoryCache:
        return MemoryCache(self.clock, ttl=ttl)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def test_from_config(self) -> None:
        """The default settings give this driver, with the time to live that is set."""
        cache = Services(load(environ={}, overrides=["cache.ttl=5"]), self.clock).cache
        self.assertIsInstance(cache, MemoryCache)
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.clock.advance(4.9)
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")
        self.clock.advance(0.1)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))

    async def test_entries_are_bounded(self) -> None:
        """The text that was not used for longest makes room."""
        cache = MemoryCache(self.clock, ttl=60, max_entries=2)
        await cache.set(uid=ALICE, variant="profile", value="1")
        await cache.set(uid=BOB, variant="profile", value="2")
        await cache.get(uid=ALICE, variant="profile")
        await cache.set(uid=ALICE, variant="basic", value="3")
        self.assertEqual(len(cache), 2)
        self.assertIsNone(await cache.get(uid=BOB, variant="profile"))
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")
        self.assertEqual(await cache.get(uid=ALICE, variant="basic"), "3")

    async def test_bytes_are_bounded(self) -> None:
        """Large texts make room as well, and one that is too large is not kept."""
        cache = MemoryCache(self.clock, ttl=60, max_bytes=10_000)
        for i in range(5):
            await cache.set(uid=ALICE, variant=str(i), value="x" * 4_000)
        self.assertEqual(len(cache), 2)
        await cache.set(uid=ALICE, variant="4", value="x" * 20_000)
        self.assertIsNone(await cache.get(uid=ALICE, variant="4"))
        self.assertEqual(len(cache), 1)

    async def test_generations_are_bounded(self) -> None:
        """A user whose drop is no longer remembered counts as dropped, to be safe."""
        cache = MemoryCache(self.clock, ttl=60, max_entries=2)
        await cache.drop(uid="a")
        generations = {uid: await cache.generation(uid=uid) for uid in ("a", "never")}
        for uid in ("b", "c", "d"):
            await cache.drop(uid=uid)
        for uid, generation in generations.items():
            await cache.set(uid=uid, variant="profile", value="1", generation=generation)
            self.assertIsNone(await cache.get(uid=uid, variant="profile"))
        self.assertEqual(len(cache._drops), 2)

    async def test_nothing_is_left_behind(self) -> None:
        """Whatever way a text goes, its memory is counted as free again."""
        cache = MemoryCache(self.clock, ttl=60, max_entries=3, max_bytes=5_000)
        for i in range(20):
            await cache.set(uid=str(i % 4), variant=str(i % 3), value="x" * (i * 100))
            if i % 5 == 0:
                await cache.drop(uid=str(i % 4))
        self.clock.advance(60)
        for i in range(12):
            await cache.get(uid=str(i % 4), variant=str(i % 3))
        self.assertEqual((len(cache), cache._bytes, cache._variants), (0, 0, {}))
