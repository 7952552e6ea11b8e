"""Tests of :mod:`fxprofile.serving` over TCP, for what only a real socket does."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.errors import ClientGone
from fxprofile.serving.channel import StreamingRequest, StreamingSite
from tests.serving.resources import Handled, Handler, read_all, refuse
from tests.serving.sockets import Client, LoopbackCase, until

BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad"
REFUSAL = BAD.replace(b"\r\n", b"\r\nServer: fxprofile\r\nDate: .*\r\n", 1)


class SocketTests(LoopbackCase):
    async def serve(self, handler: Handler) -> Client:
        """Connect to a site whose requests this coroutine handles."""
        self.resource = Handled(handler)
        self.site = StreamingSite(self.resource, reactor=reactor, bad_request=BAD)
        return await self.connect(await self.listen(self.site))

    async def test_requests_share_a_connection(self) -> None:
        """Requests with and without a body share one connection."""
        client = await self.serve(read_all)
        for body in (b"", b"abc", bytes(1 << 20), b"abc"):
            client.transport.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            client.transport.write(body)
            self.assertEqual((await client.answer())[1], body)
        self.assertIsNone(client.lost)

    async def test_unread_body_is_not_buffered(self) -> None:
        """At most one read of the socket is buffered of a body that is not read."""
        step = Deferred[None]()

        async def handler(request: StreamingRequest) -> bytes:
            await step
            return b"%d" % len(await read_all(request))

        client = await self.serve(handler)
        size = 32 << 20
        client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.transport.write(bytes(size))
        await until(lambda: self.resource.requests)
        sent = -1
        while sent != (sent := size - len(client.transport.dataBuffer) + client.transport.offset):
            await until(iter((False,) * 20 + (True,)).__next__)
        held = sum(map(len, self.resource.requests[0].body._pieces))
        self.assertLessEqual(held, 1 << 16)
        step.callback(None)
        self.assertEqual((await client.answer())[1], b"%d" % size)

    async def test_refusal_while_sending(self) -> None:
        """A client that keeps sending sees the refusal, and an orderly end."""
        client = await self.serve(refuse)
        size = 16 << 20
        client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.transport.write(bytes(size))
        answer = await client.end()
        self.assertTrue(answer.endswith(b"\r\n\r\nno"), answer)
        self.assertIn(b"Connection: close\r\n", answer)

    async def test_invalid_http_while_sending(self) -> None:
        """A client that keeps sending invalid HTTP sees the response, and an orderly end."""
        client = await self.serve(refuse)
        client.transport.write(b"\x16\x03\x01\r\n" * (1 << 20))
        self.assertRegex(await client.end(), REFUSAL)

    async def test_disconnect_during_the_body(self) -> None:
        """A handler that reads the body learns that its client disconnected."""
        client = await self.serve(read_all)
        client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        await until(lambda: self.resource.requests)
        client.transport.loseConnection()
        await until(lambda: self.resource.problems)
        self.assertIsInstance(self.resource.problems[0], ClientGone | CancelledError)
        await until(lambda: not self.site.channels)

    async def test_disconnect_after_the_body(self) -> None:
        """A handler learns that its client disconnected after a complete body."""

        async def handler(request: StreamingRequest) -> bytes:
            await read_all(request)
            return await Deferred[bytes]()

        client = await self.serve(handler)
        client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        await until(lambda: self.resource.requests and self.resource.requests[0].body.complete)
        client.transport.abortConnection()
        await until(lambda: self.resource.problems)
        self.assertIsInstance(self.resource.problems[0], CancelledError)

    async def test_half_close_before_the_response(self) -> None:
        """A client that closes its sending side before the response gets it."""
        gate: Deferred[None] = Deferred()

        async def slow(request: StreamingRequest) -> bytes:
            data = await read_all(request)
            await gate
            return data

        client = await self.serve(slow)
        client.transport.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        client.transport.loseWriteConnection()
        await until(lambda: any(c.persistent is False for c in self.site.channels))
        gate.callback(None)
        self.assertIn(b"\r\n\r\nabc", await client.end())

    async def test_half_close_gets_all_responses(self) -> None:
        """A client that has closed its sending side gets all responses to its requests."""
        client = await self.serve(read_all)
        client.transport.write(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcBREW\r\n\r\n"
        )
        client.transport.loseWriteConnection()
        answer = await client.end()
        self.assertRegex(answer, b"\r\n\r\nabc" + REFUSAL)
        await until(lambda: not self.site.channels)
