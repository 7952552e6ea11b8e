"""
Tests of :mod:`fxprofile.worker.poller`: leases, and what follows when one is lost.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import LeaseLost, MalformedMessage, QueueError
from fxprofile.model.messages import Message
from fxprofile.worker.poller import RETRY_DELAYS, Delivery, Outcome
from tests.support.fakes.queue import ScriptedQueue, make_message
from tests.worker.polling import ManualHandler, PollerTestCase


class LeaseTests(SynchronousTestCase):
    """The lease of a message while its handler runs."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = ScriptedQueue()
        self.handler = ManualHandler()
        self.deliver(first=60)

    def deliver(self, first: float, visibility_timeout: float = 60) -> None:
        """Start the handler for a message that was just received."""
        self.delivery = Delivery(
            make_message("a"),
            self.queue,
            self.clock,
            first=first,
            visibility_timeout=visibility_timeout,
        )
        work = Deferred.fromCoroutine(self.delivery.run(self.handler, 1e6))
        work.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self.addCleanup(self.delivery.stop_watching)

    def is_lost(self) -> bool:
        """Whether the lease was lost, and the handler therefore cancelled, once."""
        lost = self.delivery.cancelled_as is Outcome.LEASE_LOST
        self.assertEqual(self.handler.cancelled, ["a"] * lost)
        return lost

    def test_extended_at_half_of_the_visibility_timeout(self) -> None:
        """A lease is extended by the visibility timeout whenever half of it has passed."""
        self.clock.advance(29)
        self.assertEqual(self.queue.extended, [])
        self.clock.pump([1] + [30] * 19)
        self.assertEqual(self.queue.extended, [("a", 60)] * 20)
        self.assertFalse(self.is_lost())

    def test_first_extension_after_half_of_the_first_visibility(self) -> None:
        """A message hidden for 10 s by its receive is extended after 5 s, by the full timeout."""
        self.delivery.stop_watching()
        self.deliver(first=10)
        self.clock.pump([4.9, 0.1])
        self.assertEqual(self.queue.extended, [("a", 60)])
        self.clock.pump([29.9, 0.1])
        self.assertEqual(self.queue.extended, [("a", 60)] * 2)
        self.assertFalse(self.is_lost())

    def test_lost_when_the_first_visibility_expires(self) -> None:
        """A lease that cannot be extended is lost after the first visibility."""
        self.delivery.stop_watching()
        self.deliver(first=10)
        self.queue.held["extend"] = [Deferred()]
        self.clock.pump([9.9])
        self.assertFalse(self.is_lost())
        self.clock.advance(0.1)
        self.assertTrue(self.is_lost())

    def test_stop_watching_leaves_no_timers(self) -> None:
        """After stop_watching, even when repeated, no extension is sent and no timer is left."""
        self.delivery.stop_watching()
        self.delivery.stop_watching()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(600)
        self.assertEqual(self.queue.extended, [])
        self.assertFalse(self.is_lost())

    def test_stop_watching_cancels_a_pending_extension(self) -> None:
        """An extension in progress when the work ends is cancelled."""
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.delivery.stop_watching()
        self.clock.advance(600)
        self.assertEqual(len(self.queue.extended), 1)
        self.assertFalse(self.is_lost())

    def test_lost_when_the_queue_says_so(self) -> None:
        """A LeaseLost error cancels the handler once, and nothing more is extended."""
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(30)
        self.clock.advance(0)
        self.assertTrue(self.is_lost())
        self.clock.advance(600)
        self.assertTrue(self.is_lost())
        self.assertEqual(len(self.queue.extended), 1)

    def test_failed_extension_is_retried_sooner(self) -> None:
        """A failed extension is retried before the lease expires."""
        self.queue.errors["extend"] = [QueueError("down"), QueueError("down")]
        self.clock.advance(30)
        self.clock.pump([1] * 17)
        self.assertEqual(len(self.queue.extended), 3)
        self.clock.pump([30] * 4)
        self.assertEqual(len(self.queue.extended), 7)
        self.assertFalse(self.is_lost())

    def test_extension_is_retried_after_any_error(self) -> None:
        """An unexpected error of the driver does not stop the extensions."""
        self.queue.errors["extend"] = [TypeError("odd")]
        self.clock.advance(30)
        self.clock.pump([10] * 5)
        self.assertGreater(len(self.queue.extended), 1)
        self.assertFalse(self.is_lost())

    def test_lost_when_the_queue_stays_unreachable(self) -> None:
        """If every extension fails, the lease is lost when it expires, after a few retries."""
        self.queue.errors["extend"] = [QueueError("down") for _ in range(100)]
        self.clock.pump([0.5] * 119)
        self.assertFalse(self.is_lost())
        self.clock.advance(0.5)
        self.assertTrue(self.is_lost())
        asked = len(self.queue.extended)
        self.assertLess(asked, 15)
        self.clock.advance(600)
        self.assertEqual(len(self.queue.extended), asked)

    def test_lost_while_an_extension_hangs(self) -> None:
        """A lease expires although an extension is still waiting for its response."""
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.clock.advance(30)
        self.assertTrue(self.is_lost())

    def test_extension_counts_from_its_request(self) -> None:
        """An extended lease expires one visibility timeout after the request was sent."""
        held: Deferred[None] = Deferred()
        self.queue.held["extend"] = [held]
        self.clock.advance(30)
        self.clock.advance(25)
        held.callback(None)
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.assertFalse(self.is_lost())
        self.clock.advance(5)
        self.assertTrue(self.is_lost())

    def test_shortest_visibility_timeout(self) -> None:
        """A visibility timeout of two seconds, the minimum of the setting, works."""
        self.delivery.stop_watching()
        self.deliver(first=2, visibility_timeout=2)
        self.clock.pump([0.5] * 20)
        self.assertEqual(len(self.queue.extended), 10)
        self.assertFalse(self.is_lost())


class LeaseLostTests(PollerTestCase):
    """The poller when the lease of a message in flight is lost."""

    def lose(self) -> None:
        """Let the next extension of a lease, which is due after 30 s, report it as lost."""
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(30)
        self.clock.advance(0)

    def assert_lost(self) -> None:
        """The message was neither deleted nor made visible, and counts as lost, once."""
        self.assertEqual((self.queue.deleted, len(self.queue.extended)), ([], 1))
        self.assertEqual(self.handled("lease_lost"), 1)
        for outcome in ("done", "retry", "malformed", "released"):
            self.assertEqual(self.handled(outcome), 0, outcome)

    def ignore_cancellation(self) -> Deferred[None]:
        """Start with a handler that ignores its cancellation and waits for the result."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, slots=1, handler_timeout=100)
        self.give("a")
        return done

    def test_leases_are_independent(self) -> None:
        """Each message is extended from its own receive."""
        self.start()
        self.give("a")
        self.clock.advance(10)
        self.give("b")
        self.clock.advance(20)
        self.assertEqual(self.queue.extended, [("a", 60)])
        self.clock.advance(10)
        self.assertEqual(self.queue.extended, [("a", 60), ("b", 60)])

    def test_handler_is_cancelled(self) -> None:
        """A handler whose lease is lost is cancelled, and its slot is free again."""
        self.start(slots=1)
        self.give("a")
        self.lose()
        self.assertEqual(self.handler.cancelled, ["a"])
        self.assert_lost()
        self.assertTrue(self.queue.polling)

    def test_other_handlers_continue(self) -> None:
        """Only the handler of the lost message is cancelled."""
        self.start()
        self.give("a")
        self.clock.advance(10)
        self.give("b")
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(20)
        self.clock.advance(0)
        self.assertEqual(self.handler.cancelled, ["a"])
        self.handler.finish("b")
        self.assertEqual(self.queue.deleted, ["b"])

    def test_lost_and_handler_succeeds(self) -> None:
        """A message whose handler succeeds after the loss is not deleted."""
        done = self.ignore_cancellation()
        self.lose()
        self.assertFalse(self.queue.polling)
        done.callback(None)
        self.assert_lost()
        self.assertTrue(self.queue.polling)

    def test_lost_and_handler_fails(self) -> None:
        """A message whose handler fails after the loss is not retried by this process."""
        done = self.ignore_cancellation()
        self.lose()
        done.errback(QueueError("cannot clean up"))
        self.assert_lost()

    def test_lost_and_message_is_malformed(self) -> None:
        """A message that is rejected as malformed after its lease was lost is not released."""
        done = self.ignore_cancellation()
        self.lose()
        done.errback(MalformedMessage("not JSON"))
        self.assert_lost()

    def test_lost_and_then_timed_out(self) -> None:
        """A handler that exceeds its time limit after its lease was lost still counts as lost."""
        done = self.ignore_cancellation()
        self.lose()
        self.clock.advance(100)
        done.errback(QueueError("down"))
        self.assert_lost()

    def test_timed_out_and_then_lost(self) -> None:
        """A message whose lease is lost after its handler timed out is not retried."""
        done = self.ignore_cancellation()
        self.clock.pump([10] * 11)
        extended = len(self.queue.extended)
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(10)
        self.clock.advance(0)
        done.errback(QueueError("down"))
        self.assertEqual((self.queue.deleted, len(self.queue.extended)), ([], extended + 1))
        self.assertEqual((self.handled("lease_lost"), self.handled("retry")), (1, 0))

    def test_stop_after_a_lost_lease(self) -> None:
        """A message whose lease was lost before a stop is not released by the stop."""
        done = self.ignore_cancellation()
        self.lose()
        stopping = self.stop()
        self.clock.advance(25)
        done.errback(QueueError("down"))
        self.successResultOf(stopping)
        self.assert_lost()

    def test_lost_while_stopping(self) -> None:
        """A message whose lease is lost while the poller stops is not released."""
        done = self.ignore_cancellation()
        self.clock.advance(20)
        self.queue.errors["extend"] = [LeaseLost("gone")]
        stopping = self.stop()
        self.clock.advance(10)
        self.clock.advance(0)
        done.callback(None)
        self.successResultOf(stopping)
        self.assert_lost()

    def test_retry_of_a_lost_lease_is_no_queue_error(self) -> None:
        """A retry whose lease has just expired is not counted as an error of the queue."""
        self.start(slots=1)
        self.give("a")
        self.queue.errors["extend"] = [LeaseLost("late")]
        self.handler.fail("a", QueueError("down"))
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(self.figure("conclude_errors_total"), 0)
        self.assertTrue(self.queue.polling)
