"""
Tests of :mod:`fxprofile.serving.health`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from fxprofile import __version__
from fxprofile.serving.health import FRESH, TIMEOUT, Health


class HealthTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.health = Health(self.clock)
        self.answers: dict[str, object] = {"one": None, "other": True}
        self.asked: list[str] = []
        for name in self.answers:
            self.health.add(name, self.check(name))

    def check(self, name: str) -> Any:
        async def check() -> object:
            self.asked.append(name)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return await answer if isinstance(answer, Deferred) else answer

        return check

    def start(self) -> Deferred[tuple[int, Mapping[str, Any]]]:
        return Deferred.fromCoroutine(self.health.heartbeat())

    def heartbeat(self) -> tuple[int, Mapping[str, Any]]:
        return self.successResultOf(self.start())

    def assert_ill(self, name: str, answer: tuple[int, Mapping[str, Any]]) -> None:
        self.assertEqual((answer[0], answer[1]["status"]), (503, "fail"))
        ill = [name for name, state in answer[1]["checks"].items() if state != "ok"]
        self.assertEqual(ill, [name])

    def test_well(self) -> None:
        """When each dependency is well, so is the process."""
        checks = {"one": "ok", "other": "ok"}
        self.assertEqual(self.heartbeat(), (200, {"status": "ok", "checks": checks}))

    def test_ill(self) -> None:
        """A dependency that says no, fails or is silent for too long is named."""
        for answer in (False, OSError("secret"), Deferred()):
            self.answers["one"] = answer
            beat = self.start()
            self.clock.advance(TIMEOUT)
            self.assert_ill("one", self.successResultOf(beat))
            self.assertNotIn("secret", repr(beat))

    def test_silent(self) -> None:
        """The log says of a dependency that does not answer how long it was waited for."""
        self.answers["one"] = Deferred()
        with capturedLogs() as logs:
            self.start()
            self.clock.advance(TIMEOUT)
        (event,) = logs
        self.assertEqual(formatEvent(event), f"Health check one failed: no response in {TIMEOUT} s")

    def test_at_the_same_time(self) -> None:
        """All are asked at the same time: two that are silent take no longer than one."""
        self.answers = {"one": Deferred(), "other": Deferred()}
        beat = self.start()
        self.clock.advance(TIMEOUT)
        self.assertEqual(self.successResultOf(beat)[0], 503)

    def test_asked_often(self) -> None:
        """An answer is good for a moment, for all who ask."""
        self.heartbeat()
        self.answers["one"] = False
        self.clock.advance(FRESH / 2)
        self.assertEqual(self.heartbeat()[0], 200)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(FRESH / 2)
        self.assert_ill("one", self.heartbeat())

    def test_asked_by_many(self) -> None:
        """However many ask at one time, each dependency is asked once."""
        slow: Deferred[None] = Deferred()
        self.answers["one"] = slow
        beats = [self.start() for _ in range(3)]
        self.clock.advance(FRESH)
        beats += [self.start() for _ in range(3)]
        self.assertEqual(sorted(self.asked), ["one", "other"])
        beats[0].cancel()
        self.failureResultOf(beats.pop(0), CancelledError)
        slow.callback(None)
        for beat in beats:
            self.assertEqual(self.successResultOf(beat)[0], 200)
        self.answers["one"] = None
        self.heartbeat()
        self.assertEqual(len(self.asked), 4)

    def test_who_asks_goes_away(self) -> None:
        """Whoever asks and goes away does not make anything look ill to the next one."""
        wait: Deferred[None] = Deferred()
        self.answers["one"] = wait
        beat = self.start()
        beat.cancel()
        self.failureResultOf(beat, CancelledError)
        wait.callback(None)
        self.assertEqual(self.heartbeat()[0], 200)

    def test_stopping(self) -> None:
        """A process that is about to end says so to all who ask."""
        self.assertEqual(self.health.load_balancer_heartbeat()[0], 200)
        self.health.stopping = True
        self.assert_ill("process", self.heartbeat())
        self.assertEqual(self.health.load_balancer_heartbeat(), (503, {"status": "stopping"}))

    def test_load_balancer(self) -> None:
        """A load balancer is answered without a look at the dependencies."""
        self.answers["one"] = False
        self.assertEqual(self.health.load_balancer_heartbeat(), (200, {"status": "ok"}))
        self.assertEqual(self.asked, [])

    def test_version(self) -> None:
        """The version has the members that Dockerflow wants."""
        members = self.health.version()
        self.assertLessEqual({"source", "version", "commit", "build"}, set(members))
        self.assertEqual(members["version"], __version__)
