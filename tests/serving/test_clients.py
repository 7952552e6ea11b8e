"""Tests of :mod:`fxprofile.serving.channel`: clients that are slow, disconnect, or do not read."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from fxprofile.model.errors import ClientGone
from fxprofile.serving.channel import IDLE, LINGER_SECONDS, PATIENCE, UNREAD, StreamingRequest
from tests.serving.channel import ChannelCase
from tests.serving.resources import refuse
from tests.serving.wire import BUFFER


class TimerTests(ChannelCase):
    """Time limits of clients."""

    def test_idle_connection_is_closed(self) -> None:
        """An idle connection is closed after a minute."""
        self.passes(IDLE - 1)
        self.assertFalse(self.wire.disconnecting)
        self.passes(1)
        self.assertTrue(self.wire.disconnecting)

    def test_dripping_headers_time_out(self) -> None:
        """Headers that are not complete in 15 seconds close the connection."""
        self.passes(IDLE - 1)
        self.connection.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(PATIENCE):
            self.assertFalse(self.wire.disconnecting)
            self.connection.send(b"x")
            self.passes(1)
        self.assertTrue(self.wire.disconnecting)

    def test_timer_restarts_after_a_response(self) -> None:
        """The idle timer restarts after a response, with or without a request body."""
        for _ in range(3):
            self.passes(IDLE - 1)
            self.connection.request("/")
            self.assertEqual(self.connection.answer().status, 200)
            self.passes(IDLE - 1)
            self.post(3, b"abc")
            self.assertEqual(self.connection.answer().status, 200)
        self.passes(IDLE)
        self.assertTrue(self.wire.disconnecting)

    def test_unread_response_times_out(self) -> None:
        """A client that reads nothing of a long response for half a minute is disconnected."""
        self.serve(self.write_much)
        self.wire.takes = False
        self.connection.request("/")
        self.passes(UNREAD - 1)
        self.assertFalse(self.wire.aborted)
        self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_slowly_read_response(self) -> None:
        """A client that keeps reading slowly may take a long time."""
        self.serve(self.write_much)
        self.wire.takes = False
        self.connection.request("/")
        for _ in range(5):
            self.passes(UNREAD - 1)
            self.wire.drain(still_takes=False)
            self.resource.requests[0].write(bytes(2 * BUFFER))
        self.assertFalse(self.wire.aborted)
        self.wire.drain()
        self.passes(2 * IDLE)
        self.assertFalse(self.wire.disconnecting)

    async def write_much(self, request: StreamingRequest) -> bytes:
        request.write(bytes(2 * BUFFER))
        return await Deferred[bytes]()

    def test_unread_short_response_times_out(self) -> None:
        """A short unread response keeps a connection open no longer than an idle one."""
        self.wire.takes = False
        self.connection.request("/")
        self.passes(IDLE)
        self.assertTrue(self.wire.disconnecting)
        self.passes(IDLE)
        self.assertTrue(self.wire.aborted)

    def test_unread_last_response_times_out(self) -> None:
        """An unread last response does not keep a connection open."""
        self.wire.takes = False
        self.connection.request("/", Connection="close")
        self.assertTrue(self.wire.disconnecting)
        self.passes(IDLE - 1)
        self.assertFalse(self.wire.aborted)
        self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_slow_handler_does_not_time_out(self) -> None:
        """A client that waits for its response is not disconnected."""
        wait = Deferred[bytes]()

        async def handler(request: StreamingRequest) -> bytes:
            return await wait

        self.serve(handler)
        self.connection.request("/")
        self.passes(3 * IDLE)
        wait.callback(b"at last")
        self.assertEqual(self.connection.answer().body, b"at last")


class ClientTests(ChannelCase):
    """Clients that disconnect, or do not read."""

    def test_disconnect_cancels_the_handler(self) -> None:
        """A disconnected client cancels its handler."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.connection.request("/")
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError)

    def test_response_after_disconnect(self) -> None:
        """A response to a client that disconnected during its body does no harm."""
        self.post(100)
        request = self.resource.requests[0]
        self.connection.lose()
        request.write(b"hello?")
        self.assertEqual(self.wire.value(), b"")

    def test_half_closed_client_gets_its_response(self) -> None:
        """A client that has closed its sending side still gets its response."""
        self.wire.takes = False
        self.connection.request("/")
        self.connection.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.assertEqual(self.connection.answer().status, 200)

    def test_half_close_during_the_response(self) -> None:
        """A client that closes its sending side during the response gets all of it."""
        wait = Deferred[bytes]()

        async def handler(request: StreamingRequest) -> bytes:
            request.setHeader(b"Content-Length", b"6")
            request.write(b"abc")
            return await wait

        self.serve(handler)
        self.connection.request("/")
        self.connection.protocol.readConnectionLost()
        self.assertFalse(self.wire.disconnecting)
        self.assertFalse(self.wire.reading)
        wait.callback(b"def")
        self.assertTrue(self.wire.value().endswith(b"abcdef"))
        self.assertTrue(self.wire.disconnecting)

    def test_half_close_during_the_body(self) -> None:
        """A client that closes its sending side during its body counts as disconnected."""
        self.post(6, b"abc")
        self.connection.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)

    def flood(self) -> None:
        """Send requests for as long as they are read."""
        sent = 0
        while self.wire.reading:
            self.connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            sent += 1
            self.assertLess(sent, 10, "there is no end to it")
            self.assertLess(self.wire.buffered, 3 * BUFFER)

    def test_flood_of_requests_is_bounded(self) -> None:
        """A client that pipelines requests without reading responses is not read any further."""
        self.wire.takes = False
        self.flood()
        answered = len(self.resource.requests)
        self.assertLess(answered, 1000)
        self.wire.drain(still_takes=False)
        self.assertGreater(len(self.resource.requests), answered)
        self.assertLess(self.wire.buffered, BUFFER + 1000)
        while not self.wire.reading:
            self.wire.drain()
        self.assertEqual(len(self.resource.requests) % 1000, 0)
        answers = self.connection.answers()
        self.assertEqual(len(answers), len(self.resource.requests))

    def test_flood_during_a_long_response(self) -> None:
        """
        A client that pipelines requests while it reads nothing of a long response is no
        longer read.
        """
        wait = Deferred[None]()

        async def handler(request: StreamingRequest) -> bytes:
            if len(self.resource.requests) == 1:
                request.setHeader(b"Content-Length", b"%d" % (2 * BUFFER))
                request.write(bytes(2 * BUFFER))
                await wait
            return b""

        self.serve(handler)
        self.wire.takes = False
        self.flood()
        self.assertEqual(len(self.resource.requests), 1)
        self.wire.drain()
        self.assertFalse(self.wire.reading)
        wait.callback(None)
        self.assertTrue(self.wire.reading)
        self.assertEqual(len(self.connection.answers()), len(self.resource.requests))

    def test_flood_during_a_slow_handler(self) -> None:
        """A client that pipelines requests while the first is handled is not read any further."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.flood()
        self.assertEqual(len(self.resource.requests), 1)

    def test_http_1_0_client(self) -> None:
        """An HTTP/1.0 client is served, and its connection is closed."""
        self.connection.request("/", version="1.0")
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assertTrue(self.wire.disconnecting)

    def test_host_header_is_not_repeated(self) -> None:
        """The Host header is not repeated in responses."""
        self.connection.request("/")
        self.assertEqual(self.resource.requests[0].getRequestHostname(), b"localhost")


class StatusTests(ChannelCase):
    def test_phrases_of_statuses(self) -> None:
        """Statuses that Twisted has no phrase for have one; other phrases are kept."""
        for code, words in ((422, b"422 Unprocessable "), (404, b"404 Not Found"), (299, b"299 ")):

            async def handler(request: StreamingRequest, code: int = code) -> bytes:
                request.setResponseCode(code)
                return b""

            self.serve(handler)
            self.connection.request("/")
            self.assertTrue(self.wire.value().startswith(b"HTTP/1.1 " + words))


class StoppingTests(ChannelCase):
    """Connections of a site that stops."""

    def test_idle_connection(self) -> None:
        """An idle connection is closed."""
        self.site.close_idle()
        self.assertTrue(self.wire.disconnecting)

    def test_connection_with_a_request(self) -> None:
        """
        A connection whose request is being handled is closed after the response, which says
        so.
        """
        wait = Deferred[bytes]()

        async def handler(request: StreamingRequest) -> bytes:
            return await wait

        self.serve(handler)
        self.connection.request("/")
        self.site.close_idle()
        self.assertFalse(self.wire.disconnecting)
        wait.callback(b"done")
        answer = self.connection.answer()
        self.assertEqual((answer.body, answer.header("Connection")), (b"done", "close"))
        self.assertTrue(self.wire.disconnecting)

    def test_connection_with_partial_headers(self) -> None:
        """A request whose headers are arriving is answered, and its connection closed."""
        self.connection.send(b"GET / HTTP/1.1\r\nHost")
        self.site.close_idle()
        self.assertFalse(self.wire.disconnecting)
        self.connection.send(b": x\r\n\r\n")
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assertTrue(self.wire.disconnecting)

    def test_connection_with_partial_body(self) -> None:
        """A request whose body is arriving is answered, and its connection closed."""
        self.post(6, b"abc")
        self.site.close_idle()
        self.connection.send(b"def")
        self.assertEqual(self.connection.answer().body, b"abcdef")
        self.assertTrue(self.wire.disconnecting)

    def test_lingering_connection(self) -> None:
        """A lingering connection is left to linger."""
        self.serve(refuse)
        self.post(6)
        self.site.close_idle()
        self.assert_lingering()
        self.passes(LINGER_SECONDS)
        self.assertTrue(self.wire.aborted)

    def test_site_knows_its_connections(self) -> None:
        """The site knows each connection until it is closed."""
        self.assertEqual(len(self.site.channels), 1)
        self.connection.protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual(len(self.site.channels), 0)

    def test_alpn_offers_http_1_1(self) -> None:
        """Over TLS only HTTP/1.1 is offered."""
        self.assertEqual(self.site.acceptableProtocols(), [b"http/1.1"])
