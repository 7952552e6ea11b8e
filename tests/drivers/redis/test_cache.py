"""The profile cache in Redis, tested with a real server."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from fxprofile.model.errors import CacheError
from tests.contracts.cache import ALICE, ProfileCacheContract, cached, put
from tests.drivers.redis.redis_case import SHIFT, RedisCase
from tests.support.servers.redis import missing

if missing() is None:
    from fxprofile.drivers.redis.cache import RedisProfileCache


class RedisProfileCacheTests(ProfileCacheContract, RedisCase):
    """The Redis driver fulfils the contract and shares its entries between processes."""

    async def make_cache(self, *, ttl: float) -> RedisProfileCache:
        self.redis = self.server()
        return self.cache(self.redis.url(), ttl=ttl)

    async def pass_time(self, seconds: float) -> None:
        self.redis.ask("EVAL", SHIFT, "0", str(seconds))

    async def test_keys_expire(self) -> None:
        """Redis removes the key of a user whose entries have expired."""
        cache = await self.make_cache(ttl=0.05)
        await put(cache, ALICE, "full", "1")
        while self.redis.ask("DBSIZE") != ":0\r\n":
            await deferLater(reactor, 0.02)
        self.assertIsNone(await cached(cache, ALICE, "full"))

    async def test_generation_outlives_entries(self) -> None:
        """After an invalidation the generation is kept longer than reading a profile takes."""
        cache = await self.make_cache(ttl=0.05)
        before = await cache.lookup(uid=ALICE, variant="full")
        await cache.invalidate(uid=ALICE)
        await self.pass_time(30)
        await cache.store(uid=ALICE, variant="full", value="old", generation=before.generation)
        self.assertIsNone(await cached(cache, ALICE, "full"))

    async def test_processes_share_entries_and_generations(self) -> None:
        """Another process sees stored texts, and its invalidations end them here."""
        cache = await self.make_cache(ttl=60)
        other = self.cache(self.redis.url())
        await put(cache, ALICE, "full", "1")
        self.assertEqual(await cached(other, ALICE, "full"), "1")
        before = await cache.lookup(uid=ALICE, variant="full")
        await other.invalidate(uid=ALICE)
        self.assertIsNone(await cached(cache, ALICE, "full"))
        await cache.store(uid=ALICE, variant="full", value="2", generation=before.generation)
        self.assertIsNone(await cached(other, ALICE, "full"))

    async def test_concurrent_commands_get_their_own_replies(self) -> None:
        """Commands share the connection, and each one gets its own reply."""
        cache = await self.make_cache(ttl=60)
        await gatherResults(
            [Deferred.fromCoroutine(put(cache, str(i), "v", f"value {i}")) for i in range(200)]
        )
        values = await gatherResults(
            [Deferred.fromCoroutine(cached(cache, str(i), "v")) for i in range(200)]
        )
        self.assertEqual(values, [f"value {i}" for i in range(200)])

    async def test_cancelled_command_does_not_shift_replies(self) -> None:
        """After a command was cancelled, the other commands still get their own replies."""
        cache = await self.make_cache(ttl=60)
        for i in range(3):
            await put(cache, str(i), "v", f"value {i}")
        lookups = [Deferred.fromCoroutine(cached(cache, str(i), "v")) for i in range(3)]
        lookups[1].cancel()
        with self.assertRaises(CancelledError):
            await lookups[1]
        self.assertEqual([await lookups[0], await lookups[2]], ["value 0", "value 2"])

    async def test_foreign_data_raises_cache_error(self) -> None:
        """A key or a field that was not written by this driver raises CacheError."""
        cache = await self.make_cache(ttl=60)
        key = f"fxprofile:profile:{ALICE}"
        self.redis.ask("SET", key, "something else")
        with self.assertRaises(CacheError):
            await cache.lookup(uid=ALICE, variant="full")
        await cache.invalidate(uid=ALICE)
        self.redis.ask("HSET", key, "=full", "no bar")
        with self.assertRaises(CacheError):
            await cache.lookup(uid=ALICE, variant="full")

    async def test_text_without_utf8_form_raises_cache_error(self) -> None:
        """A text that cannot be encoded raises CacheError, and later commands work."""
        cache = await self.make_cache(ttl=60)
        with self.assertRaises(CacheError):
            await put(cache, ALICE, "full", "\ud800")
        await put(cache, ALICE, "full", "1")
        self.assertEqual(await cached(cache, ALICE, "full"), "1")
