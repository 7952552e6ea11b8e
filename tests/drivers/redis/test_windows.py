"""Rate windows in Redis, tested with a real server."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.expiring import MemoryRateWindows
from fxprofile.model.errors import CacheError
from tests.contracts.windows import RateWindowsContract
from tests.drivers.redis.redis_case import SHIFT, RedisCase
from tests.support.servers.redis import missing

if missing() is None:
    from fxprofile.drivers.redis.windows import RedisRateWindows


class UnreachableRedis:
    """A connection to Redis that the test breaks."""

    broken = False

    async def script(self, *_: object, **__: object) -> int:
        if self.broken:
            raise CacheError("Redis does not answer")
        return 0


class LocalWindowsTests(SynchronousTestCase):
    """Redis is unreachable."""

    def test_local_limits_hold_without_redis(self) -> None:
        """
        While Redis is unreachable the limits of the process itself hold, and they count the
        earlier hits.
        """
        redis = UnreachableRedis()
        windows = RedisRateWindows(redis, MemoryRateWindows(Clock()))  # type: ignore[arg-type]

        def hit() -> float:
            return self.successResultOf(Deferred.fromCoroutine(windows.hit(limits={"a": 5})))

        waits = [hit() for _ in range(3)]
        redis.broken = True
        waits += [hit() for _ in range(20)]
        self.assertEqual([wait == 0 for wait in waits], [True] * 5 + [False] * 18)


class RedisRateWindowsTests(RateWindowsContract, RedisCase):
    """The Redis driver fulfils the contract, and its keys expire."""

    async def make_windows(self) -> RedisRateWindows:
        self.redis = self.server()
        return RedisRateWindows(self.connect(self.redis.url()), MemoryRateWindows(Clock()))

    async def pass_time(self, seconds: float) -> None:
        self.redis.ask("EVAL", SHIFT, "0", str(seconds))

    async def test_limits_are_shared(self) -> None:
        """A hit in one process counts in the other processes."""
        here = await self.make_windows()
        there = RedisRateWindows(self.connect(self.redis.url()), MemoryRateWindows(Clock()))
        self.assertEqual(await here.hit(limits={"a": 2}), 0)
        self.assertEqual(await there.hit(limits={"a": 2}), 0)
        for windows in (here, there):
            self.assertGreater(await windows.hit(limits={"a": 2}), 0)

    async def test_keys_expire(self) -> None:
        """Redis removes a key whose window is over."""
        windows = await self.make_windows()
        await windows.hit(limits={"a": 3})
        self.assertEqual(self.redis.ask("DBSIZE"), ":1\r\n")
        await self.pass_time(3600)
        self.assertEqual(self.redis.ask("DBSIZE"), ":0\r\n")

    async def test_hits_are_bounded(self) -> None:
        """A key holds no more hits than its limit."""
        windows = await self.make_windows()
        for _ in range(5):
            await windows.hit(limits={"a": 3})
            await self.pass_time(1500)
        self.assertEqual(self.redis.ask("LLEN", "fxprofile:window:a"), ":3\r\n")
