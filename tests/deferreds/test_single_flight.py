"""
Tests of :mod:`fxprofile.deferreds.single_flight`.
"""

from __future__ import annotations

import traceback

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import StorageError


class FlightsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.flights: SingleFlight[str, str] = SingleFlight()
        self.started: list[Deferred[str]] = []
        self.cancelled = 0
        self.failing: Exception | None = None

    async def work(self) -> str:
        outcome: Deferred[str] = Deferred()
        self.started.append(outcome)
        try:
            return await outcome
        except CancelledError:
            self.cancelled += 1
            raise self.failing or CancelledError from None

    def join(self, key: str = "k") -> Deferred[str]:
        return self.flights.join(key, self.work)

    def test_one_for_all(self) -> None:
        """Those who ask at the same time get the outcome of one piece of work."""
        waiters = [self.join() for _ in range(5)]
        self.assertEqual(len(self.started), 1)
        self.started[0].callback("done")
        self.assertEqual([self.successResultOf(w) for w in waiters], ["done"] * 5)
        self.assertEqual(len(self.flights), 0)

    def test_failure_for_all(self) -> None:
        """A failure reaches everybody who waits."""
        waiters = [self.join() for _ in range(3)]
        self.started[0].errback(ValueError("no"))
        for waiter in waiters:
            self.failureResultOf(waiter, ValueError)

    def test_failure_does_not_grow(self) -> None:
        """However many raise a failure that they share, its traceback is that of one."""

        async def wait() -> None:
            await self.join()

        waiters = [Deferred.fromCoroutine(wait()) for _ in range(10)]
        self.started[0].errback(ValueError("no"))
        for waiter in waiters:
            error = self.failureResultOf(waiter, ValueError).value
        self.assertLess(len(traceback.extract_tb(error.__traceback__)), 10)

    def test_failure_of_nobody(self) -> None:
        """What fails after all gave up is logged, unless it fails because of that."""
        for error, logged in ((StorageError("cancelled"), 0), (ValueError("no"), 1)):
            self.failing = error
            self.failureResultOf(_cancelled(self.join()), CancelledError)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), logged)

    def test_nothing_is_remembered(self) -> None:
        """Who comes after the end starts anew, after a failure too."""
        first = self.join()
        self.started[0].errback(ValueError("no"))
        self.failureResultOf(first, ValueError)
        second = self.join()
        self.started[1].callback("yes")
        self.assertEqual(self.successResultOf(second), "yes")

    def test_keys_apart(self) -> None:
        """Work under different keys has nothing to do with each other."""
        one, other = self.join("1"), self.join("2")
        self.started[1].callback("two")
        self.assertNoResult(one)
        self.assertEqual(self.successResultOf(other), "two")
        self.started[0].callback("one")
        self.assertEqual(self.successResultOf(one), "one")

    def test_one_gives_up(self) -> None:
        """Who gives up does not take the work from the others."""
        one, other = self.join(), self.join()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.started[0].callback("done")
        self.assertEqual(self.successResultOf(other), "done")
        self.assertEqual(self.cancelled, 0)

    def test_all_give_up(self) -> None:
        """When nobody waits any longer, the work is cancelled."""
        waiters = [self.join(), self.join()]
        for waiter in waiters:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assertEqual(self.cancelled, 1)
        self.assertEqual(len(self.flights), 0)

    def test_after_all_gave_up(self) -> None:
        """Who comes after the cancellation starts anew and is not cancelled."""
        self.failureResultOf(_cancelled(self.join()), CancelledError)
        late = self.join()
        self.started[1].callback("done")
        self.assertEqual(self.successResultOf(late), "done")

    def test_done_at_once(self) -> None:
        """Work that need not wait is done when it is joined."""

        async def work() -> str:
            return "now"

        self.assertEqual(self.successResultOf(self.flights.join("k", work)), "now")
        self.assertEqual(len(self.flights), 0)

    def test_joined_from_its_end(self) -> None:
        """Who asks again when the outcome arrives starts new work."""
        again: list[Deferred[str]] = []
        self.join().addCallback(lambda _: again.append(self.join()))
        self.started[0].callback("done")
        self.assertEqual(len(self.started), 2)
        self.started[1].callback("again")
        self.assertEqual(self.successResultOf(again[0]), "again")

    def test_giving_up_another(self) -> None:
        """A waiter that is told first may give up the others."""
        first, second = self.join(), self.join()
        first.addCallback(lambda _: second.cancel())
        self.started[0].callback("done")
        self.failureResultOf(second, CancelledError)
        self.assertEqual(len(self.flights), 0)

    def test_giving_up_late(self) -> None:
        """Giving up what is done changes nothing."""
        waiter = self.join()
        self.started[0].callback("done")
        waiter.cancel()
        self.assertEqual(self.successResultOf(waiter), "done")


def _cancelled(waiter: Deferred[str]) -> Deferred[str]:
    waiter.cancel()
    return waiter
