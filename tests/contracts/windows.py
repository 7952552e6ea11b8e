"""What every storage of rate limits does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limits.aio.storage import MovingWindowSupport, Storage

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object


class WindowsContract(_Base):
    """Mixed into a test case that makes the driver."""

    #: A whole number of seconds that :meth:`pass_time` can outlast.
    expiry = 60

    async def make_windows(self) -> Any:
        """The driver, empty."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let so much time go by for the driver."""
        raise NotImplementedError

    def now(self) -> float:
        """The time by the clock of the driver."""
        raise NotImplementedError

    async def test_kind(self) -> None:
        """The driver is what the library takes."""
        windows = await self.make_windows()
        self.assertIsInstance(windows, Storage)
        self.assertIsInstance(windows, MovingWindowSupport)

    async def test_limit(self) -> None:
        """Just as many hits are counted as the limit says."""
        windows = await self.make_windows()
        hits = [await windows.acquire_entry("a", 3, self.expiry) for _ in range(5)]
        self.assertEqual(hits, [True, True, True, False, False])
        self.assertTrue(await windows.acquire_entry("b", 3, self.expiry))

    async def test_several_at_once(self) -> None:
        """Hits that are counted together are all counted, or none."""
        windows = await self.make_windows()
        self.assertFalse(await windows.acquire_entry("a", 3, self.expiry, amount=4))
        self.assertTrue(await windows.acquire_entry("a", 3, self.expiry, amount=2))
        self.assertFalse(await windows.acquire_entry("a", 3, self.expiry, amount=2))
        self.assertEqual((await windows.get_moving_window("a", 3, self.expiry))[1], 2)

    async def test_look(self) -> None:
        """Looking tells how many hits there are and when the oldest was, and counts none."""
        windows = await self.make_windows()
        self.assertEqual((await windows.get_moving_window("a", 3, self.expiry))[1], 0)
        before = self.now()
        await windows.acquire_entry("a", 3, self.expiry)
        after = self.now()
        await self.pass_time(self.expiry / 4)
        await windows.acquire_entry("a", 3, self.expiry)
        oldest, hits = await windows.get_moving_window("a", 3, self.expiry)
        self.assertEqual(hits, 2)
        # A server's clock counts in other steps than ours.
        self.assertTrue(before - self.expiry / 8 < oldest < after + self.expiry / 8)

    async def test_window_moves(self) -> None:
        """Each hit stops to count on its own, when the window has passed it."""
        windows = await self.make_windows()
        await windows.acquire_entry("a", 2, self.expiry)
        await self.pass_time(self.expiry * 0.6)
        await windows.acquire_entry("a", 2, self.expiry)
        self.assertFalse(await windows.acquire_entry("a", 2, self.expiry))
        await self.pass_time(self.expiry * 0.6)
        self.assertEqual((await windows.get_moving_window("a", 2, self.expiry))[1], 1)
        self.assertTrue(await windows.acquire_entry("a", 2, self.expiry))
        self.assertFalse(await windows.acquire_entry("a", 2, self.expiry))

    async def test_forget(self) -> None:
        """The hits of one name, or of all, can be forgotten."""
        windows = await self.make_windows()
        for name in "abc":
            await windows.acquire_entry(name, 1, self.expiry)
        await windows.clear("a")
        self.assertTrue(await windows.acquire_entry("a", 1, self.expiry))
        self.assertFalse(await windows.acquire_entry("b", 1, self.expiry))
        self.assertEqual(await windows.reset(), 3)
        self.assertTrue(await windows.acquire_entry("b", 1, self.expiry))

    async def test_check(self) -> None:
        """A storage that works says so."""
        windows = await self.make_windows()
        self.assertIs(await windows.check(), True)

    async def test_only_moving_windows(self) -> None:
        """Counting by fixed windows is refused, not done wrong."""
        windows = await self.make_windows()
        for call in (windows.incr("a", 1), windows.get("a"), windows.get_expiry("a")):
            with self.assertRaises(NotImplementedError):
                await call
