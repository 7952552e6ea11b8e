"""Conformance of the HTTP client, over real connections to servers that misbehave."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.web.client import FileBodyProducer, ResponseDone, ResponseFailed
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface.verify import verifyObject

from fxprofile.http_client.agent import HostEndpoints, HttpAgent
from fxprofile.http_client.bodies import IterableBody
from fxprofile.http_client.connection import MAX_HEAD, MAX_INTERIM, Deadlines
from fxprofile.http_client.errors import (
    ConnectFailed,
    ConnectionCut,
    DeadlineExceeded,
    EarlyResponse,
    HttpError,
    MalformedResponse,
    ResponseTooLong,
)
from fxprofile.http_client.response import BUFFER
from tests.contracts.bucket import ScriptedBody
from tests.drivers.aws.server import ScriptedServer, answer
from tests.drivers.aws.tls import make_certificate, trust_in
from tests.http_client.case import HttpCase, settle
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import FakeOAuth
from tests.support.servers.hostile import Connection, Hostile

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = OK + b"Content-Length: 0\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HI = OK + b"Content-Length: 2\r\n\r\nhi"

#: Short, to keep the tests fast; no result depends on it.
SHORT = Deadlines(connect=0.2, head=0.1, progress=0.1)


def says(*pieces: bytes, close: bool = False) -> Callable[[Connection], None]:
    """Return a reaction that responds with these bytes, and then perhaps closes."""

    def react(connection: Connection) -> None:
        for piece in pieces:
            connection.write(piece)
        if close:
            connection.close()

    return react


class AgentCase(HttpCase):
    """Requests of an agent."""

    def serve(self, react: Callable[[Connection], None]) -> tuple[Hostile, bytes]:
        server, url = self.serve_hostile(react)
        return server, url.encode() + b"/path"

    async def get(self, url: bytes, method: bytes = b"GET", **options: Any) -> tuple[int, bytes]:
        response = await self.agent.send(method, url, **options)
        return response.status, await response.read(1 << 20)

    async def fails(self, kind: type[BaseException], call: Any, message: object = None) -> str:
        with self.assertRaises(kind, msg=message) as raised:
            await call
        return str(raised.exception)


class FramingTests(AgentCase):
    """Where a response begins and ends."""

    async def test_bodies_by_length_by_chunks_and_until_the_end(self) -> None:
        """A body ends with its length, its last chunk, or else with the connection."""
        chunks = b"3;name=value\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
        for react, body, kept in (
            (says(OK + b"Content-Length: 5\r\n\r\n", b"abcde"), b"abcde", True),
            (says(CHUNKED + chunks), b"abcde", True),
            (says(OK + b"\r\nabc", b"de", close=True), b"abcde", False),
            (says(EMPTY), b"", True),
            (says(b"HTTP/1.1 204 No Content\r\n\r\n"), b"", True),
            (says(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), b"", True),
        ):
            server, url = self.serve(react)
            for _ in range(2):
                self.assertEqual((await self.get(url))[1], body)
            self.assertEqual(len(server.connections), 1 if kept else 2, body)

    async def test_responses_arrive_in_any_pieces(self) -> None:
        """A response that arrives byte by byte is the same."""
        for whole in (HI, CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"):

            def react(connection: Connection, whole: bytes = whole) -> None:
                for n, byte in enumerate(whole):
                    reactor.callLater(n * 0.0005, connection.write, bytes([byte]))

            _, url = self.serve(react)
            self.assertEqual(await self.get(url), (200, b"hi"))

    async def test_a_head_has_no_body(self) -> None:
        """The response to a HEAD ends with its headers, whatever they announce."""
        for head in (OK + b"Content-Length: 5\r\n\r\n", CHUNKED):
            server, url = self.serve(says(head))
            for _ in range(2):
                self.assertEqual(await self.get(url, b"HEAD"), (200, b""))
            self.assertEqual(len(server.connections), 1)
        for surplus in (b"abcde", b"5"):
            server, url = self.serve(says(OK + b"Content-Length: 5\r\n\r\n" + surplus))
            for _ in range(2):
                self.assertEqual(await self.get(url, b"HEAD"), (200, b""))
            self.assertEqual(len(server.connections), 2)

    async def test_interim_responses_are_skipped(self) -> None:
        """Responses with status 1xx are skipped, up to a limit."""
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        _, url = self.serve(says(interim * MAX_INTERIM, HI))
        response = await self.agent.send(b"GET", url)
        self.assertEqual(response.raw_headers, [(b"content-length", b"2")])
        self.assertEqual(await response.read(9), b"hi")
        _, url = self.serve(says(interim * (MAX_INTERIM + 1), HI))
        await self.fails(MalformedResponse, self.get(url))

    async def test_malformed_responses_are_errors(self) -> None:
        """A response that violates HTTP is an error, and its connection is closed."""
        for wrong in (
            b"\x00\xff220 smtp.example ESMTP\r\n",
            b"HTTP/1.1 99 OK\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
            OK + b"Content-Length: +2\r\n\r\nhi",
            OK + b"Content-Length: 2, 2\r\n\r\nhi",
            OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhi",
            OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            OK + b"Transfer-Encoding: gzip\r\n\r\nhi",
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            OK + b"No colon\r\n\r\n",
            OK + b"Name : x\r\n\r\n",
            OK + b"X: a\x00b\r\n\r\n",
            OK + b"X: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
            CHUNKED + b"zz\r\nhi\r\n0\r\n\r\n",
            CHUNKED + b"2\r\nhixx0\r\n\r\n",
            CHUNKED + b"fffffffffffffffff\r\nhi",
            CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
        ):
            server, url = self.serve(says(wrong))
            await self.fails(MalformedResponse, self.get(url), wrong)
            await settle(lambda server=server: server.open == 0)

    async def test_headers_are_limited(self) -> None:
        """Headers, trailers, and a single line of more bytes than the limit are an error."""
        line = b"X: " + b"y" * 1000 + b"\r\n"
        count = MAX_HEAD // 1000 + 1
        for too_long in (
            OK + line * count + b"\r\n",
            OK + b"X: " + b"y" * (MAX_HEAD + 9),
            b"HTTP/1.1 200 " + b"y" * (MAX_HEAD + 9),
            CHUNKED + b"0\r\n" + line * count + b"\r\n",
        ):
            _, url = self.serve(says(too_long))
            await self.fails(MalformedResponse, self.get(url))
        _, url = self.serve(says(OK + line * (count - 4) + b"Content-Length: 2\r\n\r\nhi"))
        self.assertEqual(await self.get(url), (200, b"hi"))

    async def test_a_cut_response_is_an_error(self) -> None:
        """A connection that ends before the response does is an error."""
        for cut in (
            b"",
            b"HTTP/1.1 2",
            OK + b"X: y\r\n",
            OK + b"Content-Length: 9\r\n\r\nhi",
            CHUNKED + b"9\r\nhi",
            CHUNKED + b"2\r\nhi\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
        ):
            server, url = self.serve(says(cut, close=True))
            await self.fails(ConnectionCut, self.get(url), cut)
            self.assertEqual(len(server.connections), 1)

        def reset(connection: Connection) -> None:
            connection.write(OK + b"\r\nhi")
            reactor.callLater(0.05, connection.abort)

        _, url = self.serve(reset)
        await self.fails(ConnectionCut, self.get(url))

    async def test_a_body_is_limited(self) -> None:
        """A body of more bytes than the caller accepts is an error, and its connection closes."""
        for react in (
            says(OK + b"Content-Length: 11\r\n\r\n" + b"x" * 11),
            says(OK + b"Content-Length: 1000000000000\r\n\r\n"),
            says(CHUNKED, b"8\r\n12345678\r\n" * 5),
            says(OK + b"\r\n" + b"x" * 11),
        ):
            server, url = self.serve(react)
            response = await self.agent.send(b"GET", url)
            await self.fails(ResponseTooLong, response.read(10))
            if response.length != 11:
                await settle(lambda server=server: server.open == 0)
        _, url = self.serve(says(OK + b"Content-Length: 10\r\n\r\n" + b"x" * 10))
        self.assertEqual(await (await self.agent.send(b"GET", url)).read(10), b"x" * 10)


class PoolTests(AgentCase):
    """Which connections are reused."""

    async def test_a_connection_is_reused(self) -> None:
        """Consecutive requests share a connection; concurrent ones do not."""
        server, url = self.serve(says(HI))
        for _ in range(3):
            self.assertEqual(await self.get(url), (200, b"hi"))
        self.assertEqual(len(server.connections), 1)
        await gatherResults([Deferred.fromCoroutine(self.get(url)) for _ in range(3)])
        self.assertEqual(len(server.connections), 3)

    async def test_connections_that_are_not_reused(self) -> None:
        """A connection is not reused if the server says so, or after bytes too many."""
        for response in (
            OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
            HI + b"x",
            HI + HI,
            CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + HI,
        ):
            server, url = self.serve(says(response))
            for _ in range(2):
                self.assertEqual(await self.get(url), (200, b"hi"), response)
            self.assertEqual(len(server.connections), 2, response)

    async def test_later_bytes_close_a_kept_connection(self) -> None:
        """A response that belongs to no request closes its connection, and is never delivered."""

        def react(connection: Connection) -> None:
            connection.write(HI)
            reactor.callLater(0.02, connection.write, HI.replace(b"hi", b"no"))

        server, url = self.serve(react)
        for _ in range(2):
            self.assertEqual(await self.get(url), (200, b"hi"))
            await settle(lambda: server.open == 0)
        self.assertEqual(len(server.connections), 2)

    def close_the_second(self, connection: Connection) -> None:
        if connection.data.count(b"HTTP/1.1\r\n") == 1:
            connection.write(HI)
        else:
            connection.close()

    async def test_a_stale_connection_is_retried_once(self) -> None:
        """An idempotent request on a kept connection that was closed is sent on a new one."""
        for options in ({"method": b"GET"}, {"method": b"POST", "idempotent": True, "body": b"x"}):
            server, url = self.serve(self.close_the_second)
            for _ in range(3):
                self.assertEqual(await self.get(url, **options), (200, b"hi"))
            self.assertEqual((len(server.connections), len(server.received)), (3, 5))

    async def test_what_is_not_safe_is_not_retried(self) -> None:
        """A request is not retried if it has an effect, or was answered in part."""
        server, url = self.serve(self.close_the_second)
        await self.get(url)
        await self.fails(ConnectionCut, self.get(url, b"POST"))

        def partial(connection: Connection) -> None:
            connection.write(HI if connection.data.count(b"HTTP/1.1\r\n") == 1 else b"HTTP")
            if connection.data.count(b"HTTP/1.1\r\n") > 1:
                connection.close()

        other, url = self.serve(partial)
        await self.get(url)
        await self.fails(ConnectionCut, self.get(url))
        body = IterableBody(ScriptedBody(b"abc"), 3)
        third, url = self.serve(self.close_the_second)
        await self.get(url)
        await self.fails(ConnectionCut, self.get(url, b"PUT", body=body))
        self.assertEqual([len(s.connections) for s in (server, other, third)], [1, 1, 1])

    async def test_a_new_connection_is_not_retried(self) -> None:
        """A request to a server that closes every connection fails after one."""
        server, url = self.serve(says(close=True))
        await self.fails(ConnectionCut, self.get(url))
        self.assertEqual(len(server.connections), 1)

    async def test_connections_are_limited(self) -> None:
        """Requests beyond the limit of connections wait, in order, and can be cancelled."""
        self.agent.max_connections = 2
        server, url = self.serve(lambda connection: None)
        calls = [Deferred.fromCoroutine(self.get(url)) for _ in range(5)]
        await settle(lambda: len(server.received) == 2)
        calls[2].cancel()
        await self.fails(CancelledError, calls[2])
        server.react = says(HI)
        for connection in server.connections:
            connection.write(HI)
        await gatherResults([calls[n] for n in (0, 1, 3, 4)])
        self.assertEqual((len(server.connections), len(server.received)), (2, 4))

    async def test_waiting_has_a_deadline(self) -> None:
        """A request that gets no connection in time fails."""
        self.agent.max_connections = 1
        server, url = self.serve(lambda connection: None)
        first = Deferred.fromCoroutine(self.get(url))
        text = await self.fails(DeadlineExceeded, self.get(url, deadlines=SHORT))
        self.assertEqual(text, "no connection in 0.2 s")
        first.cancel()
        await self.fails(CancelledError, first)
        await settle(lambda: server.open == 0)
        server.react = says(HI)
        self.assertEqual(await self.get(url), (200, b"hi"))

    async def test_idle_connections_are_closed(self) -> None:
        """An idle connection is closed after its time, and when the agent is stopped."""
        self.agent.idle = 0.05
        server, url = self.serve(says(HI))
        await self.get(url)
        await settle(lambda: server.open == 0)
        self.agent.idle = 3600
        await self.get(url)
        busy = await self.agent.send(b"GET", self.serve(says(OK + b"Content-Length: 2\r\n\r\n"))[1])
        await self.agent.stopService()
        await settle(lambda: server.open == 0)
        await busy.aclose()

    def test_a_closing_connection_is_not_used(self) -> None:
        """A connection whose idle time is over is not used, even before it has ended."""
        clock, server = Clock(), FakeOAuth()
        agent = MemoryAgent(clock, server)
        for connections in (1, 2):
            response = self.successResultOf(agent.send(b"GET", b"http://a.example/v1/jwks"))
            self.assertEqual((response.status, agent.connections), (200, connections))
            clock.advance(agent.idle)


class DeadlineTests(AgentCase):
    """Every request ends in time, whatever the server does."""

    async def test_a_silent_or_dripping_server_is_abandoned(self) -> None:
        """Headers that do not end in time, or a body without progress, are an error."""

        def drip(data: bytes, head: bytes) -> Callable[[Connection], None]:
            def react(connection: Connection) -> None:
                connection.write(head)
                connection.every(0.02, data)

            return react

        for react, deadlines, text in (
            (says(), SHORT, "no response in 0.1 s"),
            (says(b"HTTP/1.1 100 Continue\r\n\r\n"), SHORT, "no response in 0.1 s"),
            (drip(b"X: y\r\n", OK), SHORT, "no response in 0.1 s"),
            (says(OK + b"Content-Length: 9\r\n\r\nhi"), SHORT, "no progress for 0.1 s"),
            (says(CHUNKED + b"5\r\n"), SHORT, "no progress for 0.1 s"),
            (drip(b"x", OK + b"\r\n"), Deadlines(total=0.1), "no complete response in 0.1 s"),
        ):
            server, url = self.serve(react)
            self.assertEqual(
                await self.fails(DeadlineExceeded, self.get(url, deadlines=deadlines)), text
            )
            await settle(lambda server=server: server.open == 0)

    async def test_a_server_that_accepts_nothing_is_abandoned(self) -> None:
        """A request that the server does not read fails when nothing was accepted in time."""
        server, url = self.serve(says())
        server.paused = True
        for body in (b"x" * 30_000_000, IterableBody(ScriptedBody(b"x" * 30_000_000), 30_000_000)):
            text = await self.fails(
                DeadlineExceeded, self.get(url, b"PUT", body=body, deadlines=SHORT)
            )
            self.assertEqual(text, "no progress for 0.1 s")

    async def test_our_own_body_is_not_timed(self) -> None:
        """The time that the body of the request or its reader takes does not count."""
        gate: Deferred[None] = Deferred()
        server, url = self.serve(says())

        def react(connection: Connection) -> None:
            if connection.data.endswith(b"end"):
                connection.write(OK + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)

        server.react = react
        body = IterableBody(ScriptedBody(b"begin", gate, b"end"), 8)
        reactor.callLater(0.3, gate.callback, None)
        response = await self.agent.send(b"PUT", url, body=body, deadlines=SHORT)
        await deferLater(reactor, 0.3)
        self.assertEqual(len(await response.read(1 << 20)), 1_000_000)

    async def test_a_refused_connection_is_an_error(self) -> None:
        """A refused connection or an unknown host is an error."""
        server = Hostile(reactor, says())
        port, url = server.listen()
        await port.stopListening()
        text = await self.fails(ConnectFailed, self.get(url.encode()))
        self.assertIn("ConnectionRefusedError", text)
        await self.fails(HttpError, self.get(b"http://nowhere.invalid/", deadlines=SHORT))

    async def test_cancelling_closes_the_connection_at_every_stage(self) -> None:
        """Cancelling a request at any stage raises CancelledError and closes its connection."""
        for react in (says(), says(OK), says(OK + b"Content-Length: 9\r\n\r\nhi")):
            server, url = self.serve(react)
            call = Deferred.fromCoroutine(self.get(url))
            await settle(lambda server=server: server.received)
            await deferLater(reactor, 0.02)
            call.cancel()
            await self.fails(CancelledError, call)
            await settle(lambda server=server: server.open == 0)
        call = Deferred.fromCoroutine(self.get(url))
        call.cancel()
        await self.fails(CancelledError, call)


class RequestTests(AgentCase):
    """What is sent."""

    async def sent(self, method: bytes = b"GET", **options: Any) -> bytes:
        server, url = self.serve(says(HI))
        await self.get(url, method, **options)
        return re.sub(rb"127\.0\.0\.1:\d+", b"HOST", b"".join(server.received))

    async def test_a_request_on_the_wire(self) -> None:
        """A request has its host, refuses compression, and has a length where one is expected."""
        common = b" /path HTTP/1.1\r\nHost: HOST\r\nAccept-Encoding: identity\r\n"
        self.assertEqual(await self.sent(), b"GET" + common + b"\r\n")
        self.assertEqual(
            await self.sent(headers=[(b"A", b"b"), (b"A", b"c")]),
            b"GET" + common + b"A: b\r\nA: c\r\n\r\n",
        )
        self.assertEqual(await self.sent(b"PUT"), b"PUT" + common + b"Content-Length: 0\r\n\r\n")
        self.assertEqual(
            await self.sent(b"POST", body=b"abc"),
            b"POST" + common + b"Content-Length: 3\r\n\r\nabc",
        )

    async def test_a_small_request_is_one_segment(self) -> None:
        """The headers and a small body arrive together."""
        server, url = self.serve(says(HI))
        await self.get(url, b"POST", body=b"x" * 1000)
        self.assertEqual(len(server.received), 1)

    def test_nothing_is_injected(self) -> None:
        """A URL, method or header that would break the framing raises ValueError."""
        url = b"http://127.0.0.1:1/"
        for arguments in (
            (b"GET", url, [(b"A", b"b\r\nC: d")]),
            (b"GET", url, [(b"A\n", b"b")]),
            (b"GET", url, [(b"A", b"b\0")]),
            (b"GET", url, [(b"A", b"b\r")]),
            (b"GET", url + b" HTTP/1.1\r\nA: b"),
            (b"GET", url + b"a b"),
            (b"GET /", url),
            (b"", url),
            (b"GET", b"/path"),
            (b"GET", b"ftp://127.0.0.1/"),
            (b"GET", b"http://user@127.0.0.1/"),
            (b"GET", b"http://127.0.0.1?a=b"),
            (b"GET", b"http://"),
        ):
            self.assertRaises(ValueError, self.agent.send, *arguments)

    async def test_a_streamed_body_has_back_pressure(self) -> None:
        """A body is not read faster than the server accepts it, and arrives whole."""
        server, url = self.serve(says())
        server.paused = True
        body = ScriptedBody(*[b"x" * 65536] * 400)
        call = Deferred.fromCoroutine(
            self.get(url, b"PUT", body=IterableBody(body, 400 * 65536), deadlines=Deadlines())
        )
        taken = -1
        while body.taken != taken or not taken:
            taken = body.taken
            await deferLater(reactor, 0.03)
        self.assertLess(taken, 300)

        def react(connection: Connection) -> None:
            if len(connection.data.partition(b"\r\n\r\n")[2]) == 400 * 65536:
                connection.write(HI)

        server.react = react
        server.connections[0].transport.resumeProducing()
        self.assertEqual(await call, (200, b"hi"))

    async def test_a_body_of_another_length_is_never_complete(self) -> None:
        """A body that is shorter or longer than announced, or fails, closes its connection."""
        for script, length, kind in (
            ((b"abc",), 4, ValueError),
            ((b"abc", b"de"), 4, ValueError),
            ((b"abc", ZeroDivisionError()), 4, ZeroDivisionError),
        ):
            server, url = self.serve(says())
            body = IterableBody(ScriptedBody(*script), length)
            await self.fails(kind, self.get(url, b"PUT", body=body))
            await settle(lambda server=server: server.open == 0)
            for connection in server.connections:
                self.assertNotIn(b"abcd", connection.data)

    async def test_an_early_response_stops_the_body(self) -> None:
        """A refusal before the end of the body is delivered; a success is an error."""
        for status, kind in ((b"403 Forbidden", None), (b"200 OK", EarlyResponse)):
            gate: Deferred[None] = Deferred()
            server, url = self.serve(says(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status))
            body = ScriptedBody(b"abc", gate, b"def")
            call = self.get(url, b"PUT", body=IterableBody(body, 6))
            if kind is None:
                self.assertEqual(await call, (403, b"no"))
            else:
                await self.fails(kind, call)
            await settle(lambda server=server: server.open == 0)
            self.assertEqual(body.taken, 1)

    async def test_a_body_waits_for_100_continue(self) -> None:
        """With Expect, a body is sent after 100 Continue, and not at all after a refusal."""
        for first, taken, status in (
            (b"HTTP/1.1 100 Continue\r\n\r\n", 2, 200),
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nhi", 0, 403),
        ):
            body = ScriptedBody(b"bo", b"dy")

            def react(
                connection: Connection, first: bytes = first, body: ScriptedBody = body
            ) -> None:
                if not connection.data.endswith(b"body"):
                    self.assertEqual(body.taken, 0)
                    connection.write(first)
                else:
                    connection.write(HI)

            _, url = self.serve(react)
            sent = await self.get(
                url,
                b"PUT",
                headers=[(b"Expect", b"100-continue")],
                body=IterableBody(body, 4),
            )
            self.assertEqual((sent, body.taken), ((status, b"hi"), taken))

    async def test_a_body_does_not_wait_for_ever(self) -> None:
        """With Expect, a body is sent after a while even if the server does not say so."""

        def react(connection: Connection) -> None:
            if connection.data.endswith(b"body"):
                connection.write(HI)

        _, url = self.serve(react)
        sent = await self.get(
            url,
            b"PUT",
            headers=[(b"Expect", b"100-continue")],
            body=IterableBody(ScriptedBody(b"body"), 4),
        )
        self.assertEqual(sent, (200, b"hi"))


class StreamTests(AgentCase):
    """Responses that are read piece by piece."""

    async def test_a_reader_controls_the_flow(self) -> None:
        """No more is read from the socket than one buffer while the reader does nothing."""
        size = 20_000_000
        _, url = self.serve(says(OK + b"Content-Length: %d\r\n\r\n" % size + b"x" * size))
        response = await self.agent.send(b"GET", url)
        await deferLater(reactor, 0.1)
        self.assertLess(response._size, BUFFER * 3)
        self.assertEqual(sum([len(piece) async for piece in response]), size)

    async def test_a_cut_stream_is_an_error_after_its_pieces(self) -> None:
        """A stream that is cut yields what has arrived, fails once, and then ends."""
        _, url = self.serve(says(OK + b"Content-Length: 9\r\n\r\nhi", close=True))
        response = await self.agent.send(b"GET", url)
        self.assertEqual(await anext(response), b"hi")
        await self.fails(ConnectionCut, anext(response))
        self.assertEqual([piece async for piece in response], [])

    async def test_closing_a_stream_drops_its_connection_unless_it_is_complete(self) -> None:
        """A closed stream ends; its connection is reused only if the whole body has arrived."""
        server, url = self.serve(says(OK + b"Content-Length: 9\r\n\r\nhi"))
        response = await self.agent.send(b"GET", url)
        await response.aclose()
        self.assertEqual([piece async for piece in response], [])
        await settle(lambda: server.open == 0)
        server, url = self.serve(says(HI))
        for _ in range(2):
            await (await self.agent.send(b"GET", url)).aclose()
        self.assertEqual(len(server.connections), 1)


class InterfaceTests(AgentCase):
    """The agent under treq."""

    async def test_the_interfaces_are_provided(self) -> None:
        """Agent, response and body provide Twisted's interfaces."""
        _, url = self.serve(says(HI))
        verifyObject(IAgent, self.agent)
        verifyObject(IBodyProducer, IterableBody(ScriptedBody(), 0))
        response = await self.agent.request(b"GET", url)
        verifyObject(IResponse, response)
        self.assertEqual((response.code, response.phrase, response.length), (200, b"OK", 2))
        self.assertEqual(response.request.absoluteURI, url)
        self.assertEqual(response.headers.getRawHeaders("Content-Length"), ["2"])
        await response.aclose()

    async def test_treq_works_over_the_agent(self) -> None:
        """treq sends bodies and headers, and reads responses, over the agent."""
        server, url = self.serve(says(OK + b"Set-Cookie: a=b\r\nContent-Length: 4\r\n\r\n[1]\n"))
        client = HTTPClient(self.agent)
        for _ in range(2):
            response = await client.post(url, json={"a": 1}, headers={"X": "y"}, reactor=reactor)
            self.assertEqual((response.code, await response.json()), (200, [1]))
        received = b"".join(server.received)
        self.assertEqual(received.count(b'{"a":1}'), 2)
        self.assertEqual(received.count(b"X: y\r\n"), 2)
        self.assertEqual(received.count(b"Accept-Encoding: identity\r\n"), 2)
        self.assertEqual(received.lower().count(b"accept-encoding"), 2)
        self.assertIn(b"a=b", received)

    async def test_a_compressed_response_is_an_error(self) -> None:
        """A compressed response, whose length does not bound its size, is an error."""
        coded = OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi"
        _, url = self.serve(says(coded))
        with self.assertRaises(MalformedResponse):
            await self.agent.request(b"GET", url)

    async def test_a_producer_of_twisted_is_sent(self) -> None:
        """A FileBodyProducer is sent whole; a producer of unknown length is refused."""
        _, url = self.serve(lambda c: c.write(HI) if c.data.endswith(b"end") else None)
        producer = FileBodyProducer(BytesIO(b"x" * 100_000 + b"end"))
        response = await self.agent.request(b"POST", url, bodyProducer=producer)
        self.assertEqual(response.code, 200)
        producer.length = UNKNOWN_LENGTH
        self.assertRaises(ValueError, self.agent.request, b"POST", url, None, producer)

    async def test_a_protocol_receives_the_body(self) -> None:
        """deliverBody passes the pieces on, can be paused, and reports how the body ended."""
        for announced, reason in ((2, ResponseDone), (9, ResponseFailed)):
            head = OK + b"Content-Length: %d\r\n\r\nhi" % announced
            _, url = self.serve(says(head, close=announced > 2))
            response = await self.agent.request(b"GET", url)
            reader = _Reader()
            response.deliverBody(reader)
            failure = await reader.done
            self.assertEqual((reader.data, failure.type), (b"hi", reason))

    async def test_a_protocol_can_stop_the_body(self) -> None:
        """A protocol that loses its connection drops that of the response."""
        server, url = self.serve(says(OK + b"Content-Length: 9\r\n\r\nhi"))
        reader = _Reader()
        (await self.agent.request(b"GET", url)).deliverBody(reader)
        reader.transport.pauseProducing()
        reader.transport.resumeProducing()
        reader.transport.loseConnection()
        await reader.done
        await settle(lambda: server.open == 0)


class _Reader:
    def __init__(self) -> None:
        self.data = b""
        self.done: Deferred[Any] = Deferred()

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Any) -> None:
        self.done.callback(_Outcome(reason.type))


class _Outcome:
    def __init__(self, kind: type) -> None:
        self.type = kind


class TlsTests(AgentCase):
    """Connections with TLS."""

    def serve_tls(self, *script: Any) -> tuple[ScriptedServer, bytes]:
        self.certificate = make_certificate()
        server = ScriptedServer(self, *script, context=self.certificate.options())
        return server, server.host.rpartition(":")[2].encode()

    async def test_a_trusted_server_is_used(self) -> None:
        """A request to a server with a trusted certificate works, and its connection is kept."""
        server, port = self.serve_tls(answer(200, b"a"), answer(200, b"b" * 200_000))
        self.agent = HttpAgent(reactor, HostEndpoints(reactor, trust_in(self.certificate)))
        url = b"https://localhost:" + port
        self.assertEqual(await self.get(url), (200, b"a"))
        self.assertEqual(await self.get(url, b"PUT", body=b"x" * 200_000), (200, b"b" * 200_000))
        self.assertEqual(len(server.seen[1].body), 200_000)

    async def test_a_wrong_certificate_receives_nothing(self) -> None:
        """A certificate that is untrusted or of another name is an error; nothing is sent."""
        server, port = self.serve_tls(answer(200), answer(200))
        text = await self.fails(ConnectionCut, self.get(b"https://localhost:" + port))
        self.assertIn("certificate verify failed", text)
        self.agent = HttpAgent(reactor, HostEndpoints(reactor, trust_in(self.certificate)))
        await self.fails(ConnectionCut, self.get(b"https://127.0.0.1:" + port))
        self.assertEqual(server.seen, [])

    async def test_a_server_without_tls_is_an_error(self) -> None:
        """A server that does not speak TLS, or does not shake hands, is an error in time."""
        for react, kind in ((says(b"HTTP/1.1 400 no\r\n\r\n"), ConnectionCut), (says(), HttpError)):
            _, url = self.serve(react)
            url = url.replace(b"http:", b"https:").replace(b"127.0.0.1", b"localhost")
            await self.fails(kind, self.get(url, deadlines=SHORT))
