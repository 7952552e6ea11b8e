"""
Tests of :mod:`fxprofile.worker.poller`: receiving and handling.
"""

from __future__ import annotations

import errno

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from fxprofile.model.errors import (
    CruncherUnavailable,
    LeaseLost,
    MalformedMessage,
    QueueError,
    StorageError,
)
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
    """Receives of the poller."""

    def test_receive_fills_the_free_slots(self) -> None:
        """A receive long-polls for as many messages as there are free slots."""
        self.start(slots=3)
        self.assertEqual(self.queue.polls, [(3, WAIT)])

    def test_receive_continues_while_slots_are_taken(self) -> None:
        """While some slots are taken, a receive asks for the number of the free ones."""
        self.start(slots=3)
        self.give("a")
        self.assertEqual(self.queue.polls[-1], (2, WAIT))
        self.assertEqual(self.handler.seen, ["a"])

    def test_receive_is_limited_to_a_batch(self) -> None:
        """A receive never asks for more than a batch, even with more free slots."""
        self.start(slots=25)
        self.assertEqual(self.queue.polls, [(BATCH, WAIT)])

    def test_no_receive_at_capacity(self) -> None:
        """A poller at capacity does not receive."""
        self.start(slots=2)
        self.give("a", "b")
        self.clock.advance(30)
        self.assertFalse(self.queue.polling)

    def test_freed_slot_is_filled_at_once(self) -> None:
        """A slot that becomes free is filled at once, while other handlers run on."""
        self.start(slots=2)
        self.give("a", "b")
        self.handler.finish("b")
        self.assertEqual(self.queue.polls[-1], (1, WAIT))
        self.give("c")
        self.assertEqual(self.handler.seen, ["a", "b", "c"])

    def test_each_outcome_frees_one_slot(self) -> None:
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

    def test_first_visibility(self) -> None:
        """
        A receive hides messages for the first visibility, or the visibility timeout if that is
        shorter.
        """
        self.start(first=15)
        self.assertEqual(self.queue.hidden, [15])
        self.give("a")
        self.clock.advance(7.5)
        self.assertEqual(self.queue.extended, [("a", VISIBILITY)])
        self.end()
        self.start(first=15, visibility_timeout=4)
        self.assertEqual(self.queue.hidden[-1], 4)

    def test_empty_long_poll_is_repeated_at_once(self) -> None:
        """An empty long poll is followed by the next one at once."""
        self.start()
        self.clock.advance(WAIT)
        self.queue.give()
        self.assertTrue(self.queue.polling)

    def test_empty_short_poll_is_paused(self) -> None:
        """
        A queue that returns empty without waiting is polled once per pause, not in a busy loop.
        """
        self.start()
        for number in range(1, 5):
            self.queue.give()
            self.assertEqual(len(self.queue.polls), number)
            self.clock.advance(EMPTY_PAUSE)
            self.assertEqual(len(self.queue.polls), number + 1)

    def test_failed_receive_backs_off(self) -> None:
        """
        Failed receives are retried after 1 s, doubling up to 5 s; a success resets the delay.
        """
        self.start()
        for expected in (1, 2, 4, 5, 5):
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
        self.assertEqual(self.figure("receive_errors_total"), 6)

    def test_any_receive_error_backs_off(self) -> None:
        """
        The loop survives any error of a receive, even an unexpected cancellation, and backs off.
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

    def test_invalid_receive_result_backs_off(self) -> None:
        """A driver that returns an invalid result is treated as one that failed."""
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
    """The health of the poller, for the heartbeat."""

    def test_stopped_poller_is_unhealthy(self) -> None:
        """A poller is healthy only while it runs."""
        self.start()
        self.assertTrue(self.is_healthy())
        self.successResultOf(self.stop())
        self.assertFalse(self.is_healthy())

    def test_unresponsive_queue_is_unhealthy(self) -> None:
        """A poller is unhealthy while its queue has not responded for a while."""
        self.start()
        self.clock.advance(STALE_AFTER - 1)
        self.assertTrue(self.is_healthy())
        self.clock.advance(1)
        self.assertFalse(self.is_healthy())
        self.queue.give()
        self.assertTrue(self.is_healthy())

    def test_poller_at_capacity_is_healthy(self) -> None:
        """A poller at capacity is healthy, although it does not receive."""
        self.start(slots=1)
        self.give("a")
        for _ in range(10):
            self.clock.advance(VISIBILITY / 2)
        self.assertTrue(self.is_healthy())
        self.handler.finish("a")
        self.assertTrue(self.is_healthy())


class OwnFaultTests(PollerTestCase):
    """Failures for which no message is to blame."""

    def test_no_receive_before_messages_can_be_handled(self) -> None:
        """Nothing is received while messages cannot be handled, and at once when they can."""
        waiting: list[Deferred[None]] = []

        async def ready() -> None:
            waiting.append(Deferred())
            await waiting[-1]

        self.start(ready=ready)
        self.clock.advance(STALE_AFTER)
        self.assertEqual(self.queue.polls, [])
        waiting.pop().callback(None)
        self.assertTrue(self.queue.polling)
        self.assertTrue(self.is_healthy())
        self.give("a")
        self.assertFalse(self.queue.polling)
        self.assertEqual(self.handler.seen, ["a"])

    def test_an_untried_message_is_released(self) -> None:
        """A message that this process could not try is released at once, without being counted."""
        self.start()
        self.give("a", "b")
        self.handler.fail("a", CruncherUnavailable("no helper"))
        self.handler.fail("b", OSError(errno.EMFILE, "Too many open files"))
        self.assertEqual(self.queue.released, ["a", "b"])
        self.assertEqual(self.queue.extended, [])
        self.assertEqual(self.handled("released"), 2)

    def test_consecutive_failures_pause_the_poller(self) -> None:
        """
        After several consecutive failures the poller is unhealthy, and receives one message at
        a time after a pause of at most 5 s, until one succeeds.
        """
        self.start(slots=4)
        self.give("a", "b", "c", "d")
        for name in ("a", "b", "c"):
            self.assertTrue(self.is_healthy())
            self.handler.fail(name, StorageError("down"))
        self.assertFalse(self.is_healthy())
        # The receive in flight was sent before the third failure.
        self.queue.give()
        self.handler.fail("d", StorageError("down"))
        for name in ("e", "f"):
            self.assertFalse(self.queue.polling)
            self.clock.pump([1] * 5)
            self.assertEqual(self.queue.polls[-1], (1, WAIT))
            self.give(name)
            self.clock.pump([1] * 5)
            self.assertFalse(self.queue.polling)
            self.handler.fail(name, StorageError("down"))
        self.clock.pump([1] * 5)
        self.give("g")
        self.handler.finish("g")
        self.assertTrue(self.is_healthy())
        self.clock.pump([1] * 5)
        self.assertEqual(self.queue.polls[-1], (4, WAIT))

    def test_failures_of_messages_do_not_pause_the_poller(self) -> None:
        """Malformed messages, and messages between which one succeeds, do not pause the poller."""
        self.start(slots=1)
        for _ in range(2):
            for error in (MalformedMessage("odd"), StorageError("down"), StorageError("down")):
                self.give("a")
                self.handler.fail("a", error)
            self.give("b")
            self.handler.finish("b")
            self.assertTrue(self.is_healthy())
            self.assertTrue(self.queue.polling)


class HandlingTests(PollerTestCase):
    """The outcome of a message."""

    def test_deleted_after_success(self) -> None:
        """A message is deleted after its handler has succeeded, and not before."""
        self.start()
        self.give("a")
        self.assertEqual(self.queue.deleted, [])
        self.handler.finish("a")
        self.assertEqual(self.queue.deleted, ["a"])
        self.assertEqual(self.handled("done"), 1)

    def test_retried_after_failure(self) -> None:
        """A message whose handler failed is not deleted and becomes visible after a delay."""
        self.start()
        self.give("a")
        self.handler.fail("a", QueueError("down"))
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(self.handled("retry"), 1)

    def test_retry_delay_grows_with_receive_count(self) -> None:
        """The retry delay grows with the receive count up to its last step."""
        self.start(slots=10, chance=lambda: 0.5)
        for count in range(1, 7):
            self.give(str(count), receive_count=count)
            self.handler.fail(str(count), QueueError("down"))
            # Several failures pause the poller.
            self.clock.advance(5)
        delays = [visibility for _, visibility in self.queue.extended]
        self.assertEqual(delays, [*RETRY_DELAYS, RETRY_DELAYS[-1], RETRY_DELAYS[-1]])

    def test_retry_delay_has_jitter(self) -> None:
        """The retry delays of messages that fail together vary by a fifth either way."""
        chances = [0.0, 1.0]
        self.start(chance=lambda: chances.pop(0))
        self.give("a", "b")
        self.handler.fail("a", QueueError("down"))
        self.handler.fail("b", QueueError("down"))
        self.assertEqual(
            self.queue.extended, [("a", RETRY_DELAYS[0] * 0.8), ("b", RETRY_DELAYS[0] * 1.2)]
        )

    def test_unexpected_error_is_logged_and_retried(self) -> None:
        """An unexpected error is logged with its traceback, and the message is retried."""
        self.start()
        self.give("a")
        self.handler.fail("a", ZeroDivisionError())
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_base_exception_frees_the_slot(self) -> None:
        """
        A BaseException of a handler is logged, frees its slot and does not delete the message.
        """
        self.start(slots=1)
        self.give("a")
        self.handler.fail("a", SystemExit(1))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(self.queue.deleted, [])
        self.assertTrue(self.queue.polling)

    def test_cancelled_error_of_the_handler_is_a_failure(self) -> None:
        """A handler that raises CancelledError without having been cancelled has failed."""
        self.start()
        self.give("a")
        self.handler.fail("a", CancelledError())
        self.assertEqual(self.queue.extended, [("a", RETRY_DELAYS[0] * 1.2)])
        self.assertEqual(len(self.flushLoggedErrors(CancelledError)), 1)

    def test_malformed_message_is_released(self) -> None:
        """
        A malformed message is released at once until the queue dead-letters it, and logged once.
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

    def test_malformed_message_slows_down(self) -> None:
        """A malformed message that the queue does not dead-letter is retried ever more slowly."""
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

    def test_unsettled_message_returns_by_itself(self) -> None:
        """
        A message whose outcome cannot be sent to the queue is counted and becomes visible by
        itself.
        """
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

    def test_unexpected_error_of_settling_frees_the_slot(self) -> None:
        """An unexpected error of the driver after the handler frees the slot."""
        self.start(slots=1)
        self.give("a")
        self.queue.errors["delete"] = [TypeError("odd")]
        self.handler.finish("a")
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(self.queue.polling)

    def test_handler_raises_before_its_first_await(self) -> None:
        """A handler that fails before its first await is retried like any other."""

        async def handle(message: Message) -> None:
            raise QueueError("down")

        self.start(handler=handle)
        self.give("a", "b")
        self.assertEqual([name for name, _ in self.queue.extended], ["a", "b"])

    def test_handler_returns_no_awaitable(self) -> None:
        """A handler that returns no awaitable has failed."""
        self.start(handler=lambda message: None)
        self.give("a")
        self.assertEqual([name for name, _ in self.queue.extended], ["a"])
        self.assertEqual(self.queue.deleted, [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_messages_are_independent(self) -> None:
        """The end of one handler neither cancels another nor stops extending its lease."""
        self.start()
        self.give("a", "b")
        self.handler.finish("a")
        self.clock.advance(VISIBILITY / 2)
        self.assertEqual(self.queue.extended, [("b", VISIBILITY)])
        self.assertEqual(self.handler.cancelled, [])

    def test_message_age_is_counted(self) -> None:
        """The age of a message is counted; a lagging clock counts as zero."""
        self.start(slots=3)
        self.clock.advance(5)
        self.give("a")
        late = make_message("b")
        self.queue.give(Message(**{**vars(late), "sent": 99}))
        self.assertEqual(self.figure("message_age_seconds_sum"), 5)
        self.assertEqual(self.figure("message_age_seconds_count"), 2)

    def test_receive_count_is_counted(self) -> None:
        """The receive count of a message is counted."""
        self.start()
        self.give("a", receive_count=3)
        self.assertEqual(self.figure("receive_count_sum"), 3)


class HandlerTimeoutTests(PollerTestCase):
    """Handlers that exceed their time limit."""

    def test_slow_handler_is_cancelled_and_retried(self) -> None:
        """A handler that exceeds its time limit is cancelled, and its message is retried."""
        self.start(handler_timeout=100)
        self.give("a")
        self.clock.pump([10] * 10)
        self.assertEqual(self.handler.cancelled, ["a"])
        self.assertEqual(self.queue.extended[-1], ("a", RETRY_DELAYS[0] * 1.2))
        self.assertEqual(self.handled("retry"), 1)

    def test_finished_handler_leaves_no_timer(self) -> None:
        """A handler that has finished leaves no timer."""
        self.start(slots=1)
        self.give("a")
        self.handler.finish("a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handler_ignores_its_time_limit(self) -> None:
        """
        A handler that ignores its cancellation keeps its slot, and its success still deletes the
        message.
        """
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
