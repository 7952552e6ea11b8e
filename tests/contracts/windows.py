"""The contract of rate windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface.verify import verifyObject

from fxprofile.model.ports import WINDOW_SECONDS, IRateWindows

if TYPE_CHECKING:
    from twisted.trial.unittest import TestCase as _Base
else:
    _Base = object


class RateWindowsContract(_Base):
    """Mixed into a test case that makes the driver."""

    async def make_windows(self) -> Any:
        """Return the driver, empty."""
        raise NotImplementedError

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the driver."""
        raise NotImplementedError

    async def test_windows_provide_their_interface(self) -> None:
        """The driver has every method of the interface."""
        verifyObject(IRateWindows, await self.make_windows())

    async def test_hits_up_to_the_limit_are_counted(self) -> None:
        """A key accepts as many hits as its limit allows, independently of other keys."""
        windows = await self.make_windows()
        waits = [await windows.hit(limits={"a": 3}) for _ in range(5)]
        self.assertEqual([wait == 0 for wait in waits], [True, True, True, False, False])
        self.assertEqual(await windows.hit(limits={"b": 3}), 0)

    async def test_a_hit_is_counted_for_all_keys_or_none(self) -> None:
        """If one key is at its limit, the hit is not counted for the other keys either."""
        windows = await self.make_windows()
        self.assertEqual(await windows.hit(limits={"a": 1, "b": 2}), 0)
        for _ in range(3):
            self.assertGreater(await windows.hit(limits={"b": 2, "a": 1}), 0)
        self.assertEqual(await windows.hit(limits={"b": 2}), 0)
        self.assertGreater(await windows.hit(limits={"b": 2}), 0)

    async def test_shorter_window(self) -> None:
        """A window may be shorter than an hour."""
        windows = await self.make_windows()
        hits = [await windows.hit(limits={"a": 1}, seconds=60) for _ in range(2)]
        self.assertEqual(hits[0], 0)
        self.assertAlmostEqual(hits[1], 60, delta=30)
        await self.pass_time(61)
        self.assertEqual(await windows.hit(limits={"a": 1}, seconds=60), 0)

    async def test_wait_ends_with_the_oldest_hit(self) -> None:
        """The wait of a refused hit ends when the oldest counted hit leaves the window."""
        windows = await self.make_windows()
        await windows.hit(limits={"a": 2})
        await self.pass_time(600)
        await windows.hit(limits={"a": 2})
        await self.pass_time(400)
        wait = await windows.hit(limits={"a": 2})
        self.assertAlmostEqual(wait, WINDOW_SECONDS - 1000, delta=30)

    async def test_the_longest_wait_counts(self) -> None:
        """If several keys are at their limits, the wait is that of the last one to recover."""
        windows = await self.make_windows()
        await windows.hit(limits={"a": 1})
        await self.pass_time(600)
        await windows.hit(limits={"b": 1})
        for limits in ({"a": 1, "b": 1}, {"b": 1, "a": 1}):
            self.assertAlmostEqual(await windows.hit(limits=limits), WINDOW_SECONDS, delta=30)

    async def test_window_slides(self) -> None:
        """Each hit leaves the window on its own, an hour after it was counted."""
        windows = await self.make_windows()
        await windows.hit(limits={"a": 2})
        await self.pass_time(WINDOW_SECONDS * 0.6)
        await windows.hit(limits={"a": 2})
        self.assertGreater(await windows.hit(limits={"a": 2}), 0)
        await self.pass_time(WINDOW_SECONDS * 0.6)
        self.assertEqual(await windows.hit(limits={"a": 2}), 0)
        self.assertGreater(await windows.hit(limits={"a": 2}), 0)

    async def test_a_lower_limit_holds_at_once(self) -> None:
        """A limit that is lower than the hits already counted refuses further hits."""
        windows = await self.make_windows()
        for _ in range(3):
            await windows.hit(limits={"a": 3})
        self.assertGreater(await windows.hit(limits={"a": 1}), 0)
