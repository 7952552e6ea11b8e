"""Tests of :mod:`fxprofile.deferreds.fair_queue`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.fair_queue import FairQueue


class FairQueueTests(SynchronousTestCase):
    """The order of calls."""

    def setUp(self) -> None:
        self.queue = FairQueue(2)
        self.started: list[str] = []
        self.calls: dict[str, Deferred[str]] = {}

    def start(self, *names: str) -> list[Deferred[str]]:
        """Start calls, whose keys are the letters of their names."""

        def begin(name: str) -> Deferred[str]:
            self.started.append(name)
            self.calls[name] = Deferred()
            return self.calls[name]

        return [
            Deferred.fromCoroutine(self.queue.run(name[0], lambda name=name: begin(name)))
            for name in names
        ]

    def end(self, name: str) -> None:
        self.calls[name].callback(name)

    def test_keys_are_served_in_turn(self) -> None:
        """A call of another key is served before the second of many calls of one key."""
        running = self.start("a1", "a2", "a3", "b1", "c1", "c2")
        self.assertEqual(self.started, ["a1", "b1"])
        self.end("a1")
        self.assertEqual(self.successResultOf(running[0]), "a1")
        self.end("b1")
        self.assertEqual(self.started[2:], ["a2", "c1"])
        self.end("c1")
        self.end("a2")
        self.assertEqual(self.started[4:], ["c2", "a3"])

    def test_calls_of_one_key_run_one_after_the_other(self) -> None:
        """Of one key one call runs at a time, even if others could run."""
        self.start("a1", "a2")
        self.assertEqual(self.started, ["a1"])
        self.end("a1")
        self.assertEqual(self.started, ["a1", "a2"])

    def test_failed_call_passes_the_turn_on(self) -> None:
        """After a call that failed or was cancelled the next one runs."""
        first, second, third = self.start("a1", "a2", "a3")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.calls["a1"].errback(ValueError())
        self.failureResultOf(first, ValueError)
        third.cancel()
        self.failureResultOf(third, CancelledError)
        self.start("a4")
        self.assertEqual(self.started, ["a1", "a3", "a4"])

    def test_many_calls_that_end_at_once(self) -> None:
        """Thousands of waiting calls may end at once, one after the other."""
        (first,) = self.start("a1")
        done: list[int] = []

        async def call(number: int) -> None:
            done.append(number)

        for number in range(5000):
            Deferred.fromCoroutine(self.queue.run("a", lambda number=number: call(number)))
        self.end("a1")
        self.assertEqual(done, list(range(5000)))
        self.successResultOf(first)
