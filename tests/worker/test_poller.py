"""
Tests of :mod:`fxprofile.worker.poller`: receiving and handling.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from fxprofile.model.errors import LeaseLost, MalformedMessage, QueueError
from fxprofile.model.messages import Message
from fxprofile.model.ports import BATCH
from fxprofile.worker.poller import (
    EMPTY_PAUSE,
    PROMPT_RECEIVES,
    RETRY_DELAYS,
    STALE_AFTER,
    WAIT,
)
from tests.support.fakes.queue import make_message
from tests.worker.polling import VISIBILITY, PollerTestCase


class ReceivingTests(PollerTestCase):
    """What the poller asks of its queue."""

    def test_asks_for_free_slots(self) -> None:
        """A receive asks for as many messages as there are free slots, by a long poll."""
        self.start(slots=3)
        self.assertEqual(self.queue.polls, [(3, WAIT)])

    def test_asks_for_the_rest(self) -> None:
        """While some slots are taken, only the rest is asked for."""
        self.start(slots=3)
        self.give("a")
        self.assertEqual(self.queue.polls[-1], (2, WAIT))
        self.assertEqual(self.handler.seen, ["a"])

    def test_asks_for_a_batch_at_most(self) -> None:
        """However many slots are free, no more is asked for than a queue gives."""
        self.start(slots=25)
        self.assertEqual(self.queue.polls, [(BATCH, WAIT)])

    def test_full_hands(self) -> None:
        """Without a free slot nothing is received, so no message waits in vain."""
        self.start(slots=2)
        self.give("a", "b")
        self.clock.advance(30)
        self.assertFalse(self.queue.polling)

    def test_refill(self) -> None:
        """One slot that gets free is filled at once, whatever the others do."""
        self.start(slots=2)
        self.give("a", "b")
        self.handler.finish("b")
        self.assertEqual(self.queue.polls[-1], (1, WAIT))
        self.give("c")
        self.assertEqual(self.handler.seen, ["a", "b", "c"])

    def test_every_end_frees_one_slot(self) -> None:
        """Success, failure and a failing delete each free exactly one slot."""
        self.start(slots=3)
        self.give("a", "b", "c")
        self.queue.errors["delete"] = [QueueError("down")]
        self.handler.finish("a")
        self.handler.fail("b", QueueError("down"))
        self.handler.fail("c", MalformedMessage("odd"))
        self.assertEqual(self.queue.polls[1:], [(1, WAIT)])
        self.assertEqual(self.figure("in_hand"), 0)
        self.give("d")
        self.assertEqual(self.queue.polls[-1], (2, WAIT))

    def test_hides_shortly_at_first(self) -> None:
        """A receive hides messages shortly, as its answer may reach nobody, and never longer."""
        self.start(first=15)
        self.assertEqual(self.queue.hidden, [15])
        self.give("a")
        self.clock.advance(7.5)
        self.assertEqual(self.queue.extended, [("a", VISIBILITY)])
        self.end()
        self.start(first=15, visibility_timeout=4)
        self.assertEqual(self.queue.hidden[-1], 4)

    def test_nothing_came(self) -> None:
        """A long poll that gave nothing is followed by the next one at once."""
        self.start()
        self.clock.advance(WAIT)
        self.queue.give()
        self.assertTrue(self.queue.polling)

    def test_a_queue_that_does_not_wait(self) -> None:
        """Empty answers that come at once are not asked for in a busy loop."""
        self.start()
        for number in range(1, 5):
            self.queue.give()
            self.assertEqual(len(self.queue.polls), number)
            self.clock.advance(EMPTY_PAUSE)
            self.assertEqual(len(self.queue.polls), number + 1)

    def test_backs_off(self) -> None:
        """
        After a failed receive the next one waits, from 1 s on, twice as long each time,
        up to 60 s; a good one ends this.
        """
        self.start()
        for expected in (1, 2, 4, 8, 16, 32, 60, 60):
            self.queue.refuse(QueueError("down"))
            self.clock.advance(expected - 0.001)
            self.assertFalse(self.queue.polling)
            self.clock.advance(0.001)
            self.assertTrue(self.queue.polling)
        self.clock.advance(WAIT)
        self.queue.give()
        self.queue.refuse(QueueError("down"))
        self.clock.advance(1)
        self.assertTrue(self.queue.polling)
        self.assertEqual(self.figure("receive_errors_total"), 9)

    def test_backs_off_from_everything(self) -> None:
        """
        Whatever a receive raises, even a cancellation that nobody asked for, the loop
        goes on, and slowly.
        """
        self.start()
        errors = (QueueError("x"), ValueError("x"), OSError(), CancelledError(), RuntimeError())
        for error in errors:
            self.queue.refuse(error)
            self.assertFalse(self.queue.polling)
            self.clock.advance(60)
            self.assertTrue(self.queue.polling)

    def test_receive_backoff_has_jitter(self) -> None:
        """The delay after a failed receive is at least a tenth of its limit."""
        self.start(chance=lambda: 0.0)
        self.queue.refuse(QueueError("down"))
        self.clock.advance(0.099)
        self.assertFalse(self.queue.polling)
        self.clock.advance(0.001)
        self.assertTrue(self.queue.polling)

    def test_a_bad_message_does_not_end_the_loop(self) -> None:
        """A driver that gives nonsense is one that fails."""
        self.start()
        for nonsense in ([None], None, 1):
            self.queue.answer(nonsense)
            self.assertFalse(self.queue.polling)
            self.clock.advance(60)
            self.assertTrue(self.queue.polling)
        self.assertEqual(self.queue.polls[-1], (2, WAIT))
        self.give("a")
        self.assertEqual(self.handler.seen, ["a"])


class HealthTests(PollerTestCase):
    """What the heartbeat hears."""

    def test_before_and_after(self) -> None:
        """A poller that was not started, or was stopped, is not healthy."""
        poller = self.start()
        self.assertTrue(poller.healthy)
        self.successResultOf(self.stop())
        self.assertFalse(poller.healthy)

    def test_no_answer(self) -> None:
        """A queue that has not answered for a while makes it unhealthy, until it does."""
        poller = self.start()
        self.clock.advance(STALE_AFTER - 1)
        self.assertTrue(poller.healthy)
        self.clock.advance(1)
        self.assertFalse(poller.healthy)
        self.queue.give()
        self.assertTrue(poller.healthy)

    def test_full_hands(self) -> None:
        """A queue that was not asked, because the hands are full, is not to blame."""
        poller = self.start(slots=1)
        self.give("a")
        for _ in range(10):
            self.clock.advance(VISIBILITY / 2)
        self.assertTrue(poller.healthy)
        self.handler.finish("a")
        self.assertTrue(poller.healthy)


class HandlingTests(PollerTestCase):
    """What becomes of a message."""

    def test_done(self) -> None:
        """A message is deleted when its work is done, and not before."""
        self.start()
        self.give("a")
        self.assertEqual(self.queue.deleted, [])
        self.handler.finish("a")
        self.assertEqual(self.queue.deleted, ["a"])
        self.assertEqual(self.handled("done"), 1)

    def test_failed(self) -> None:
        """A message whose work failed comes back after a while, and is not deleted."""
        self.start()
        self.give("a")
        self.handler.fail("a", QueueError("down"))
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(self.handled("retry"), 1)

    def test_growing_delays(self) -> None:
        """The more often it was received, the longer it stays away; the last step repeats."""
        self.start(slots=10, chance=lambda: 0.5)
        for count in range(1, 7):
            self.give(str(count), receive_count=count)
            self.handler.fail(str(count), QueueError("down"))
        delays = [visibility for _, visibility in self.queue.extended]
        self.assertEqual(delays, [*RETRY_DELAYS, RETRY_DELAYS[-1], RETRY_DELAYS[-1]])

    def test_jitter(self) -> None:
        """The delays of messages that fail together differ by a fifth either way."""
        chances = [0.0, 1.0]
        self.start(chance=lambda: chances.pop(0))
        self.give("a", "b")
        self.handler.fail("a", QueueError("down"))
        self.handler.fail("b", QueueError("down"))
        self.assertEqual(
            self.queue.extended, [("a", RETRY_DELAYS[0] * 0.8), ("b", RETRY_DELAYS[0] * 1.2)]
        )

    def test_unexpected_error(self) -> None:
        """An error that nobody thought of is logged with its trace, and tried again too."""
        self.start()
        self.give("a")
        self.handler.fail("a", ZeroDivisionError())
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_ordinary_error(self) -> None:
        """What is not even an exception of the usual kind costs no slot and no message."""
        self.start(slots=1)
        self.give("a")
        self.handler.fail("a", SystemExit(1))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(self.queue.deleted, [])
        self.assertTrue(self.queue.polling)

    def test_cancellation_of_its_own(self) -> None:
        """A handler that ends in a cancellation which nobody asked for has failed."""
        self.start()
        self.give("a")
        self.handler.fail("a", CancelledError())
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_malformed(self) -> None:
        """
        What is not understood goes back at once, again and again, until the queue
        declares it dead; it is logged the first time only.
        """
        self.start(slots=10)
        logged = []
        self.patch_log(logged)
        for count in (1, 2, 3):
            self.give(str(count), receive_count=count)
            self.handler.fail(str(count), MalformedMessage("not JSON"))
        self.assertEqual(self.queue.extended, [("1", 0), ("2", 0), ("3", 0)])
        self.assertEqual(len([event for event in logged if "is malformed" in event]), 1)
        self.assertEqual(self.handled("malformed"), 3)

    def test_malformed_for_ever(self) -> None:
        """
        On a queue that declares nothing dead, what is not understood comes back more
        and more slowly.
        """
        self.start(slots=10)
        for count in (PROMPT_RECEIVES, PROMPT_RECEIVES + 1, PROMPT_RECEIVES + 99):
            self.give(str(count), receive_count=count)
            self.handler.fail(str(count), MalformedMessage("not JSON"))
        delays = [visibility for _, visibility in self.queue.extended]
        self.assertEqual(delays, [0, RETRY_DELAYS[0] * 1.2, RETRY_DELAYS[-1] * 1.2])

    def patch_log(self, logged: list[str]) -> None:
        def observe(event: LogEvent) -> None:
            logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_conclusion_fails(self) -> None:
        """If the queue cannot be told of an outcome, the message comes back by itself."""
        self.start(slots=3)
        self.give("a", "b", "c")
        self.queue.errors["delete"] = [QueueError("down")]
        self.queue.errors["extend"] = [QueueError("down"), LeaseLost("late")]
        self.handler.finish("a")
        self.handler.fail("b", QueueError("down"))
        self.handler.fail("c", QueueError("down"))
        self.assertTrue(self.queue.polling)
        self.assertEqual(self.figure("in_hand"), 0)
        # A lease that has run out is no failure of the queue.
        self.assertEqual(self.figure("conclude_errors_total"), 2)

    def test_conclusion_breaks(self) -> None:
        """Even a driver that breaks the rules at the end costs no slot."""
        self.start(slots=1)
        self.give("a")
        self.queue.errors["delete"] = [TypeError("odd")]
        self.handler.finish("a")
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(self.queue.polling)

    def test_handler_that_raises_at_once(self) -> None:
        """A handler that fails before its first await is like any other."""

        async def handle(message: Message) -> None:
            raise QueueError("down")

        self.start(handler=handle)
        self.give("a", "b")
        self.assertEqual([name for name, _ in self.queue.extended], ["a", "b"])

    def test_handler_that_gives_nothing(self) -> None:
        """A handler that gives nothing to wait for has not done its work."""
        self.start(handler=lambda message: None)
        self.give("a")
        self.assertEqual([name for name, _ in self.queue.extended], ["a"])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_messages_apart(self) -> None:
        """The end of one message stops neither the work nor the heartbeat of another."""
        self.start()
        self.give("a", "b")
        self.handler.finish("a")
        self.clock.advance(VISIBILITY / 2)
        self.assertEqual(self.queue.extended, [("b", VISIBILITY)])
        self.assertEqual(self.handler.cancelled, [])

    def test_age(self) -> None:
        """How long messages have waited is counted; a clock that lags makes no error."""
        self.start(slots=3)
        self.clock.advance(5)
        self.give("a")
        late = make_message("b")
        self.queue.give(Message(**{**vars(late), "sent": 99}))
        self.assertEqual(self.figure("message_age_seconds_sum"), 5)
        self.assertEqual(self.figure("message_age_seconds_count"), 2)

    def test_receive_count(self) -> None:
        """So is how often they had been received."""
        self.start()
        self.give("a", receive_count=3)
        self.assertEqual(self.figure("receive_count_sum"), 3)


class OverdueTests(PollerTestCase):
    """Work that does not end."""

    def test_cancelled(self) -> None:
        """Work that takes longer than any work may is cancelled, and tried again later."""
        self.start(handler_timeout=100)
        self.give("a")
        self.clock.pump([10] * 10)
        self.assertEqual(self.handler.cancelled, ["a"])
        self.assertEqual(self.queue.extended[-1], ("a", RETRY_DELAYS[0] * 1.2))
        self.assertEqual(self.handled("retry"), 1)

    def test_done_in_time(self) -> None:
        """Nothing is left on the clock by work that is done."""
        self.start(slots=1)
        self.give("a")
        self.handler.finish("a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_swallows_the_cancellation(self) -> None:
        """Work that does not listen keeps its slot, and is deleted if it gets done."""
        done: Deferred[None] = Deferred()

        async def handle(message: Message) -> None:
            try:
                await Deferred()
            except CancelledError:
                await done

        self.start(handler=handle, slots=1, handler_timeout=100)
        self.give("a")
        self.clock.pump([10] * 12)
        self.assertFalse(self.queue.polling)
        done.callback(None)
        self.assertEqual(self.queue.deleted, ["a"])
        self.assertTrue(self.queue.polling)
