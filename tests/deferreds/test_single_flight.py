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

    def test_concurrent_callers_share_one_call(self) -> None:
        """Concurrent callers get the result of one call."""
        waiters = [self.join() for _ in range(5)]
        self.assertEqual(len(self.started), 1)
        self.started[0].callback("done")
        self.assertEqual([self.successResultOf(w) for w in waiters], ["done"] * 5)
        self.assertEqual(len(self.flights), 0)

    def test_failure_reaches_every_caller(self) -> None:
        """A failure is raised in every waiting caller."""
        waiters = [self.join() for _ in range(3)]
        self.started[0].errback(ValueError("no"))
        for waiter in waiters:
            self.failureResultOf(waiter, ValueError)

    def test_shared_failure_does_not_grow(self) -> None:
        """The traceback of a shared failure does not grow with the number of callers."""

        async def wait() -> None:
            await self.join()

        waiters = [Deferred.fromCoroutine(wait()) for _ in range(10)]
        self.started[0].errback(ValueError("no"))
        for waiter in waiters:
            error = self.failureResultOf(waiter, ValueError).value
        self.assertLess(len(traceback.extract_tb(error.__traceback__)), 10)

    def test_failure_without_callers_is_logged(self) -> None:
        """A failure after all callers were cancelled is logged, unless it is that cancellation."""
        for error, logged in ((StorageError("cancelled"), 0), (ValueError("no"), 1)):
            self.failing = error
            self.failureResultOf(_cancelled(self.join()), CancelledError)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), logged)

    def test_no_result_is_cached(self) -> None:
        """A caller after the end of a call starts a new one, also after a failure."""
        first = self.join()
        self.started[0].errback(ValueError("no"))
        self.failureResultOf(first, ValueError)
        second = self.join()
        self.started[1].callback("yes")
        self.assertEqual(self.successResultOf(second), "yes")

    def test_keys_are_independent(self) -> None:
        """Calls with different keys are independent."""
        one, other = self.join("1"), self.join("2")
        self.started[1].callback("two")
        self.assertNoResult(one)
        self.assertEqual(self.successResultOf(other), "two")
        self.started[0].callback("one")
        self.assertEqual(self.successResultOf(one), "one")

    def test_cancelled_caller_leaves_the_call_to_others(self) -> None:
        """Cancelling one caller does not cancel the call of the others."""
        one, other = self.join(), self.join()
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.started[0].callback("done")
        self.assertEqual(self.successResultOf(other), "done")
        self.assertEqual(self.cancelled, 0)

    def test_call_is_cancelled_with_its_last_caller(self) -> None:
        """The call is cancelled when its last caller is cancelled."""
        waiters = [self.join(), self.join()]
        for waiter in waiters:
            waiter.cancel()
            self.failureResultOf(waiter, CancelledError)
        self.assertEqual(self.cancelled, 1)
        self.assertEqual(len(self.flights), 0)

    def test_caller_after_the_cancellation_starts_a_new_call(self) -> None:
        """A caller after the cancellation starts a new call, which is not cancelled."""
        self.failureResultOf(_cancelled(self.join()), CancelledError)
        late = self.join()
        self.started[1].callback("done")
        self.assertEqual(self.successResultOf(late), "done")

    def test_call_without_waiting_is_done_at_once(self) -> None:
        """A call that does not wait has its result at once."""

        async def work() -> str:
            return "now"

        self.assertEqual(self.successResultOf(self.flights.join("k", work)), "now")
        self.assertEqual(len(self.flights), 0)

    def test_caller_from_a_callback_starts_a_new_call(self) -> None:
        """A caller that calls again from its callback starts a new call."""
        again: list[Deferred[str]] = []
        self.join().addCallback(lambda _: again.append(self.join()))
        self.started[0].callback("done")
        self.assertEqual(len(self.started), 2)
        self.started[1].callback("again")
        self.assertEqual(self.successResultOf(again[0]), "again")

    def test_caller_may_cancel_others_from_its_callback(self) -> None:
        """The first caller that gets the result may cancel the others."""
        first, second = self.join(), self.join()
        first.addCallback(lambda _: second.cancel())
        self.started[0].callback("done")
        self.failureResultOf(second, CancelledError)
        self.assertEqual(len(self.flights), 0)

    def test_cancelling_after_the_end_has_no_effect(self) -> None:
        """Cancelling a caller after the end of the call has no effect."""
        waiter = self.join()
        self.started[0].callback("done")
        waiter.cancel()
        self.assertEqual(self.successResultOf(waiter), "done")


def _cancelled(waiter: Deferred[str]) -> Deferred[str]:
    waiter.cancel()
    return waiter
