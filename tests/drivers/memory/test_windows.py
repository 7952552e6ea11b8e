"""Rate windows in memory."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.memory.expiring import MemoryRateWindows
from fxprofile.model.ports import WINDOW_SECONDS
from tests.contracts.windows import RateWindowsContract


class MemoryRateWindowsTests(RateWindowsContract, TestCase):
    """The memory driver fulfils the contract in bounded memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)

    async def make_windows(self) -> MemoryRateWindows:
        return MemoryRateWindows(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def test_a_hit_counts_for_exactly_an_hour(self) -> None:
        """A hit counts until the window's length has passed, and not an instant longer."""
        windows = MemoryRateWindows(self.clock)
        self.assertEqual(await windows.hit(limits={"a": 1}), 0)
        self.clock.advance(WINDOW_SECONDS - 0.25)
        self.assertEqual(await windows.hit(limits={"a": 1}), 0.25)
        self.clock.advance(0.25)
        self.assertEqual(await windows.hit(limits={"a": 1}), 0)

    async def test_idle_keys_are_forgotten(self) -> None:
        """Keys that were not hit for an hour are removed when another key is hit."""
        windows = MemoryRateWindows(self.clock)
        for i in range(100):
            await windows.hit(limits={str(i): 5})
        self.assertEqual(len(windows), 100)
        self.clock.advance(WINDOW_SECONDS)
        await windows.hit(limits={"a": 5})
        self.assertEqual(len(windows), 1)

    async def test_keys_are_bounded(self) -> None:
        """If there are too many keys, the least recently hit ones are forgotten."""
        windows = MemoryRateWindows(self.clock, max_keys=3)
        for name in "abcad":
            await windows.hit(limits={name: 2})
        self.assertEqual(len(windows), 3)
        self.assertGreater(await windows.hit(limits={"a": 2}), 0, "a was hit twice")
        for _ in range(2):
            self.assertEqual(await windows.hit(limits={"b": 2}), 0, "b was forgotten")
