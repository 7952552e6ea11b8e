"""Tests of :mod:`fxprofile.deferreds.producer`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.producer import StreamProducer


class StreamProducerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.producer = StreamProducer()

    def writable(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.producer.writable())

    def test_writable_at_first(self) -> None:
        """A new producer is writable."""
        self.successResultOf(self.writable())

    def test_waits_while_paused(self) -> None:
        """A caller waits while the producer is paused, and goes on when it resumes."""
        self.producer.pauseProducing()
        waiting = self.writable()
        self.assertNoResult(waiting)
        self.producer.resumeProducing()
        self.successResultOf(waiting)
        self.successResultOf(self.writable())

    def test_cancelled_waiter_does_not_affect_a_resume(self) -> None:
        """A cancelled waiter does not disturb a later resume."""
        self.producer.pauseProducing()
        waiting = self.writable()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.producer.resumeProducing()
