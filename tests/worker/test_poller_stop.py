"""
Tests of :mod:`fxprofile.worker.poller`: how it stops and starts again.
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
    """A stop loses nothing and takes no longer than it may."""

    def test_idle(self) -> None:
        """An idle poller gives up its poll, and is stopped at once, with nothing left to do."""
        self.start()
        self.successResultOf(self.stop())
        self.assertFalse(self.queue.polling)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(600)
        self.assertEqual(len(self.queue.polls), 1)

    def test_backing_off(self) -> None:
        """A poller that waits to try again does not do so any more."""
        self.start()
        self.queue.refuse(QueueError("down"))
        self.successResultOf(self.stop())
        self.clock.advance(600)
        self.assertEqual(len(self.queue.polls), 1)

    def test_failing_poll(self) -> None:
        """A driver that fails when its poll is given up does not disturb the stop."""
        poll: Deferred[None] = Deferred(lambda d: d.errback(QueueError("aborted")))
        self.queue.held["receive"] = [poll]
        self.start()
        self.successResultOf(self.stop())

    def test_finishes_what_is_in_hand(self) -> None:
        """Messages in hand are finished, and deleted, before the stop is done."""
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

    def test_takes_nothing_more(self) -> None:
        """A slot that gets free while it stops is not filled."""
        self.start(slots=1)
        self.give("a")
        self.stop()
        self.handler.finish("a")
        self.assertFalse(self.queue.polling)

    def test_keeps_leases(self) -> None:
        """While it waits for the end of its work, it keeps extending it."""
        self.start(grace=100)
        self.give("a")
        self.stop()
        self.clock.pump([10] * 9)
        self.assertEqual(self.queue.extended, [("a", 60)] * 3)

    def test_failure_while_stopping(self) -> None:
        """Work that fails while it stops is tried again later, as ever."""
        self.start()
        self.give("a")
        stopping = self.stop()
        self.handler.fail("a", QueueError("down"))
        self.successResultOf(stopping)
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])

    def test_hands_back(self) -> None:
        """What is not finished within the grace is cancelled, and handed back at once."""
        self.start(grace=25)
        self.give("a", "b")
        stopping = self.stop()
        self.clock.advance(24)
        self.assertEqual(self.handler.cancelled, [])
        self.clock.advance(1)
        self.successResultOf(stopping)
        self.assertEqual(self.handler.cancelled, ["a", "b"])
        self.assertEqual(self.queue.extended, [("a", 0), ("b", 0)])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(self.handled("released"), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handler_that_does_not_listen(self) -> None:
        """Work that swallows its cancellation is handed back without it."""
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
        self.assertEqual(self.queue.extended, [("a", 0)])
        self.clock.advance(60)
        done.callback(None)
        self.assertEqual((self.queue.deleted, len(self.queue.extended)), ([], 1))

    def test_several_that_do_not_listen(self) -> None:
        """They are handed back together, so one that takes its time does not add to others."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, grace=25)
        self.give("a", "b")
        held = [Deferred(), Deferred()]
        self.queue.held["extend"] = list(held)
        stopping = self.stop()
        self.clock.pump([25, CLEANUP])
        self.assertEqual(self.queue.extended, [("a", 0), ("b", 0)])
        held[1].callback(None)
        self.assertNoResult(stopping)
        held[0].errback(TypeError("odd"))
        self.successResultOf(stopping)
        done.callback(None)

    def test_done_in_the_last_moment(self) -> None:
        """Work that gets done when it is cancelled is done."""

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

    def test_delete_is_not_given_up(self) -> None:
        """The end of the grace does not cancel a delete that is on its way."""
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

    def test_delete_that_hangs(self) -> None:
        """A delete that hangs does not hold up the stop for ever, and is not undone."""
        self.start(grace=25)
        self.give("a")
        self.queue.held["delete"] = [Deferred()]
        self.handler.finish("a")
        stopping = self.stop()
        self.clock.pump([25, CLEANUP])
        self.successResultOf(stopping)
        self.assertEqual(self.queue.extended, [])

    def test_hand_back_fails(self) -> None:
        """If handing back fails, the stop goes on: the lease will run out."""
        self.start(grace=25)
        self.give("a", "b")
        self.queue.errors["extend"] = [QueueError("down")]
        stopping = self.stop()
        self.clock.advance(25)
        self.successResultOf(stopping)
        self.assertEqual(len(self.queue.extended), 2)

    def test_messages_that_come_while_stopping(self) -> None:
        """A poll that answers although it was given up loses nothing: it is handled."""
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

    def test_twice(self) -> None:
        """A second stop is harmless, during the first one and after it."""
        self.start()
        self.give("a")
        first = self.stop()
        self.successResultOf(self.stop())
        self.handler.finish("a")
        self.successResultOf(first)
        self.successResultOf(self.stop())

    def test_never_started(self) -> None:
        """A poller that was not started can be stopped."""
        poller = Poller(
            queue=self.queue,
            handler=self.handler,
            slots=1,
            visibility_timeout=60,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.successResultOf(poller.stopService())

    def test_again(self) -> None:
        """A stopped poller can be started again, and is as before."""
        poller = self.start()
        self.give("a")
        stopping = self.stop()
        self.handler.finish("a")
        self.successResultOf(stopping)
        poller.startService()
        self.assertTrue(poller.healthy)
        self.give("b")
        self.handler.finish("b")
        self.assertEqual(self.queue.deleted, ["a", "b"])
        self.successResultOf(self.stop())

    def test_again_before_it_has_stopped(self) -> None:
        """Started again while a poll is still being given up, it has one loop, not two."""
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
    """The poller and a queue together."""

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

    def test_stop_while_polling(self) -> None:
        """A message that comes right after the stop waits for somebody else."""
        self.poller.startService()
        self.successResultOf(self.poller.stopService())
        self.send("a")
        self.assertEqual(self.depth(self.queue), (1, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handed_back(self) -> None:
        """What was handed back can be received by somebody else at once."""
        self.poller.startService()
        self.send("a")
        self.assertEqual(self.depth(self.queue), (0, 1))
        stopping = self.poller.stopService()
        self.clock.advance(25)
        self.successResultOf(stopping)
        self.assertEqual(self.depth(self.queue), (1, 0))

    def test_poison(self) -> None:
        """A message that always fails ends among the dead, and others pass it by."""
        bodies = []

        async def handle(message: Message) -> None:
            bodies.append(message.body)
            if message.body == "poison":
                raise QueueError("again")

        self.poller._handler = handle
        self.poller.startService()
        self.send("poison")
        self.send("fine")
        self.clock.pump([1] * 1000)
        self.assertEqual(sorted(bodies), ["fine", *["poison"] * 3])
        self.assertEqual(self.depth(self.queue), (0, 0))
        self.assertEqual(self.depth(self.queue.dead), (1, 0))
        self.successResultOf(self.poller.stopService())

    def test_long_work(self) -> None:
        """Work of any length is not given to somebody else."""
        self.poller.startService()
        self.send("a")
        self.clock.pump([1] * 500)
        self.assertEqual(len(self.handler.seen), 1)
        self.handler.finish(self.handler.seen[0])
        self.assertEqual(self.depth(self.queue), (0, 0))
        self.successResultOf(self.poller.stopService())
