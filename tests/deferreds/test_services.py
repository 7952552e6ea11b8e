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
    """Waiting."""

    def test_wakes(self) -> None:
        """It wakes after so many seconds."""
        clock = Clock()
        sleeping = sleep(clock, 5)
        clock.advance(4.9)
        self.assertNoResult(sleeping)
        clock.advance(0.1)
        self.assertIsNone(self.successResultOf(sleeping))

    def test_cancelled(self) -> None:
        """A sleep that is cancelled leaves nothing on the clock."""
        clock = Clock()
        sleeping = sleep(clock, 5)
        sleeping.cancel()
        self.failureResultOf(sleeping, CancelledError)
        self.assertEqual(clock.getDelayedCalls(), [])


class DetachedTests(SynchronousTestCase):
    """Work that goes on whoever waits."""

    def setUp(self) -> None:
        self.step: Deferred[Any] = Deferred()
        self.done: list[Any] = []

    async def work(self) -> Any:
        self.done.append(await self.step)
        return self.done[0]

    def test_result(self) -> None:
        """Who waits gets the result."""
        waiting = detached(self.work())
        self.step.callback("x")
        self.assertEqual(self.successResultOf(waiting), "x")

    def test_failure(self) -> None:
        """Who waits gets the failure, and it is not logged besides."""
        waiting = detached(self.work())
        self.step.errback(StorageError("x"))
        self.failureResultOf(waiting, StorageError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_at_once(self) -> None:
        """Work that waits for nothing is done at once."""
        self.step.callback("x")
        self.assertEqual(self.successResultOf(detached(self.work())), "x")

    def test_goes_on(self) -> None:
        """Who stops waiting does not stop the work."""
        waiting = detached(self.work())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.step.callback("x")
        self.assertEqual(self.done, ["x"])

    def given_up(self, error: Exception) -> None:
        """Work fails that nobody waits for any longer."""
        waiting = detached(self.work())
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.step.errback(error)

    def test_nobody_waits(self) -> None:
        """A failure that nobody waits for any longer is logged."""
        self.given_up(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_outage(self) -> None:
        """One that is the fault of something outside is a warning, as it is of those who wait."""
        with capturedLogs() as events:
            self.given_up(StorageError("the bucket is away"))
        self.assertEqual(self.flushLoggedErrors(), [])
        (event,) = events
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertIn("the bucket is away", formatEvent(event))


class BodyTests(SynchronousTestCase):
    """Bodies of bytes."""

    def run_now(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def test_read_all(self) -> None:
        """All pieces come, in order, and none is empty."""
        for data in (b"", b"x", b"0123456789"):
            for piece in (1, 3, 10, 100):
                self.assertEqual(self.run_now(read_all(BytesBody(data, piece), 10)), data)

    def test_limit(self) -> None:
        """A body that is too long is given up, and closed."""
        body = BytesBody(b"x" * 100, 10)
        reading = Deferred.fromCoroutine(read_all(body, 50))
        self.failureResultOf(reading, OverflowError)
        self.assertEqual(self.run_now(read_all(body, 100)), b"")

    def test_close(self) -> None:
        """A closed body gives nothing more, and may be closed again."""
        body = BytesBody(b"xyz", 1)
        self.assertEqual(self.run_now(body.__anext__()), b"x")
        self.run_now(body.aclose())
        self.run_now(body.aclose())
        self.assertEqual(self.run_now(read_all(body, 100)), b"")


class Part(Service):
    """A service whose stop takes as long as a test likes."""

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
    """Services that stand on each other."""

    def setUp(self) -> None:
        self.diary: list[str] = []
        self.stack = Stack()

    def add(self, name: str, error: Exception | None = None) -> Part:
        part = Part(name, self.diary, error)
        part.setServiceParent(self.stack)
        return part

    def test_order(self) -> None:
        """They start in order and stop in reverse, each after the one above has stopped."""
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

    def test_failures(self) -> None:
        """One that cannot be stopped does not keep those below from it."""
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
    """Calls that are made again and again."""

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

    def test_period(self) -> None:
        """The time runs from the end of one call to the next."""
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

    def test_survives(self) -> None:
        """Whatever a call raises, the next one comes; what nobody expects has a trace."""
        self.outcomes = [StorageError("x"), ValueError("x"), CancelledError()]
        service = self.start()
        self.clock.pump([0, 10, 10, 10])
        self.assertEqual(self.calls, 4)
        self.assertEqual(len(self.flushLoggedErrors()), 2)
        self.successResultOf(service.stopService())

    def test_stop(self) -> None:
        """It stops in its sleep as in its call, at once, and leaves nothing on the clock."""
        for outcomes in ([], [Deferred()]):
            self.outcomes = outcomes
            service = self.start()
            self.clock.advance(0)
            self.successResultOf(service.stopService())
            self.successResultOf(service.stopService())
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """It can be started again."""
        service = self.start()
        self.successResultOf(service.stopService())
        service.startService()
        self.assertEqual(self.calls, 2)
        self.successResultOf(service.stopService())

    def test_stop_that_a_driver_takes_for_an_error(self) -> None:
        """It stops even if what it calls makes another error of the cancellation."""
        held: Deferred[None] = Deferred()
        held.addErrback(lambda failure: Failure(StorageError("cancelled")))
        self.outcomes = [held]
        service = self.start()
        self.successResultOf(service.stopService())
        self.clock.advance(100)
        self.assertEqual(self.calls, 1)

    def test_restarted_in_mid_stop(self) -> None:
        """One that is started again before it has quite stopped goes on once."""
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

    async def test_runs(self) -> None:
        """A call is made in another thread, and its result comes back."""
        threads = self.make()
        other = await threads.run(threading.get_ident)
        self.assertNotEqual(other, threading.get_ident())
        self.assertEqual(await threads.run(divmod, 7, 2), (3, 1))
        await threads.stopService()

    async def test_raises(self) -> None:
        """So does its error."""
        threads = self.make()
        with self.assertRaises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        await threads.stopService()

    async def test_bounded(self) -> None:
        """No more calls run at one time than there are threads."""
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

    async def test_stop_waits(self) -> None:
        """A stop waits for the calls in hand, and does not block the reactor."""
        threads = self.make(1)
        go, done = threading.Event(), []
        calling = threads.run(lambda: (go.wait(10), done.append(1)))
        stopping = threads.stopService()
        reactor.callLater(0, go.set)
        await stopping
        self.assertEqual(done, [1])
        await calling

    async def test_never_used(self) -> None:
        """Threads that were never used stop as well."""
        await self.make().stopService()
