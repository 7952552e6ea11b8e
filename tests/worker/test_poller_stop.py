"""
Tests of :mod:`fxprofile.worker.poller`: stop and restart.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.errors import QueueError
from fxprofile.model.messages import Message
from fxprofile.telemetry.metrics import Metrics
from fxprofile.worker.poller import CLEANUP, RETRY_DELAYS, Poller
from tests.worker.polling import ManualHandler, PollerTestCase


class StoppingTests(PollerTestCase):
    """A stop loses no message and ends in time."""

    def test_idle_poller_stops_at_once(self) -> None:
        """An idle poller cancels its receive, stops at once and leaves no timer."""
        self.start()
        self.successResultOf(self.stop())
        self.assertFalse(self.queue.polling)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(600)
        self.assertEqual(len(self.queue.polls), 1)

    def test_stop_during_backoff(self) -> None:
        """A poller that is backing off does not receive again after a stop."""
        self.start()
        self.queue.refuse(QueueError("down"))
        self.successResultOf(self.stop())
        self.clock.advance(600)
        self.assertEqual(len(self.queue.polls), 1)

    def test_receive_fails_when_cancelled(self) -> None:
        """A driver that fails when its receive is cancelled does not disturb the stop."""
        poll: Deferred[None] = Deferred(lambda d: d.errback(QueueError("aborted")))
        self.queue.held["receive"] = [poll]
        self.start()
        self.successResultOf(self.stop())

    def test_messages_in_flight_are_finished(self) -> None:
        """Messages in flight are finished and deleted before the stop ends."""
        self.start()
        self.give("a", "b")
        stopping = self.stop()
        self.clock.advance(10)
        self.handler.finish("a")
        self.assertNoResult(stopping)
        self.handler.finish("b")
        self.successResultOf(stopping)
        self.assertEqual(self.queue.deleted, ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_freed_slot_is_not_filled_while_stopping(self) -> None:
        """A slot that becomes free during the stop is not filled."""
        self.start(slots=1)
        self.give("a")
        self.stop()
        self.handler.finish("a")
        self.assertFalse(self.queue.polling)

    def test_leases_are_extended_while_stopping(self) -> None:
        """The leases of messages in flight are extended during the stop."""
        self.start(grace=100)
        self.give("a")
        self.stop()
        self.clock.pump([10] * 9)
        self.assertEqual(self.queue.extended, [("a", 60)] * 3)

    def test_failed_handler_is_retried_while_stopping(self) -> None:
        """A handler that fails during the stop has its message retried as usual."""
        self.start()
        self.give("a")
        stopping = self.stop()
        self.handler.fail("a", QueueError("down"))
        self.successResultOf(stopping)
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])

    def test_unfinished_messages_are_released(self) -> None:
        """
        Handlers that run longer than the grace period are cancelled, and their messages released.
        """
        self.start(grace=25)
        self.give("a", "b")
        stopping = self.stop()
        self.clock.advance(24)
        self.assertEqual(self.handler.cancelled, [])
        self.clock.advance(1)
        self.successResultOf(stopping)
        self.assertEqual(self.handler.cancelled, ["a", "b"])
        self.assertEqual(self.queue.released, ["a", "b"])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(self.handled("released"), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handler_that_ignores_its_cancellation(self) -> None:
        """The message of a handler that ignores its cancellation is released without it."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, grace=25)
        self.give("a")
        stopping = self.stop()
        self.clock.advance(25)
        self.assertNoResult(stopping)
        self.clock.advance(CLEANUP)
        self.successResultOf(stopping)
        self.assertEqual(self.queue.released, ["a"])
        self.clock.advance(60)
        done.callback(None)
        self.assertEqual((self.queue.deleted, self.queue.released), ([], ["a"]))

    def test_messages_are_released_concurrently(self) -> None:
        """Several messages are released concurrently, so that a slow release delays no other."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, grace=25)
        self.give("a", "b")
        held = [Deferred(), Deferred()]
        self.queue.held["release"] = list(held)
        stopping = self.stop()
        self.clock.pump([25, CLEANUP])
        self.assertEqual(self.queue.released, ["a", "b"])
        held[1].callback(None)
        self.assertNoResult(stopping)
        held[0].errback(TypeError("odd"))
        self.successResultOf(stopping)
        done.callback(None)

    def test_handler_succeeds_when_cancelled(self) -> None:
        """A handler that succeeds when it is cancelled has its message deleted."""

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                return

        self.start(handler=handle, grace=25)
        self.give("a")
        stopping = self.stop()
        self.clock.advance(25)
        self.successResultOf(stopping)
        self.assertEqual((self.queue.deleted, self.queue.extended), (["a"], []))

    def test_delete_in_progress_is_not_cancelled(self) -> None:
        """The end of the grace period does not cancel a delete in progress."""
        self.start(grace=25)
        self.give("a")
        held: Deferred[None] = Deferred()
        self.queue.held["delete"] = [held]
        self.handler.finish("a")
        stopping = self.stop()
        self.clock.advance(25)
        held.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.queue.extended, [])

    def test_hanging_delete_does_not_block_the_stop(self) -> None:
        """A delete that hangs neither blocks the stop nor has its message released."""
        self.start(grace=25)
        self.give("a")
        self.queue.held["delete"] = [Deferred()]
        self.handler.finish("a")
        stopping = self.stop()
        self.clock.pump([25, CLEANUP])
        self.successResultOf(stopping)
        self.assertEqual(self.queue.extended, [])

    def test_failed_release_does_not_block_the_stop(self) -> None:
        """A release that fails does not block the stop: the lease will expire."""
        self.start(grace=25)
        self.give("a", "b")
        self.queue.errors["release"] = [QueueError("down")]
        stopping = self.stop()
        self.clock.advance(25)
        self.successResultOf(stopping)
        self.assertEqual(len(self.queue.released), 2)

    def test_messages_received_while_stopping(self) -> None:
        """Messages that a cancelled receive still returns are handled."""
        poll: Deferred[None] = Deferred(lambda d: d.callback(None))
        self.queue.held["receive"] = [poll]
        self.start()
        stopping = self.stop()
        self.assertNoResult(stopping)
        self.give("a")
        self.assertNoResult(stopping)
        self.handler.finish("a")
        self.successResultOf(stopping)
        self.assertEqual(self.queue.deleted, ["a"])

    def test_repeated_stop(self) -> None:
        """A second stop has no effect, neither during the first one nor after it."""
        self.start()
        self.give("a")
        first = self.stop()
        self.successResultOf(self.stop())
        self.handler.finish("a")
        self.successResultOf(first)
        self.successResultOf(self.stop())

    def test_stop_without_start(self) -> None:
        """A poller that was never started can be stopped."""
        poller = Poller(
            queue=self.queue,
            handler=self.handler,
            slots=1,
            visibility_timeout=60,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.successResultOf(poller.stopService())

    def test_stopped_poller_can_be_restarted(self) -> None:
        """A stopped poller can be started again."""
        poller = self.start()
        self.give("a")
        stopping = self.stop()
        self.handler.finish("a")
        self.successResultOf(stopping)
        poller.startService()
        self.assertTrue(self.is_healthy())
        self.give("b")
        self.handler.finish("b")
        self.assertEqual(self.queue.deleted, ["a", "b"])
        self.successResultOf(self.stop())

    def test_restart_while_stopping(self) -> None:
        """A poller that is restarted while its receive is being cancelled has one loop."""
        poll: Deferred[None] = Deferred(lambda d: d.callback(None))
        self.queue.held["receive"] = [poll]
        poller = self.start()
        self.stop()
        self.queue.held["receive"] = [Deferred()]
        poller.startService()
        self.assertEqual(len(self.queue.polls), 2)
        self.give("a")
        self.clock.pump([10] * 10)
        self.assertEqual(len(self.queue.polls), 2)

    def test_restart_at_capacity_while_stopping(self) -> None:
        """The end of a handler wakes both the stop that waits for it and a restarted loop."""
        poller = self.start(slots=1)
        self.give("a")
        stopping = self.stop()
        poller.startService()
        self.handler.finish("a")
        self.successResultOf(stopping)
        self.assertTrue(self.queue.polling)


class RealQueueTests(SynchronousTestCase):
    """The poller on a memory queue."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = MemoryQueue("jobs", 60, 3, self.clock)
        self.handler = ManualHandler()
        self.poller = Poller(
            queue=self.queue,
            handler=self.handler,
            slots=2,
            visibility_timeout=60,
            metrics=Metrics(),
            clock=self.clock,
        )

    def send(self, body: str) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.queue.send(body=body)))

    def depth(self, queue: MemoryQueue) -> tuple[int, int]:
        depth = self.successResultOf(Deferred.fromCoroutine(queue.depth()))
        return depth.visible, depth.in_flight

    def test_message_after_a_stop_stays_visible(self) -> None:
        """A message sent right after a stop stays visible for other consumers."""
        self.poller.startService()
        self.successResultOf(self.poller.stopService())
        self.send("a")
        self.assertEqual(self.depth(self.queue), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_released_message_is_visible_at_once(self) -> None:
        """A released message is visible at once for other consumers."""
        self.poller.startService()
        self.send("a")
        self.assertEqual(self.depth(self.queue), (0, 1))
        stopping = self.poller.stopService()
        self.clock.advance(25)
        self.successResultOf(stopping)
        self.assertEqual(self.depth(self.queue), (1, 0))

    def test_poison_message_is_dead_lettered(self) -> None:
        """A message that always fails is dead-lettered and does not block others."""
        bodies = []

        async def handle(message: Message) -> None:
            bodies.append(message.body)
            if message.body == "poison":
                raise QueueError("again")

        self.poller.handler = handle
        self.poller.startService()
        self.send("poison")
        self.send("fine")
        self.clock.pump([1] * 1000)
        self.assertEqual(sorted(bodies), ["fine", *["poison"] * 3])
        self.assertEqual(self.depth(self.queue), (0, 0))
        self.assertEqual(self.depth(self.queue.dead), (1, 0))
        self.successResultOf(self.poller.stopService())

    def test_long_handler_keeps_its_message(self) -> None:
        """A message stays invisible for as long as its handler runs."""
        self.poller.startService()
        self.send("a")
        self.clock.pump([1] * 500)
        self.assertEqual(len(self.handler.seen), 1)
        self.handler.finish(self.handler.seen[0])
        self.assertEqual(self.depth(self.queue), (0, 0))
        self.successResultOf(self.poller.stopService())
