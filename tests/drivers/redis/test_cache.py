"""The profile cache in Redis, against a server of its own."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from fxprofile.model.errors import CacheError
from tests.contracts.cache import ALICE, CacheContract
from tests.drivers.redis.redis_case import SHIFT, RedisCase
from tests.support.servers.redis import missing

if missing() is None:
    from fxprofile.drivers.redis.cache import RedisCache


class RedisCacheTests(CacheContract, RedisCase):
    """What every cache does."""

    async def make_cache(self, *, ttl: float) -> RedisCache:
        self.redis = self.server()
        return self.cache(self.redis.url(), ttl=ttl)

    async def pass_time(self, seconds: float) -> None:
        self.redis.ask("EVAL", SHIFT, "0", str(seconds))

    async def test_ends_by_itself(self) -> None:
        """Redis forgets what nobody asks for."""
        cache = await self.make_cache(ttl=0.05)
        await cache.set(uid=ALICE, variant="profile", value="1")
        while self.redis.ask("DBSIZE") != ":0\r\n":
            await deferLater(reactor, 0.02)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))

    async def test_shared(self) -> None:
        """What one process keeps another has, and what one drops no one has."""
        cache = await self.make_cache(ttl=60)
        other = self.cache(self.redis.url())
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertEqual(await other.get(uid=ALICE, variant="profile"), "1")
        generation = await cache.generation(uid=ALICE)
        await other.drop(uid=ALICE)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))
        await cache.set(uid=ALICE, variant="profile", value="2", generation=generation)
        self.assertIsNone(await other.get(uid=ALICE, variant="profile"))

    async def test_many_at_once(self) -> None:
        """Commands share the connection, and each gets its own answer."""
        cache = await self.make_cache(ttl=60)
        await gatherResults(
            [
                Deferred.fromCoroutine(cache.set(uid=str(i), variant="v", value=f"value {i}"))
                for i in range(200)
            ]
        )
        values = await gatherResults(
            [Deferred.fromCoroutine(cache.get(uid=str(i), variant="v")) for i in range(200)]
        )
        self.assertEqual(values, [f"value {i}" for i in range(200)])

    async def test_giving_up(self) -> None:
        """Who stops waiting does not shift the answers of the others."""
        cache = await self.make_cache(ttl=60)
        for i in range(3):
            await cache.set(uid=str(i), variant="v", value=f"value {i}")
        gets = [Deferred.fromCoroutine(cache.get(uid=str(i), variant="v")) for i in range(3)]
        gets[1].cancel()
        with self.assertRaises(CancelledError):
            await gets[1]
        self.assertEqual([await gets[0], await gets[2]], ["value 0", "value 2"])

    async def test_foreign_data(self) -> None:
        """What someone else put under our keys is an error of the cache, or is not there."""
        cache = await self.make_cache(ttl=60)
        key = f"fxprofile:profile:{ALICE}"
        self.redis.ask("SET", key, "something else")
        with self.assertRaises(CacheError):
            await cache.get(uid=ALICE, variant="profile")
        await cache.drop(uid=ALICE)
        self.redis.ask("HSET", key, "=profile", "no bar")
        with self.assertRaises(CacheError):
            await cache.get(uid=ALICE, variant="profile")

    async def test_unsendable(self) -> None:
        """A text that has no UTF-8 form is an error of the cache, and harms no one else."""
        cache = await self.make_cache(ttl=60)
        with self.assertRaises(CacheError):
            await cache.set(uid=ALICE, variant="profile", value="\ud800")
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")
