"""Rate limits in Redis, against a server of its own."""

from __future__ import annotations

from fxprofile.model.errors import TooManyRequests
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.rate_limits import RateLimits
from tests.contracts.cache import ALICE, BOB
from tests.contracts.windows import WindowsContract
from tests.drivers.redis.redis_case import SHIFT, RedisCase, Shifted
from tests.support.servers.redis import missing

if missing() is None:
    from fxprofile.drivers.redis.windows import RedisWindows


class RedisWindowsTests(WindowsContract, RedisCase):
    """What every storage of rate limits does."""

    async def make_windows(self) -> RedisWindows:
        self.redis = self.server()
        self.shifted = Shifted()
        return RedisWindows(self.connect(self.redis.url()), self.shifted)

    async def pass_time(self, seconds: float) -> None:
        self.shifted.offset += seconds
        self.redis.ask("EVAL", SHIFT, "0", str(seconds))

    def now(self) -> float:
        return self.shifted.seconds()

    async def test_limits(self) -> None:
        """Limits hold across processes, and say how long they do."""
        windows = await self.make_windows()
        limits = [
            RateLimits(each, self.shifted, Metrics(), per_user=2, per_address=0)
            for each in (windows, RedisWindows(self.connect(self.redis.url()), self.shifted))
        ]
        for one in limits:
            await one.hit(uid=ALICE, address="192.0.2.1")
            await self.pass_time(600)
        for one in limits:
            with self.assertRaises(TooManyRequests) as raised:
                await one.hit(uid=ALICE, address="192.0.2.1")
            self.assertAlmostEqual(int(raised.exception.headers["Retry-After"]), 2400, delta=30)
        await limits[0].hit(uid=BOB, address="192.0.2.1")

    async def test_ends_by_itself(self) -> None:
        """Redis forgets a name whose window is over."""
        windows = await self.make_windows()
        await windows.acquire_entry("a", 3, 60)
        self.assertEqual(self.redis.ask("DBSIZE"), ":1\r\n")
        await self.pass_time(60)
        self.assertEqual(self.redis.ask("DBSIZE"), ":0\r\n")

    async def test_hits_are_bounded(self) -> None:
        """No more is kept of a name than its limit needs."""
        windows = await self.make_windows()
        for _ in range(3):
            await windows.acquire_entry("a", 3, 60)
            await windows.acquire_entry("a", 2, 60)
        self.assertEqual(self.redis.ask("LLEN", "fxprofile:window:a"), ":3\r\n")
