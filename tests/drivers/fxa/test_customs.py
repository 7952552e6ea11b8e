"""The customs server, which may block a user."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from fxprofile.app.services import Services
from fxprofile.drivers.fxa.customs import Customs
from fxprofile.http_client.agent import HttpAgent
from fxprofile.model.errors import RequestBlocked, TooManyRequests
from fxprofile.settings.load import load
from fxprofile.telemetry.metrics import Metrics
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import ALICE, FakeCustoms, Said, error, listen
from tests.support.servers.hostile import Hostile, hang_up


class CustomsTests(TestCase):
    """A user is blocked only by a usable response of the customs server."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        self.server = FakeCustoms()
        self.agent = MemoryAgent(self.clock, self.server)
        self.customs = Customs(self.agent, self.metrics, "http://customs.example")
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def check(self) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self.customs.check(action="avatarUpload", address="192.0.2.1", uid=ALICE)
        )

    def real(self, url: str) -> Customs:
        """Return a driver with real connections."""
        agent = HttpAgent(reactor)
        self.addCleanup(agent.stopService)
        return Customs(agent, self.metrics, url)

    @property
    def survived(self) -> float | None:
        return self.metrics.registry.get_sample_value(
            "fxprofile_upstream_errors_total", {"upstream": "customs"}
        )

    async def test_request_names_action_address_and_user(self) -> None:
        """The request contains the action, the client address and the user."""
        await self.check()
        (seen,) = self.server.seen
        self.assertEqual((seen.method, seen.path), ("POST", "/checkAuthenticated"))
        self.assertEqual(seen.members, {"action": "avatarUpload", "ip": "192.0.2.1", "uid": ALICE})
        self.assertFalse(self.survived)

    async def test_request_without_an_address(self) -> None:
        """A request without a client address sends an empty one."""
        await self.customs.check(action="a", address=None, uid=ALICE)
        self.assertEqual(self.server.seen[0].members["ip"], "")

    def test_no_url_means_no_customs_server(self) -> None:
        """Without ``customs.url`` there is no customs driver."""
        self.assertIsNone(Services(load(environ={}), reactor).customs)

    async def test_block_with_an_end(self) -> None:
        """A block with an end is passed on as Retry-After."""
        for said, expected in ((60, "60"), (0.2, "1"), (59.1, "60"), (1e300, "86400")):
            self.server.verdict = {"block": True, "retryAfter": said}
            with self.assertRaises(TooManyRequests) as raised:
                await self.check()
            self.assertEqual(raised.exception.headers["Retry-After"], expected)

    async def test_block_without_a_valid_end(self) -> None:
        """A block without a valid end is refused without Retry-After."""
        for retry_after in (None, 0, -1, "60", True, float("nan"), float("inf"), [60]):
            self.server.verdict = {"block": True, "retryAfter": retry_after}
            with self.assertRaises(RequestBlocked):
                await self.check()
        self.server.verdict = {"block": True}
        with self.assertRaises(RequestBlocked):
            await self.check()

    async def test_user_who_is_not_blocked(self) -> None:
        """A user who is not blocked is admitted, even if other members of the response are odd."""
        self.server.verdict = {"block": False, "retryAfter": 60, "suspect": True}
        await self.check()

    async def test_fails_open(self) -> None:
        """After an unusable response the user is admitted; the failure is logged and counted."""
        said = [
            error(500, 999),
            error(404, 999),
            error(429, 114),
            Said(status=302, headers={"location": "/"}),
            Said(body=b"{"),
            Said(members=[]),
            Said(members={}),
            Said(members={"block": None}),
            Said(members={"block": "true"}),
            Said(members={"block": 1}),
            Said(status=201, members={"block": True}),
        ]
        for answer in said:
            self.server.answer = lambda _, answer=answer: answer
            await self.check()
        self.assertEqual(self.survived, len(said))
        warnings = [e for e in self.events if "Customs" in str(e.get("log_format"))]
        self.assertEqual(len(warnings), len(said))

    def test_slow_server(self) -> None:
        """If the server does not respond within a second, the user is admitted."""
        self.server.hold = True
        checking = self.check()
        self.agent.flush()
        self.clock.advance(0.9)
        self.assertNoResult(checking)
        self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(checking))
        self.assertEqual(self.survived, 1)

    async def test_driver_of_the_settings(self) -> None:
        """The driver of the settings works over a real connection."""
        port, url = listen(reactor, self.server)
        self.addCleanup(port.stopListening)
        services = Services(load(environ={}, overrides=[f"customs.url={url}"]), reactor)
        customs = services.customs
        assert customs is not None
        services.stack.startService()
        self.addCleanup(services.stack.stopService)
        self.server.verdict = {"block": True}
        with self.assertRaises(RequestBlocked):
            await customs.check(action="a", address="192.0.2.1", uid=ALICE)

    async def test_request_is_not_retried(self) -> None:
        """The server counts requests: a request is not sent again if the connection is lost."""
        server = Hostile(reactor, hang_up)
        port, url = server.listen()
        self.addCleanup(port.stopListening)
        customs = self.real(url)
        await customs.check(action="a", address="192.0.2.1", uid=ALICE)
        self.assertEqual((len(server.connections), self.survived), (1, 1))

    async def test_unreachable_server(self) -> None:
        """If the server is unreachable, the user is admitted."""
        port, url = listen(reactor, self.server)
        await port.stopListening()
        customs = self.real(url)
        await customs.check(action="a", address="192.0.2.1", uid=ALICE)
        self.assertEqual(self.survived, 1)
