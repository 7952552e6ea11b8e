"""Moving windows in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.memory.windows import MemoryWindows
from tests.contracts.windows import WindowsContract


class MemoryWindowsTests(WindowsContract, TestCase):
    """What the memory driver does, and what it never grows beyond."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)

    async def make_windows(self) -> MemoryWindows:
        return MemoryWindows(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def now(self) -> float:
        return self.clock.seconds()

    async def test_edges(self) -> None:
        """A hit counts until exactly the length of the window has passed."""
        windows = MemoryWindows(self.clock)
        self.assertTrue(await windows.acquire_entry("a", 1, 10))
        self.clock.advance(9.999)
        self.assertFalse(await windows.acquire_entry("a", 1, 10))
        self.clock.advance(0.001)
        self.assertTrue(await windows.acquire_entry("a", 1, 10))

    async def test_names_expire(self) -> None:
        """Names that were not hit in their window are forgotten when others are hit."""
        windows = MemoryWindows(self.clock)
        for i in range(100):
            await windows.acquire_entry(str(i), 5, 10)
            await windows.get_moving_window(f"looked at {i}", 5, 10)
        self.assertEqual(len(windows), 100)
        self.clock.advance(10)
        await windows.get_moving_window("0", 5, 10)
        await windows.acquire_entry("a", 5, 10)
        self.assertEqual(len(windows), 1)

    async def test_names_are_bounded(self) -> None:
        """If there are too many names, those that were not hit for longest are forgotten."""
        windows = MemoryWindows(self.clock, max_names=3)
        for name in "abcad":
            await windows.acquire_entry(name, 5, 10)
        self.assertEqual(len(windows), 3)
        self.assertEqual((await windows.get_moving_window("a", 5, 10))[1], 2)
        self.assertEqual((await windows.get_moving_window("b", 5, 10))[1], 0)
