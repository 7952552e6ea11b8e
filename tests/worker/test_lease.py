"""
Tests of :mod:`fxprofile.worker.lease`, and of what the poller makes of it.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.messages import Message
from fxprofile.worker.lease import Lease
from tests.support.fakes.queue import ScriptedQueue, make_message
from tests.worker.polling import PollerTestCase


class LeaseTests(SynchronousTestCase):
    """A message is kept invisible."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = ScriptedQueue()
        self.losses = 0
        self.begin(first=60)

    def begin(self, first: float) -> None:
        self.lease = Lease(
            queue=self.queue,
            message=make_message("a"),
            first=first,
            visibility_timeout=60,
            clock=self.clock,
            lost=self.lost,
        )
        self.lease.begin()
        self.addCleanup(self.lease.end)

    def lost(self) -> None:
        self.losses += 1

    def test_beats(self) -> None:
        """It is extended at half the visibility timeout, by all of it, for as long as need be."""
        self.clock.advance(29)
        self.assertEqual(self.queue.extended, [])
        self.clock.pump([1] + [30] * 19)
        self.assertEqual(self.queue.extended, [("a", 60)] * 20)
        self.assertEqual(self.losses, 0)

    def test_short_at_first(self) -> None:
        """What is hidden for a short time at first is extended at half of that, by all of it."""
        self.lease.end()
        self.begin(first=10)
        self.clock.pump([4.9, 0.1])
        self.assertEqual(self.queue.extended, [("a", 60)])
        self.clock.pump([29.9, 0.1])
        self.assertEqual(self.queue.extended, [("a", 60)] * 2)
        self.assertEqual(self.losses, 0)

    def test_short_and_lost(self) -> None:
        """And is lost when that time has passed, if it cannot be extended."""
        self.lease.end()
        self.begin(first=10)
        self.queue.held["extend"] = [Deferred()]
        self.clock.pump([9.9])
        self.assertEqual(self.losses, 0)
        self.clock.advance(0.1)
        self.assertEqual(self.losses, 1)

    def test_end(self) -> None:
        """After its end nothing is asked and nothing is left on the clock."""
        self.lease.end()
        self.lease.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(600)
        self.assertEqual((self.queue.extended, self.losses), ([], 0))

    def test_end_in_mid_beat(self) -> None:
        """An extension that is on its way when the work ends is given up."""
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.lease.end()
        self.clock.advance(600)
        self.assertEqual((len(self.queue.extended), self.losses), (1, 0))

    def test_lost(self) -> None:
        """When the queue says that it is lost, that is told, once, and nothing more asked."""
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(30)
        self.clock.advance(0)
        self.assertEqual(self.losses, 1)
        self.clock.advance(600)
        self.assertEqual((len(self.queue.extended), self.losses), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure_is_tried_again(self) -> None:
        """A failed extension is tried again sooner, while there is time."""
        self.queue.errors["extend"] = [QueueError("down"), QueueError("down")]
        self.clock.advance(30)
        self.clock.pump([1] * 17)
        self.assertEqual(len(self.queue.extended), 3)
        self.clock.pump([30] * 4)
        self.assertEqual((len(self.queue.extended), self.losses), (7, 0))

    def test_any_failure(self) -> None:
        """An error of whatever class does not end the heartbeat."""
        self.queue.errors["extend"] = [TypeError("odd")]
        self.clock.advance(30)
        self.clock.pump([10] * 5)
        self.assertGreater(len(self.queue.extended), 1)
        self.assertEqual(self.losses, 0)

    def test_runs_out(self) -> None:
        """If the queue cannot be told in time, the lease is lost when it has run out."""
        self.queue.errors["extend"] = [QueueError("down") for _ in range(100)]
        self.clock.pump([0.5] * 119)
        self.assertEqual(self.losses, 0)
        self.clock.advance(0.5)
        self.assertEqual(self.losses, 1)
        asked = len(self.queue.extended)
        self.assertLess(asked, 15)
        self.clock.advance(600)
        self.assertEqual(len(self.queue.extended), asked)

    def test_hangs(self) -> None:
        """An extension that hangs does not hide that the lease has run out."""
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.clock.advance(30)
        self.assertEqual(self.losses, 1)

    def test_late_answer(self) -> None:
        """The time counts from when the extension was asked for, not from its answer."""
        held: Deferred[None] = Deferred()
        self.queue.held["extend"] = [held]
        self.clock.advance(30)
        self.clock.advance(25)
        held.callback(None)
        self.queue.held["extend"] = [Deferred()]
        self.clock.advance(30)
        self.assertEqual(self.losses, 0)
        self.clock.advance(5)
        self.assertEqual(self.losses, 1)

    def test_short_timeout(self) -> None:
        """Two seconds, the shortest that can be set, do."""
        clock, queue = Clock(), ScriptedQueue()
        lease = Lease(
            queue=queue,
            message=make_message("a"),
            first=2,
            visibility_timeout=2,
            clock=clock,
            lost=self.lost,
        )
        lease.begin()
        self.addCleanup(lease.end)
        clock.pump([0.5] * 20)
        self.assertEqual(len(queue.extended), 10)
        self.assertEqual(self.losses, 0)


class LostWorkTests(PollerTestCase):
    """What the poller does with work whose lease is lost."""

    def lose(self) -> None:
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(30)
        self.clock.advance(0)

    def test_heartbeat_per_message(self) -> None:
        """Each message has a heartbeat of its own, from when it came."""
        self.start()
        self.give("a")
        self.clock.advance(10)
        self.give("b")
        self.clock.advance(20)
        self.assertEqual(self.queue.extended, [("a", 60)])
        self.clock.advance(10)
        self.assertEqual(self.queue.extended, [("a", 60), ("b", 60)])

    def test_cancelled(self) -> None:
        """The work is cancelled, and the message neither deleted nor touched again."""
        self.start(slots=1)
        self.give("a")
        self.lose()
        self.assertEqual(self.hands.cancelled, ["a"])
        self.assertEqual((self.queue.deleted, len(self.queue.extended)), ([], 1))
        self.assertEqual(self.handled("lease_lost"), 1)
        self.assertTrue(self.queue.polling)

    def test_others_go_on(self) -> None:
        """Only the work of that message is cancelled."""
        self.start()
        self.give("a")
        self.clock.advance(10)
        self.give("b")
        self.queue.errors["extend"] = [LeaseLost("gone")]
        self.clock.advance(20)
        self.clock.advance(0)
        self.assertEqual(self.hands.cancelled, ["a"])
        self.hands.finish("b")
        self.assertEqual(self.queue.deleted, ["b"])

    def test_swallows_the_cancellation(self) -> None:
        """Work that gets done all the same deletes nothing: another may be at it."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, slots=1)
        self.give("a")
        self.lose()
        self.assertFalse(self.queue.polling)
        done.callback(None)
        self.assertEqual(self.queue.deleted, [])
        self.assertTrue(self.queue.polling)

    def test_fails_on_cancellation(self) -> None:
        """Work that ends in an error of its own when cancelled does not touch it either."""

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                raise QueueError("cannot clean up") from None

        self.start(handler=handle)
        self.give("a")
        self.lose()
        self.assertEqual((self.queue.deleted, len(self.queue.extended)), ([], 1))
