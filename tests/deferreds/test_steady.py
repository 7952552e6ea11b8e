"""Tests of :mod:`fxprofile.deferreds.steady`."""

from __future__ import annotations

from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.steady import SteadyClock


class SteadyClockTests(SynchronousTestCase):
    """A clock between a monotonic one and the system's."""

    def setUp(self) -> None:
        self.elapsed = 50.0
        self.step = 1_000_000.0
        self.clock = SteadyClock(lambda: self.elapsed, lambda: self.step + self.elapsed)

    def test_starts_at_the_time_of_the_system(self) -> None:
        """The clock starts at the system's time and advances with it."""
        self.assertEqual(self.clock(), 1_000_050)
        self.elapsed += 7
        self.assertEqual(self.clock(), 1_000_057)

    def test_clock_that_is_set_back_or_forward_delays_no_call(self) -> None:
        """After a step of an hour, the clock runs at most a tenth slower or faster."""
        for step in (-3600, 3600):
            before = self.clock()
            self.step += step
            self.assertEqual(self.clock(), before)
            self.elapsed += 60
            self.assertAlmostEqual(self.clock() - before, 66 if step > 0 else 54, places=3)
            self.step -= step

    def test_approaches_the_system(self) -> None:
        """Hours after a step, the clock has the system's time again."""
        self.step += 3600
        for _ in range(700):
            self.elapsed += 60
            self.clock()
        self.assertAlmostEqual(self.clock(), self.step + self.elapsed, places=3)

    def test_reactor_takes_its_time_from_its_attribute(self) -> None:
        """A Twisted reactor schedules its calls with ``seconds``, which the daemon replaces."""
        reactor = SelectReactor()
        self.addCleanup(lambda: [waker.connectionLost(None) for waker in reactor.removeAll()])
        vars(reactor)["seconds"] = self.clock
        called: list[int] = []
        reactor.callLater(10, called.append, 1)
        self.step -= 3600
        self.elapsed += 12
        reactor.runUntilCurrent()
        self.assertEqual(called, [1])
