"""JSON requests to untrusted servers, over real connections."""

from __future__ import annotations

import gzip
import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.fxa.identity import FxaIdentity
from fxprofile.http_client.agent import MAX_CONNECTIONS
from fxprofile.http_client.upstream import (
    MAX_BYTES,
    Upstream,
    UpstreamFailure,
    as_number,
    as_text,
    as_texts,
)
from fxprofile.model.errors import AuthUnavailable, OAuthUnavailable
from fxprofile.model.profiles import Credentials
from fxprofile.settings.model import IdentitySettings
from fxprofile.telemetry.metrics import Metrics
from tests.http_client.case import HttpCase, settle
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import ALICE, FakeFxa, FakeOAuth, Said, listen
from tests.support.servers import hostile
from tests.support.servers.hostile import Connection

#: Short, to keep the tests fast; no result depends on it.
TIMEOUT = 0.3


class RealCase(HttpCase):
    """Base of tests with real connections to servers in this process."""

    def serve(self, resource: Any) -> str:
        port, url = listen(reactor, resource)
        self.addCleanup(port.stopListening)
        return url

    def upstream(self, *, retry: bool = True, timeout: float = TIMEOUT) -> Upstream:
        return Upstream("the server", self.agent, timeout=timeout, retry=retry)


class UpstreamTests(RealCase):
    """A request and its response."""

    async def test_response_has_status_and_json_object(self) -> None:
        """A response has its status and its JSON object."""
        url = self.serve(FakeOAuth())
        answer = await self.upstream(timeout=5).request(
            "POST", f"{url}/v1/verify", body={"token": "alice"}
        )
        self.assertEqual(answer.status, 200)
        self.assertEqual((answer.members or {})["user"], ALICE)

    async def test_no_compression_and_no_cookies(self) -> None:
        """Requests do not accept compression, and cookies of a server are not stored."""
        server = FakeOAuth()
        server.answer = lambda _: Said(headers={"set-cookie": "session=alice; Path=/"})
        asking = self.upstream(timeout=5)
        url = self.serve(server)
        for _ in range(2):
            await asking.request("GET", f"{url}/")
        for seen in server.seen:
            self.assertEqual(seen.headers.getRawHeaders("accept-encoding"), ["identity"])
            self.assertFalse(seen.headers.hasHeader("cookie"))

    async def test_compressed_response_is_an_error(self) -> None:
        """A compressed response of any size is an error."""
        server = FakeOAuth()
        server.answer = lambda _: Said(
            body=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}
        )
        with self.assertRaises(UpstreamFailure) as raised:
            await self.upstream(timeout=5).request("GET", self.serve(server))
        self.assertIn("compressed", str(raised.exception))

    async def test_connections_are_reused(self) -> None:
        """Consecutive requests share a connection."""

        def react(connection: Connection) -> None:
            connection.write(hostile.HEAD + b"Content-Length: 2\r\n\r\n{}")

        server, url = self.serve_hostile(react)
        asking = self.upstream(timeout=5)
        for _ in range(3):
            await asking.request("GET", url)
        self.assertEqual((len(server.connections), len(server.received)), (1, 3))

    async def test_hostile_servers_fail_within_the_timeout(self) -> None:
        """A request to a misbehaving server fails within its timeout and closes its connection."""
        for name, react in hostile.ALL.items():
            server, url = self.serve_hostile(react)
            started = reactor.seconds()
            with self.assertRaises(UpstreamFailure, msg=name) as raised:
                await self.upstream().request("POST", f"{url}/v1/verify", body={"token": "s3cret"})
            self.assertLess(reactor.seconds() - started, TIMEOUT * 10, name)
            self.assertNotIn("s3cret", str(raised.exception), name)
            self.assertTrue(str(raised.exception).startswith("the server: "), name)
            await settle(lambda server=server: server.open == 0)

    async def test_refused_connection_is_an_error(self) -> None:
        """A refused connection is an error."""
        port, url = listen(reactor, FakeOAuth())
        await port.stopListening()
        with self.assertRaises(UpstreamFailure) as raised:
            await self.upstream(timeout=5).request("GET", url)
        self.assertIn("ConnectionRefusedError", str(raised.exception))

    async def test_unknown_host_is_an_error(self) -> None:
        """A host name that does not resolve is an error."""
        with self.assertRaises(UpstreamFailure):
            await self.upstream().request("GET", "http://nowhere.invalid/")

    async def test_response_of_the_maximum_length(self) -> None:
        """A response may be exactly as long as the limit."""
        server = FakeOAuth()
        padding = MAX_BYTES - len('{"a": ""}')
        server.answer = lambda _: Said(members={"a": "x" * padding})
        url = self.serve(server)
        answer = await self.upstream(timeout=5).request("GET", url)
        self.assertEqual(len((answer.members or {})["a"]), padding)
        padding += 1
        with self.assertRaises(UpstreamFailure):
            await self.upstream(timeout=5).request("GET", url)

    async def test_body_without_length_ends_with_the_connection(self) -> None:
        """A body without Content-Length ends with the connection."""

        def react(connection: Connection) -> None:
            connection.write(hostile.HEAD + b'Connection: close\r\n\r\n{"a": 1}')
            connection.close()

        _, url = self.serve_hostile(react)
        answer = await self.upstream(timeout=5).request("GET", url)
        self.assertEqual(answer.members, {"a": 1})

    async def test_body_that_is_not_an_object_has_no_members(self) -> None:
        """A body that is not a JSON object gives a response without members."""
        server = FakeOAuth()
        url = self.serve(server)
        for body in (b"", b"[]", b'"a"', b"1", b"{", b"[" * 60_000, b"\xff", b"1" * 10_000):
            server.answer = lambda _, body=body: Said(status=418, body=body)
            answer = await self.upstream(timeout=5).request("GET", url)
            self.assertEqual((answer.status, answer.members), (418, None), body[:10])

    async def test_request_on_a_closed_idle_connection_is_retried(self) -> None:
        """A request on an idle connection that the server has closed is sent again."""

        def react(connection: Connection) -> None:
            if connection.data.count(b"HTTP/1.1") == 1:
                connection.write(hostile.HEAD + b"Content-Length: 2\r\n\r\n{}")
            else:
                connection.close()

        server, url = self.serve_hostile(react)
        asking = self.upstream(timeout=5)
        for _ in range(2):
            answer = await asking.request("POST", url, body={})
            self.assertEqual(answer.members, {})
        self.assertEqual(len(server.connections), 2)
        self.assertEqual(len(server.received), 3)

    async def test_request_with_an_effect_is_not_retried(self) -> None:
        """A request that is not idempotent is not retried."""

        def react(connection: Connection) -> None:
            if connection.data.count(b"HTTP/1.1") == 1:
                connection.write(hostile.HEAD + b"Content-Length: 2\r\n\r\n{}")
            else:
                connection.close()

        server, url = self.serve_hostile(react)
        asking = self.upstream(timeout=5, retry=False)
        await asking.request("POST", url, body={})
        with self.assertRaises(UpstreamFailure):
            await asking.request("POST", url, body={})
        self.assertEqual(len(server.connections), 1)

    async def test_cancelling_closes_the_connection_at_every_stage(self) -> None:
        """Cancelling a request at any stage raises CancelledError and closes its connection."""
        for react in (hostile.silent, hostile.drip_head, hostile.drip_body):
            server, url = self.serve_hostile(react)
            asking = Deferred.fromCoroutine(self.upstream(timeout=60).request("GET", url))
            await settle(lambda server=server: server.received)
            asking.cancel()
            with self.assertRaises(CancelledError):
                await asking
            await settle(lambda server=server: server.open == 0)
            self.assertEqual(len(server.connections), 1)

    async def test_requests_in_flight_are_bounded(self) -> None:
        """The number of requests in flight to a server is bounded."""
        server, url = self.serve_hostile(hostile.silent)
        asking = self.upstream(timeout=60)
        requests = [
            Deferred.fromCoroutine(asking.request("GET", url)) for _ in range(MAX_CONNECTIONS + 20)
        ]
        await settle(lambda: len(server.received) == MAX_CONNECTIONS)
        await deferLater(reactor, 0.05)
        self.assertEqual(len(server.connections), MAX_CONNECTIONS)
        for request in reversed(requests):
            request.addErrback(lambda failure: failure.trap(CancelledError))
            request.cancel()
        await gatherResults(requests)
        fine = self.serve(FakeOAuth())
        answer = await asking.request("GET", f"{fine}/v1/jwks")
        self.assertEqual(answer.status, 200)


class SlotTests(SynchronousTestCase):
    """Requests that wait for a free slot."""

    def test_waiting_for_a_slot_counts_towards_the_timeout(self) -> None:
        """The time that a request waits for a free slot counts towards its timeout."""
        clock, server = Clock(), FakeOAuth()
        server.hold = True
        agent = MemoryAgent(clock, server)
        asking = Upstream("the server", agent, timeout=5)
        url = "http://server.example/"
        early = [Deferred.fromCoroutine(asking.request("GET", url)) for _ in range(MAX_CONNECTIONS)]
        clock.advance(2)
        late = Deferred.fromCoroutine(asking.request("GET", url))
        agent.flush()
        self.assertEqual(len(server.seen), MAX_CONNECTIONS)
        clock.advance(3)
        for request in early:
            self.failureResultOf(request, UpstreamFailure)
        agent.flush()
        self.assertEqual(len(server.seen), MAX_CONNECTIONS + 1)
        clock.advance(2)
        self.failureResultOf(late, UpstreamFailure)
        agent.flush()
        self.assertEqual(clock.getDelayedCalls(), [])


class FxaOverRealConnectionsTests(RealCase):
    """The fxa driver over real connections."""

    def identity(self, url: str, timeout: float = TIMEOUT) -> FxaIdentity:
        settings = IdentitySettings(oauth_url=f"{url}/v1", auth_url=f"{url}/v1", timeout=timeout)
        return FxaIdentity(self.agent, reactor, Metrics(), settings)

    async def test_token_is_verified_and_account_read(self) -> None:
        """The driver verifies a token and reads its account over real connections."""
        identity = self.identity(self.serve(FakeFxa()), timeout=5)
        credentials = await identity.verify(token="alice")
        account = await identity.account(token="alice", credentials=credentials)
        self.assertEqual((credentials.uid, account["email"]), (ALICE, "alice@example.com"))
        self.assertTrue(await identity.check(server="oauth"))
        self.assertTrue(await identity.check(server="auth"))

    async def test_hostile_servers_raise_the_error_of_their_operation(self) -> None:
        """A misbehaving server raises the error of the operation: verification or account."""
        credentials = Credentials(uid=ALICE, scopes=())
        for react in hostile.ALL.values():
            _, url = self.serve_hostile(react)
            identity = self.identity(url, timeout=0.1)
            with self.assertRaises(OAuthUnavailable, msg=react.__name__):
                await identity.verify(token="alice")
            with self.assertRaises(AuthUnavailable, msg=react.__name__):
                await identity.account(token="alice", credentials=credentials)
            self.assertFalse(await identity.check(server="oauth"), react.__name__)
            self.assertFalse(await identity.check(server="auth"), react.__name__)

    async def test_stop_closes_idle_connections(self) -> None:
        """Stopping closes the idle connections."""

        def react(connection: Connection) -> None:
            body = json.dumps({"user": ALICE}).encode()
            length = f"Content-Length: {len(body)}\r\n\r\n".encode()
            connection.write(hostile.HEAD + length + body)

        server, url = self.serve_hostile(react)
        self.agent.idle = 3600
        self.agent.startService()
        await self.identity(url, timeout=5).verify(token="alice")
        self.assertEqual(server.open, 1)
        await self.agent.stopService()
        await settle(lambda: server.open == 0)


class ReadingTests(SynchronousTestCase):
    """Members of a response."""

    def test_members_are_checked_for_their_type(self) -> None:
        """A member of the right type is read; any other raises ``ValueError``."""
        self.assertEqual(as_text("é"), "é")
        self.assertEqual(as_texts(["a", ""]), ("a", ""))
        self.assertEqual(as_number(0), 0)
        self.assertEqual(as_number(1.5), 1.5)
        for value in (None, 1, b"a", ["a"], "\udc80"):
            self.assertRaises(ValueError, as_text, value)
        for value in (None, "a", {"a": 1}, [1], ["a", None]):
            self.assertRaises(ValueError, as_texts, value)
        for value in (None, "1", True, -1, 2**60, float("nan"), float("inf"), [1]):
            self.assertRaises(ValueError, as_number, value)
