"""Tests of :mod:`fxprofile.deferreds.tasks`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.tasks import all_done


class AllDoneTests(SynchronousTestCase):
    """Works that run at the same time."""

    def setUp(self) -> None:
        self.waits: list[Deferred[None]] = [Deferred() for _ in range(3)]
        self.running = Deferred.fromCoroutine(all_done(self.work(wait) for wait in self.waits))

    async def work(self, wait: Deferred[None]) -> None:
        await wait

    def test_it_waits_for_all(self) -> None:
        """It ends when the last work has ended."""
        for wait in self.waits:
            self.assertNoResult(self.running)
            wait.callback(None)
        self.successResultOf(self.running)

    def test_it_waits_for_all_after_a_failure(self) -> None:
        """If works fail it still waits for the others, and raises the error of the first one."""
        self.waits[2].errback(ValueError())
        self.waits[1].errback(KeyError())
        self.assertNoResult(self.running)
        self.waits[0].callback(None)
        self.failureResultOf(self.running, KeyError)

    def test_a_cancel_cancels_all(self) -> None:
        """Cancelling it cancels each work."""
        self.running.cancel()
        self.failureResultOf(self.running, CancelledError)
        self.assertTrue(all(wait.called for wait in self.waits))
