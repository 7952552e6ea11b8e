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

    def test_all_checks_pass(self) -> None:
        """If each check passes, the heartbeat is 200."""
        checks = {"one": "ok", "other": "ok"}
        self.assertEqual(self.heartbeat(), (200, {"status": "ok", "checks": checks}))

    def test_notice_of_a_check_is_shown(self) -> None:
        """A check that returns a text passes, and the heartbeat shows the text."""
        self.answers["one"] = "its clock is 40 s behind this process"
        checks = {"one": self.answers["one"], "other": "ok"}
        self.assertEqual(self.heartbeat(), (200, {"status": "ok", "checks": checks}))

    def test_low_is_a_failure(self) -> None:
        """A check that returns "low" fails, and the heartbeat shows it."""
        self.answers["one"] = "low"
        checks = {"one": "low", "other": "ok"}
        self.assertEqual(self.heartbeat(), (503, {"status": "fail", "checks": checks}))

    def test_failing_check_is_named(self) -> None:
        """A check that returns False, raises or times out is named."""
        for answer in (False, OSError("secret"), Deferred()):
            self.answers["one"] = answer
            beat = self.start()
            self.clock.advance(TIMEOUT)
            self.assert_ill("one", self.successResultOf(beat))
            self.assertNotIn("secret", repr(beat))

    def test_timeout_is_logged(self) -> None:
        """The log says how long a check that timed out was waited for."""
        self.answers["one"] = Deferred()
        with capturedLogs() as logs:
            self.start()
            self.clock.advance(TIMEOUT)
        (event,) = logs
        self.assertEqual(formatEvent(event), f"Health check one failed: no response in {TIMEOUT} s")

    def test_checks_run_concurrently(self) -> None:
        """Two checks that time out take no longer than one."""
        self.answers = {"one": Deferred(), "other": Deferred()}
        beat = self.start()
        self.clock.advance(TIMEOUT)
        self.assertEqual(self.successResultOf(beat)[0], 503)

    def test_results_are_reused(self) -> None:
        """Results are reused for a moment."""
        self.heartbeat()
        self.answers["one"] = False
        self.clock.advance(FRESH / 2)
        self.assertEqual(self.heartbeat()[0], 200)
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(FRESH / 2)
        self.assert_ill("one", self.heartbeat())

    def test_concurrent_heartbeats_share_checks(self) -> None:
        """Concurrent heartbeats run each check once."""
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

    def test_cancelled_heartbeat_fails_no_check(self) -> None:
        """A cancelled heartbeat does not fail a check for the next one."""
        wait: Deferred[None] = Deferred()
        self.answers["one"] = wait
        beat = self.start()
        beat.cancel()
        self.failureResultOf(beat, CancelledError)
        wait.callback(None)
        self.assertEqual(self.heartbeat()[0], 200)

    def test_stopping_process(self) -> None:
        """A stopping process fails both heartbeats."""
        self.assertEqual(self.health.load_balancer_heartbeat()[0], 200)
        self.health.stopping = True
        self.assert_ill("process", self.heartbeat())
        self.assertEqual(self.health.load_balancer_heartbeat(), (503, {"status": "stopping"}))

    def test_load_balancer_heartbeat_runs_no_checks(self) -> None:
        """The load balancer's heartbeat runs no checks."""
        self.answers["one"] = False
        self.assertEqual(self.health.load_balancer_heartbeat(), (200, {"status": "ok"}))
        self.assertEqual(self.asked, [])

    def test_version_members(self) -> None:
        """The version has the members that Dockerflow requires."""
        members = self.health.version
        self.assertLessEqual({"source", "version", "commit", "build"}, set(members))
        self.assertEqual(members["version"], __version__)
