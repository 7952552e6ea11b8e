"""
Tests of :mod:`fxprofile.serving.channel`: requests with a body.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.errors import ClientGone, RequestTimeout
from fxprofile.serving.channel import IDLE, PATIENCE, StreamingRequest
from tests.serving.channel import ChannelCase
from tests.serving.resources import read_all, refuse
from tests.serving.wire import BUFFER


class BodyTests(ChannelCase):
    """Requests with a body."""

    def test_request_is_rendered_before_its_body(self) -> None:
        """A request is rendered when its headers have arrived, and reads its body as it arrives."""
        self.post(6)
        self.assertEqual(len(self.resource.requests), 1)
        self.assertEqual(self.wire.value(), b"")
        self.connection.send(b"abc")
        self.assertEqual(self.wire.value(), b"")
        self.connection.send(b"def")
        self.assertEqual(self.connection.answer().body, b"abcdef")
        self.assert_alive()

    def test_transport_is_read_on_demand(self) -> None:
        """The transport is read only while the handler waits for the body."""
        steps = [Deferred[None]() for _ in range(3)]
        pieces = []

        async def handler(request: StreamingRequest) -> bytes:
            while steps:
                await steps[0]
                steps.pop(0)
                pieces.append(await request.body.__anext__())
            return await read_all(request)

        self.serve(handler)
        self.post(9)
        self.assertFalse(self.wire.reading)
        self.connection.send(b"abc")
        self.assertFalse(self.wire.reading)
        steps[0].callback(None)
        self.assertEqual(pieces, [b"abc"])
        self.assertFalse(self.wire.reading)
        for piece in (b"def", b"ghi"):
            steps[0].callback(None)
            self.assertTrue(self.wire.reading)
            self.connection.send(piece)
            if piece == b"def":
                self.assertFalse(self.wire.reading)
        self.assertEqual(pieces, [b"abc", b"def", b"ghi"])
        self.assertEqual(self.connection.answer().status, 200)
        self.assert_alive()

    def test_body_with_the_headers(self) -> None:
        """A body that arrives with its headers is read like any other."""
        self.post(3, b"abc")
        self.assertEqual(self.connection.answer().body, b"abc")
        self.assert_alive()

    def test_request_byte_by_byte(self) -> None:
        """A request that arrives byte by byte is handled."""
        for byte in b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
            self.connection.send(bytes([byte]))
        self.assertEqual(self.connection.answer().body, b"abc")
        self.assert_alive()

    def test_chunked_body(self) -> None:
        """A chunked body is decoded."""
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"3\r\nabc\r\n2;x=y\r\nde")
        self.connection.send(b"\r\n0\r\n\r\n")
        self.assertEqual(self.connection.answer().body, b"abcde")
        self.assert_alive()

    def test_request_without_body(self) -> None:
        """A request without a body has an empty one."""
        for method, headers in (("GET", {}), ("POST", {}), ("POST", {"Content_Length": "0"})):
            self.connection.request("/", method, **headers)
            self.assertEqual(self.connection.answer().body, b"")
        self.assert_alive()

    def test_pipelined_requests_keep_their_order(self) -> None:
        """Pipelined requests are answered in their order."""
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        bodies = [b"one", b"three", b"", b"seven"]
        self.connection.send(b"".join(post % (len(body), body) for body in bodies))
        self.assertEqual([answer.body for answer in self.connection.answers()], bodies)
        self.assert_alive()

    def test_pipelined_behind_a_slow_one(self) -> None:
        """A pipelined request waits for the response to the one before it."""
        slow: list[Deferred[None]] = [Deferred()]

        async def handler(request: StreamingRequest) -> bytes:
            if slow:
                await slow.pop()
            return request.path

        self.serve(handler)
        first = slow[0]
        for path in ("/1", "/2", "/3"):
            self.connection.request(path)
        self.assertEqual(len(self.resource.requests), 1)
        first.callback(None)
        answers = self.connection.answers()
        self.assertEqual([answer.body for answer in answers], [b"/1", b"/2", b"/3"])

    def test_response_during_the_last_piece(self) -> None:
        """A response that is given while the last piece is delivered is sent once."""

        async def handler(request: StreamingRequest) -> bytes:
            return await request.body.__anext__()

        self.serve(handler)
        self.post(3)
        self.connection.send(b"abc")
        self.assertEqual(self.connection.answer().body, b"abc")

    def test_transport_is_read_after_the_body(self) -> None:
        """After a complete body the transport is read, so that a disconnect is noticed."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.post(3)
        self.assertFalse(self.wire.reading)
        self.connection.send(b"abc")
        self.assertTrue(self.wire.reading)

    def test_transport_is_not_read_while_the_client_does_not_read(self) -> None:
        """After a complete body the transport is not read while the client reads no response."""

        async def handler(request: StreamingRequest) -> bytes:
            await request.body.__anext__()
            request.write(bytes(2 * BUFFER))
            return await Deferred[bytes]()

        self.serve(handler)
        self.wire.takes = False
        self.post(6)
        self.connection.send(b"abc")
        self.connection.send(b"def")
        self.assertFalse(self.wire.reading)
        self.wire.drain()
        self.assertTrue(self.wire.reading)

    def test_truncated_body(self) -> None:
        """A client that disconnects midway is an error, not an end."""
        self.post(6, b"abc")
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)
        self.assertEqual(self.wire.value(), b"")

    def test_bytes_after_the_body(self) -> None:
        """Bytes after the announced length belong to the next request."""
        self.post(3, b"abcdef\r\n")
        first, second = self.connection.answers()
        self.assertEqual((first.status, first.body), (200, b"abc"))
        self.assertEqual((second.status, second.body), (400, b"bad"))

    def test_stalled_body_times_out(self) -> None:
        """A client that stalls midway gets 408 after 15 seconds, and the connection is closed."""
        self.post(6, b"abc")
        self.passes(PATIENCE - 1)
        self.assertEqual(self.wire.value(), b"")
        self.passes(1)
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.header("Connection")), (408, "close"))
        self.assertIsInstance(self.resource.problems[0], RequestTimeout)
        self.assert_lingering()

    def test_dripping_body_times_out(self) -> None:
        """A client that sends one byte a second gets 408."""
        self.post(1000)
        for _ in range(PATIENCE):
            self.assertEqual(self.wire.value(), b"")
            self.connection.send(b"x")
            self.passes(1)
        self.assertEqual(self.connection.answer().status, 408)

    def test_slow_handler_does_not_time_out_the_client(self) -> None:
        """No timer runs while the handler does not read."""
        wait = Deferred[None]()

        async def handler(request: StreamingRequest) -> bytes:
            await wait
            return await read_all(request)

        self.serve(handler)
        self.post(6, b"abc")
        self.passes(3 * IDLE)
        wait.callback(None)
        self.connection.send(b"def")
        self.assertEqual(self.connection.answer().body, b"abcdef")
        self.assert_alive()


class ExpectTests(ChannelCase):
    """Clients that send Expect: 100-continue."""

    def test_continue_when_the_body_is_read(self) -> None:
        """100 Continue is sent when the handler reads the body."""
        wait = Deferred[None]()

        async def handler(request: StreamingRequest) -> bytes:
            await wait
            return await read_all(request)

        self.serve(handler)
        self.post(3, Expect="100-continue")
        self.assertEqual(self.wire.value(), b"")
        wait.callback(None)
        self.assertEqual(self.wire.value(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.wire.clear()
        self.connection.send(b"abc")
        self.assertEqual(self.connection.answer().body, b"abc")
        self.assert_alive()

    def test_no_continue_when_refused(self) -> None:
        """A refused request gets no 100 Continue."""
        self.serve(refuse)
        self.post(3, Expect="100-Continue")
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.body), (200, b"no"))
        self.assertEqual(answer.header("Connection"), "close")

    def test_no_continue_for_http_1_0(self) -> None:
        """An HTTP/1.0 client gets no 100 Continue."""
        self.connection.request(
            "/", "POST", b"abc", version="1.0", Content_Length="3", Expect="100-continue"
        )
        self.assertEqual(self.connection.answer().body, b"abc")

    def test_no_continue_without_body(self) -> None:
        """A request without a body gets no 100 Continue."""
        self.connection.request("/", Expect="100-continue")
        self.assertEqual(self.connection.answer().body, b"")
        self.assert_alive()
