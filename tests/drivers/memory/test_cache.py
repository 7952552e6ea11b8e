"""The profile cache in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.app.services import Services
from fxprofile.drivers.memory.expiring import MemoryProfileCache
from fxprofile.settings.load import load
from tests.contracts.cache import ALICE, BOB, ProfileCacheContract, cached, put


class MemoryProfileCacheTests(ProfileCacheContract, TestCase):
    """The memory driver fulfils the contract in bounded memory."""

    def setUp(self) -> None:
        self.clock = Clock()

    async def make_cache(self, *, ttl: float) -> MemoryProfileCache:
        return MemoryProfileCache(self.clock, ttl=ttl)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def test_ttl_of_the_settings(self) -> None:
        """The default settings select this driver, with the time to live of ``cache.ttl``."""
        cache = Services(load(environ={}, overrides=["cache.ttl=5"]), self.clock).cache
        self.assertIsInstance(cache, MemoryProfileCache)
        await put(cache, ALICE, "full", "1")
        self.clock.advance(4.75)
        self.assertEqual(await cached(cache, ALICE, "full"), "1")
        self.clock.advance(0.25)
        self.assertIsNone(await cached(cache, ALICE, "full"))

    async def test_memory_is_bounded(self) -> None:
        """Texts that exceed the limit evict the least recently used ones."""
        cache = MemoryProfileCache(self.clock, ttl=60, max_bytes=10_000)
        for variant in ("a", "b"):
            await put(cache, ALICE, variant, "x" * 4_000)
        await cached(cache, ALICE, "a")
        await put(cache, ALICE, "c", "x" * 4_000)
        self.assertEqual(len(cache), 2)
        self.assertIsNone(await cached(cache, ALICE, "b"))
        self.assertIsNotNone(await cached(cache, ALICE, "a"))

    async def test_oversized_text_is_not_stored(self) -> None:
        """A text larger than the whole cache is not stored, and replaces an older one."""
        cache = MemoryProfileCache(self.clock, ttl=60, max_bytes=10_000)
        await put(cache, ALICE, "a", "x" * 4_000)
        await put(cache, ALICE, "a", "x" * 20_000)
        self.assertIsNone(await cached(cache, ALICE, "a"))
        self.assertEqual(len(cache), 0)

    async def test_user_with_an_evicted_generation_counts_as_changed(self) -> None:
        """If a user's generation was evicted, earlier texts and lookups are not trusted."""
        cache = MemoryProfileCache(self.clock, ttl=60, max_users=2)
        before = await cache.lookup(uid=ALICE, variant="full")
        await put(cache, ALICE, "basic", "1")
        await cache.invalidate(uid=ALICE)
        for uid in (BOB, "c", "d"):
            await cache.invalidate(uid=uid)
        await cache.store(uid=ALICE, variant="full", value="old", generation=before.generation)
        for variant in ("full", "basic"):
            self.assertIsNone(await cached(cache, ALICE, variant))

    async def test_expired_entries_free_their_memory(self) -> None:
        """When every entry has expired, the cache is empty."""
        cache = MemoryProfileCache(self.clock, ttl=60, max_bytes=5_000)
        for i in range(20):
            await put(cache, str(i % 4), str(i % 3), "x" * (i * 100))
            if i % 5 == 0:
                await cache.invalidate(uid=str(i % 4))
        self.clock.advance(60)
        await cached(cache, "0", "0")
        self.assertEqual((len(cache), cache._entries.currsize), (0, 0))
