"""
Tests of :mod:`fxprofile.deferreds.notifier`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.notifier import Notifier


class NotifierTests(SynchronousTestCase):
    """Subscribers that wait for the notification of a key."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.notifier = Notifier()

    def test_notification_wakes_subscribers_of_its_key(self) -> None:
        """A notification wakes every subscriber of its key, and no other."""
        with (
            self.notifier.subscribe("a") as one,
            self.notifier.subscribe("a") as two,
            self.notifier.subscribe("b") as other,
        ):
            waits = [Deferred.fromCoroutine(b.wait(self.clock, 9)) for b in (one, two, other)]
            self.notifier.notify("a")
            self.assertEqual([wait.called for wait in waits], [True, True, False])
            self.clock.advance(9)
            self.assertIsNone(self.successResultOf(waits[2]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_notification_before_the_wait_ends_it_at_once(self) -> None:
        """A subscriber that was notified before it waits does not wait."""
        with self.notifier.subscribe("a") as subscription:
            self.notifier.notify("a")
            self.successResultOf(Deferred.fromCoroutine(subscription.wait(self.clock, 9)))

    def test_notification_without_subscribers_is_lost(self) -> None:
        """A notification without subscribers does not wake a later subscriber."""
        with self.notifier.subscribe("a"):
            pass
        self.notifier.notify("a")
        with self.notifier.subscribe("a") as subscription:
            wait = Deferred.fromCoroutine(subscription.wait(self.clock, 9))
            self.assertNoResult(wait)
            self.clock.advance(9)

    def test_woken_subscriber_may_cancel_others(self) -> None:
        """A subscriber that is woken may cancel the others."""
        with self.notifier.subscribe("a") as one, self.notifier.subscribe("a") as two:
            waits = [Deferred.fromCoroutine(b.wait(self.clock, 9)) for b in (one, two)]
            for wait, other in (waits, waits[::-1]):
                wait.addCallback(lambda _, other=other: other.cancel())
            self.notifier.notify("a")
            outcomes: list[object] = []
            for wait in waits:
                wait.addErrback(lambda failure: failure.trap(CancelledError))
                wait.addBoth(outcomes.append)
        self.assertEqual(sorted(map(str, outcomes)), sorted(map(str, [None, CancelledError])))
        self.assertEqual(self.clock.getDelayedCalls(), [])
