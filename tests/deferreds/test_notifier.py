"""
Tests for bells.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.notifier import Bells


class BellsTests(SynchronousTestCase):
    """Those who wait for something by its name."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.bells = Bells()

    def test_ring(self) -> None:
        """A ring wakes everybody who listens for that name, and nobody else."""
        with (
            self.bells.listening("a") as one,
            self.bells.listening("a") as two,
            self.bells.listening("b") as other,
        ):
            waits = [Deferred.fromCoroutine(b.wait(self.clock, 9)) for b in (one, two, other)]
            self.bells.ring("a")
            self.assertEqual([wait.called for wait in waits], [True, True, False])
            self.clock.advance(9)
            self.assertIsNone(self.successResultOf(waits[2]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_rung_before(self) -> None:
        """Who listened when it rang does not wait any more."""
        with self.bells.listening("a") as bell:
            self.bells.ring("a")
            self.successResultOf(Deferred.fromCoroutine(bell.wait(self.clock, 9)))

    def test_nobody(self) -> None:
        """A ring that nobody hears is gone."""
        with self.bells.listening("a"):
            pass
        self.bells.ring("a")
        with self.bells.listening("a") as bell:
            wait = Deferred.fromCoroutine(bell.wait(self.clock, 9))
            self.assertNoResult(wait)
            self.clock.advance(9)

    def test_cancelled_by_another(self) -> None:
        """Who is woken may make others give up."""
        with self.bells.listening("a") as one, self.bells.listening("a") as two:
            waits = [Deferred.fromCoroutine(b.wait(self.clock, 9)) for b in (one, two)]
            for wait, other in (waits, waits[::-1]):
                wait.addCallback(lambda _, other=other: other.cancel())
            self.bells.ring("a")
            outcomes: list[object] = []
            for wait in waits:
                wait.addErrback(lambda failure: failure.trap(CancelledError))
                wait.addBoth(outcomes.append)
        self.assertEqual(sorted(map(str, outcomes)), sorted(map(str, [None, CancelledError])))
        self.assertEqual(self.clock.getDelayedCalls(), [])
