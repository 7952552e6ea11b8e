"""
Tests of :mod:`fxprofile.serving.admin`.
"""

from __future__ import annotations

import base64
import hashlib

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.serving.admin import AdminResource
from fxprofile.serving.channel import StreamingSite
from fxprofile.serving.health import Health, HealthBody
from fxprofile.serving.status import StatusPage
from fxprofile.telemetry.metrics import Metrics
from tests.serving.wire import Answer, Connection


class BrokenHealth(Health):
    """A heartbeat with a bug."""

    async def heartbeat(self) -> tuple[int, HealthBody]:
        raise ZeroDivisionError("secret")


class AdminTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.health = Health(self.clock)
        self.metrics = Metrics()
        self.page = StatusPage("<style></style><script></script>", script="go()", style="p {}")
        resource = AdminResource(health=self.health, metrics=self.metrics.render, page=self.page)
        self.site = StreamingSite(resource, reactor=self.clock)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = Connection(self.site)
        connection.request(path, method, **headers)
        answer = connection.answer(method)
        connection.lose()
        return answer

    def test_metrics_for_prometheus(self) -> None:
        """The metrics come in the format and media type of Prometheus."""
        self.metrics.repairs.labels("outbox").inc()
        answer = self.ask("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertIn("text/plain; version=", answer.header("Content-Type") or "")
        self.assertIn(b'fxprofile_repairs_total{loop="outbox"} 1.0', answer.body)

    def test_openmetrics_on_request(self) -> None:
        """The metrics come as OpenMetrics if the client asks for it."""
        for accept, name in (
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "openmetrics"),
            ("text/plain;version=0.0.4", "text/plain"),
        ):
            answer = self.ask("/metrics", Accept=accept)
            self.assertIn(name, answer.header("Content-Type") or "")
            self.assertEqual(answer.body.endswith(b"# EOF\n"), name == "openmetrics")

    def test_dockerflow_paths(self) -> None:
        """The three Dockerflow paths return JSON that may not be cached."""
        for path in ("/__heartbeat__", "/__lbheartbeat__", "/__version__"):
            answer = self.ask(path)
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.header("Content-Type"), "application/json")
            self.assertEqual(answer.header("Cache-Control"), "no-store")
            self.assertIsInstance(answer.json, dict)
            self.assertEqual(self.ask(path, "HEAD").body, b"")

    def test_failing_check(self) -> None:
        """A failing check makes the heartbeat 503, and leaves the load balancer's at 200."""

        async def ill() -> None:
            raise OSError("secret")

        self.health.add("bucket", ill)
        answer = self.ask("/__heartbeat__")
        self.assertEqual((answer.status, answer.json["checks"]), (503, {"bucket": "fail"}))
        self.assertEqual(self.ask("/__lbheartbeat__").status, 200)

    def test_status_page(self) -> None:
        """The status page is one document, whose policy allows only its own script and style."""
        answer = self.ask("/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.body, b"<style>p {}</style><script>go()</script>")
        policy = answer.header("Content-Security-Policy") or ""
        digest = base64.b64encode(hashlib.sha256(b"go()").digest()).decode()
        self.assertIn(f"script-src 'sha256-{digest}';", policy)
        self.assertIn("default-src 'none';", policy)
        self.assertNotIn("unsafe", policy)

    def test_last_errors(self) -> None:
        """The status for operators has the last error of each check, also when it passes again."""
        broken: list[Exception] = [OSError("no route to host")]

        async def check() -> bool:
            if broken:
                raise broken.pop()
            return True

        async def idle() -> bool:
            return False

        self.health.add("bucket", check)
        self.health.add("poller", idle)
        for result in ("fail", "ok"):
            bucket, poller = self.ask("/status.json").json["checks"]
            error = {"error": "no route to host", "at": 0}
            self.assertEqual(bucket, {"name": "bucket", "result": result, **error})
            self.assertEqual((poller["result"], poller["error"]), ("fail", "it is not healthy"))
            self.clock.advance(2)

    def test_stopping_process(self) -> None:
        """A stopping process answers both heartbeats with 503."""
        self.health.stopping = True
        for path in ("/__heartbeat__", "/__lbheartbeat__"):
            self.assertEqual(self.ask(path).status, 503)

    def test_disconnect_during_heartbeat(self) -> None:
        """A client that disconnects during the heartbeat causes no error."""
        wait: Deferred[None] = Deferred()

        async def slow() -> None:
            await wait

        self.health.add("bucket", slow)
        connection = Connection(self.site)
        connection.request("/__heartbeat__")
        connection.lose()
        wait.callback(None)
        self.assertEqual(connection.wire.value(), b"")
        self.assertEqual(self.ask("/__heartbeat__").status, 200)

    def test_bug_is_500(self) -> None:
        """A bug in the heartbeat is a 500 without details, and is logged."""
        health = BrokenHealth(self.clock)
        resource = AdminResource(health=health, metrics=self.metrics.render, page=self.page)
        self.site = StreamingSite(resource, reactor=self.clock)
        answer = self.ask("/__heartbeat__")
        self.assertEqual(answer.status, 500)
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_other_paths_are_404(self) -> None:
        """Any other path is 404, and any other method is 405."""
        for path in ("//", "/metric", "/__version__x"):
            self.assertEqual(self.ask(path).status, 404)
        for method in ("POST", "BREW"):
            refused = self.ask("/metrics", method)
            self.assertEqual((refused.status, refused.header("Allow")), (405, "GET, HEAD"))
