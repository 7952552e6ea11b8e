"""
Tests of :mod:`fxprofile.deferreds`.
"""

from __future__ import annotations

import threading
from typing import Any

from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.deferreds.services import Repeating, Stack
from fxprofile.deferreds.tasks import detached, sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.model.errors import StorageError


class SleepTests(SynchronousTestCase):
    """Sleeping on a clock."""

    def test_sleep_ends_after_its_seconds(self) -> None:
        """A sleep ends after its number of seconds."""
        clock = Clock()
        sleeping = sleep(clock, 5)
        clock.advance(4.9)
        self.assertNoResult(sleeping)
        clock.advance(0.1)
        self.assertIsNone(self.successResultOf(sleeping))

    def test_cancelled_sleep_leaves_no_delayed_call(self) -> None:
        """A cancelled sleep leaves no delayed call on the clock."""
        clock = Clock()
        sleeping = sleep(clock, 5)
        sleeping.cancel()
        self.failureResultOf(sleeping, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])


class DetachedTests(SynchronousTestCase):
    """Detached work, which continues if its caller is cancelled."""

    def setUp(self) -> None:
        self.step: Deferred[Any] = Deferred()
        self.done: list[Any] = []

    async def work(self) -> Any:
        self.done.append(await self.step)
        return self.done[0]

    def test_caller_gets_the_result(self) -> None:
        """The caller gets the result of detached work."""
        waiting = detached(self.work())
        self.step.callback("x")
        self.assertEqual(self.successResultOf(waiting), "x")

    def test_caller_gets_the_failure(self) -> None:
        """The caller gets the failure of detached work, which is not logged too."""
        waiting = detached(self.work())
        self.step.errback(StorageError("x"))
        self.failureResultOf(waiting, StorageError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_work_without_waiting_is_done_at_once(self) -> None:
        """Detached work that does not wait has its result at once."""
        self.step.callback("x")
        self.assertEqual(self.successResultOf(detached(self.work())), "x")

    def test_cancelling_the_caller_does_not_stop_the_work(self) -> None:
        """Detached work continues after its caller is cancelled."""
        waiting = detached(self.work())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.step.callback("x")
        self.assertEqual(self.done, ["x"])

    def fail_after_cancellation(self, error: Exception) -> None:
        """Let detached work fail after its caller was cancelled."""
        waiting = detached(self.work())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.step.errback(error)

    def test_abandoned_failure_is_logged(self) -> None:
        """A failure of detached work whose caller was cancelled is logged."""
        self.fail_after_cancellation(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_abandoned_driver_error_is_a_warning(self) -> None:
        """A driver error of detached work whose caller was cancelled is logged as a warning."""
        with capturedLogs() as events:
            self.fail_after_cancellation(StorageError("the bucket is unavailable"))
        self.assertEqual(self.flushLoggedErrors(), [])
        (event,) = events
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertIn("the bucket is unavailable", formatEvent(event))


class BodyTests(SynchronousTestCase):
    """Streamed bodies."""

    def run_now(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def test_read_all_returns_every_piece(self) -> None:
        """``read_all`` returns all pieces of a body in order, for any size of the pieces."""
        for data in (b"", b"x", b"0123456789"):
            for piece in (1, 3, 10, 100):
                self.assertEqual(self.run_now(read_all(BytesBody(data, piece), 10)), data)

    def test_read_all_closes_a_body_over_its_limit(self) -> None:
        """``read_all`` raises OverflowError for a body over its limit, and closes the body."""
        body = BytesBody(b"x" * 100, 10)
        reading = Deferred.fromCoroutine(read_all(body, 50))
        self.failureResultOf(reading, OverflowError)
        self.assertEqual(self.run_now(read_all(body, 100)), b"")

    def test_closed_body_ends(self) -> None:
        """A closed body yields no further piece, and closing it again has no effect."""
        body = BytesBody(b"xyz", 1)
        self.assertEqual(self.run_now(body.__anext__()), b"x")
        self.run_now(body.aclose())
        self.run_now(body.aclose())
        self.assertEqual(self.run_now(read_all(body, 100)), b"")


class Part(Service):
    """A service whose stop ends when a test fires ``stopping``."""

    def __init__(self, name: str, diary: list[str], error: Exception | None = None) -> None:
        self.setName(name)
        self.diary = diary
        self.error = error
        self.stopping: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self.diary.append(f"start {self.name}")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.diary.append(f"stop {self.name}")
        if self.error is not None:
            raise self.error
        return self.stopping


class StackTests(SynchronousTestCase):
    """A stack of services, each of which uses those below it."""

    def setUp(self) -> None:
        self.diary: list[str] = []
        self.stack = Stack()

    def add(self, name: str, error: Exception | None = None) -> Part:
        part = Part(name, self.diary, error)
        part.setServiceParent(self.stack)
        return part

    def test_services_stop_in_reverse_order(self) -> None:
        """Services start in order and stop in reverse, each after the one above has stopped."""
        below, above = self.add("below"), self.add("above")
        self.stack.startService()
        stopping = self.stack.stopService()
        self.assertEqual(self.diary, ["start below", "start above", "stop above"])
        above.stopping.callback(None)
        self.assertEqual(self.diary[-1], "stop below")
        self.assertNoResult(stopping)
        below.stopping.callback(None)
        self.successResultOf(stopping)
        self.assertFalse(self.stack.running)

    def test_failing_stop_does_not_keep_others_from_stopping(self) -> None:
        """The services below a service that fails to stop are still stopped."""
        below = self.add("below")
        failing = self.add("failing")
        self.add("raising", RuntimeError("x"))
        self.stack.startService()
        stopping = self.stack.stopService()
        failing.stopping.errback(StorageError("x"))
        below.stopping.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError, StorageError)), 2)


class RepeatTests(SynchronousTestCase):
    """A call that is repeated with a period."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.calls = 0
        self.outcomes: list[Any] = []

    async def call(self) -> None:
        self.calls += 1
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Deferred):
            await outcome
        elif outcome is not None:
            raise outcome

    def start(self) -> Repeating:
        service = Repeating(self.clock, 10, self.call, "call")
        service.startService()
        return service

    def test_period_runs_from_the_end_of_a_call(self) -> None:
        """The period runs from the end of a call to the start of the next."""
        held: Deferred[None] = Deferred()
        self.outcomes = [held]
        service = self.start()
        self.clock.advance(0)
        self.clock.advance(100)
        self.assertEqual(self.calls, 1)
        held.callback(None)
        self.clock.advance(9)
        self.assertEqual(self.calls, 1)
        self.clock.advance(1)
        self.assertEqual(self.calls, 2)
        self.successResultOf(service.stopService())

    def test_calls_continue_after_any_error(self) -> None:
        """Calls continue after any error; an unexpected error is logged with its traceback."""
        self.outcomes = [StorageError("x"), ValueError("x"), CancelledError()]
        service = self.start()
        self.clock.pump([0, 10, 10, 10])
        self.assertEqual(self.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors()), 2)
        self.successResultOf(service.stopService())

    def test_stop_cancels_sleep_and_call(self) -> None:
        """Stopping cancels the sleep or the call at once, and leaves no delayed call."""
        for outcomes in ([], [Deferred()]):
            self.outcomes = outcomes
            service = self.start()
            self.clock.advance(0)
            self.successResultOf(service.stopService())
            self.successResultOf(service.stopService())
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_service_can_be_started_again(self) -> None:
        """A stopped service can be started again."""
        service = self.start()
        self.successResultOf(service.stopService())
        service.startService()
        self.assertEqual(self.calls, 2)
        self.successResultOf(service.stopService())

    def test_stop_succeeds_if_cancellation_raises_another_error(self) -> None:
        """The service stops even if the call turns its cancellation into another error."""
        held: Deferred[None] = Deferred()
        held.addErrback(lambda failure: Failure(StorageError("cancelled")))
        self.outcomes = [held]
        service = self.start()
        self.successResultOf(service.stopService())
        self.clock.advance(100)
        self.assertEqual(self.calls, 1)

    def test_restart_before_the_stop_has_ended_runs_one_loop(self) -> None:
        """A service that is started before its stop has ended runs one loop, not two."""
        slow: Deferred[None] = Deferred()
        first: Deferred[None] = Deferred()
        first.addErrback(lambda failure: slow)
        self.outcomes = [first]
        service = self.start()
        stopping = service.stopService()
        self.assertNoResult(stopping)
        service.startService()
        slow.callback(None)
        self.successResultOf(stopping)
        self.clock.advance(10)
        self.assertEqual(self.calls, 3)
        self.successResultOf(service.stopService())


class ThreadsTests(TestCase):
    """Calls in threads."""

    def make(self, size: int = 2) -> Threads:
        threads = Threads(reactor, "tests", size)
        threads.startService()
        return threads

    async def test_call_runs_in_another_thread(self) -> None:
        """A call runs in another thread, and its result is returned."""
        threads = self.make()
        other = await threads.run(threading.get_ident)
        self.assertNotEqual(other, threading.get_ident())
        self.assertEqual(await threads.run(divmod, 7, 2), (3, 1))
        await threads.stopService()

    async def test_error_of_a_call_is_raised(self) -> None:
        """The error of a call in a thread is raised in the caller."""
        threads = self.make()
        with self.assertRaises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        await threads.stopService()

    async def test_calls_are_bounded_by_the_number_of_threads(self) -> None:
        """No more calls run at the same time than there are threads."""
        threads = self.make(2)
        running, most, lock = 0, 0, threading.Lock()
        full = threading.Event()

        def call() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if running == 2:
                    full.set()
            full.wait(10)
            with lock:
                running -= 1

        for calling in [threads.run(call) for _ in range(6)]:
            await calling
        self.assertEqual(most, 2)
        await threads.stopService()

    async def test_stop_waits_for_calls_in_flight(self) -> None:
        """Stopping waits for the calls in flight without blocking the reactor."""
        threads = self.make(1)
        go, done = threading.Event(), []
        calling = threads.run(lambda: (go.wait(10), done.append(1)))
        stopping = threads.stopService()
        reactor.callLater(0, go.set)
        await stopping
        self.assertEqual(done, [1])
        await calling

    async def test_threads_can_be_started_again(self) -> None:
        """Calls run after a restart, even if the threads were still stopping at that time."""
        threads = self.make(1)
        first = threads.run(divmod, 7, 2)
        stopping = threads.stopService()
        threads.startService()
        second = threads.run(divmod, 8, 2)
        self.assertEqual([await first, await second], [(3, 1), (4, 0)])
        await stopping
        await threads.stopService()

    async def test_a_call_is_counted(self) -> None:
        """The number of calls is counted, whatever their outcome."""
        threads = self.make()
        await threads.run(len, "x")
        calling = threads.run(divmod, 1, 0)
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        self.assertEqual(threads.calls, 2)
        await threads.stopService()

    async def test_unused_threads_stop(self) -> None:
        """Threads that were never used can be stopped."""
        await self.make().stopService()
