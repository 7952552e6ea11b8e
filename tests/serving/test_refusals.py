"""
Tests of :mod:`fxprofile.serving.channel`: responses before the end of a body, and invalid HTTP.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.errors import ClientGone
from fxprofile.serving.channel import (
    BYTES_PER_CHUNK,
    FREE_CHUNKS,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_TARGET,
    StreamingRequest,
)
from tests.serving.channel import BAD, BAD_LENGTH, TOO_LONG, ChannelCase
from tests.serving.resources import read_all, refuse


class RefusalTests(ChannelCase):
    """Responses before the end of the body."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(refuse)

    def test_response_before_the_body(self) -> None:
        """
        A response before the body is sent at once with Connection: close, and no more is
        parsed.
        """
        self.post(1000)
        answer = self.connection.answer()
        self.assertEqual((answer.body, answer.header("Connection")), (b"no", "close"))
        self.assert_lingering()
        self.connection.send(b"x" * 1000 + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)
        self.assertEqual(self.wire.value(), b"")

    def test_response_with_part_of_the_body(self) -> None:
        """A response is sent at once if part of the body came with the headers."""
        self.post(1000, b"x" * 500)
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assert_lingering()
        self.connection.send(b"x" * 500 + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)

    def test_response_midway(self) -> None:
        """A response in the middle of the body is sent at once."""

        async def handler(request: StreamingRequest) -> bytes:
            return await request.body.__anext__()

        self.serve(handler)
        self.post(1000)
        self.connection.send(b"abc")
        answer = self.connection.answer()
        self.assertEqual((answer.body, answer.header("Connection")), (b"abc", "close"))
        self.assert_lingering()

    def test_linger_time_is_bounded(self) -> None:
        """The rest of the body is discarded for a few seconds only."""
        self.post(1 << 40)
        for _ in range(LINGER_SECONDS):
            self.assertFalse(self.wire.aborted)
            self.connection.send(b"x")
            self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_linger_bytes_are_bounded(self) -> None:
        """The rest of the body is discarded up to a limit."""
        self.post(1 << 40)
        piece = b"x" * (1 << 20)
        for _ in range(LINGER_BYTES // len(piece)):
            self.connection.send(piece)
        self.assertFalse(self.wire.aborted)
        self.connection.send(b"x")
        self.assertTrue(self.wire.aborted)

    def test_unread_complete_body(self) -> None:
        """If a complete body was not read, the connection can be reused."""

        async def handler(request: StreamingRequest) -> bytes:
            await wait
            return b"no"

        wait = Deferred[None]()
        self.serve(handler)
        self.post(3, b"abc")
        wait.callback(None)
        self.assertIsNone(self.connection.answer().header("Connection"))
        self.assert_alive()


class NotHttpTests(ChannelCase):
    """Responses to invalid HTTP."""

    def test_invalid_length(self) -> None:
        """An invalid length of the body has a response of its own."""
        head = b"POST / HTTP/1.1\r\nHost: x\r\n"
        for data in (
            head + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
            head + b"Transfer-Encoding: identity\r\n\r\n",
            head + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Content-Length: 3\r\nTransfer-Encoding: identity\r\n\r\nabc",
            head.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: gzip, chunked\r\n\r\nabc",
            head + b"Content-Length: -3\r\n\r\nabc",
            head + b"Content-Length: +3\r\n\r\nabc",
            head + b"Content-Length: 0x3\r\n\r\nabc",
            head + b"Content-Length: \xb2\r\n\r\nabc",
            head + b"Content-Length: " + b"0" * 5000 + b"3\r\n\r\nabc",
            head + b"content-length : 3\r\nX: y\r\n\r\nabc",
            head + b"Content-Length: 3\r\nX: y\r\ntransfer-encoding:chunked\r\n\r\nabc",
        ):
            self.serve(read_all)
            self.connection.send(data + b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(self.refusal(), BAD_LENGTH, data[:80])
            self.assertEqual(self.resource.requests, [], data[:80])
            self.assert_lingering()

    def test_garbage_gets_bad_request(self) -> None:
        """Garbage gets the site's response once, and nothing is rendered."""
        head = b"POST / HTTP/1.1\r\nHost: x\r\n"
        for data in (
            b"\x16\x03\x01\x00\xa5\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1 now\r\n\r\n",
            b"G\x00T / HTTP/1.1\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            head + b"no colon\r\n\r\n",
            head + b"na me: x\r\n\r\n",
            head + b"Name: a\x00b\r\n\r\n",
            head + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
            head + b"X: " + b"x" * 20_000,
            head + b"X: xxxxxxxx\r\n" * 2000 + b"\r\n",
        ):
            self.serve(read_all)
            self.connection.send(data + b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(self.refusal(), BAD, data[:80])
            self.assertEqual(self.resource.requests, [], data[:80])
            self.assert_lingering()
            self.connection.send(b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(self.refusal(), BAD, data[:80])
            self.passes(LINGER_SECONDS)
            self.assertTrue(self.wire.aborted)

    def test_garbage_after_requests(self) -> None:
        """Garbage does not affect the responses to earlier requests."""
        self.connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nBREW\r\n\r\n")
        answers = self.connection.answers()
        self.assertEqual([answer.status for answer in answers], [200, 400])

    def test_invalid_chunks(self) -> None:
        """Invalid chunks end the request that reads them."""
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"3\r\nabc\r\nxyz\r\n")
        self.assertEqual(self.refusal(), BAD)
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)
        self.assert_lingering()
        self.connection.send(b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        self.assertEqual(self.refusal(), BAD)
        self.assertEqual(len(self.resource.requests), 1)

    def test_invalid_chunks_during_the_response(self) -> None:
        """Invalid chunks during a response are not followed by a second response."""

        async def handler(request: StreamingRequest) -> bytes:
            request.setHeader(b"Content-Length", b"10")
            request.write(b"begun")
            return await read_all(request)

        self.serve(handler)
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"xyz\r\n")
        self.assertTrue(self.wire.value().endswith(b"begun"))
        self.assert_lingering()

    def test_disconnect_in_the_headers(self) -> None:
        """A client that disconnects in its headers causes no request."""
        for data in (b"", b"GE", b"GET / HTTP/1.1\r\nHost"):
            self.serve(read_all)
            self.connection.send(data)
            self.connection.lose()
            self.assertEqual(self.resource.requests, [])

    def test_exactly_one_host(self) -> None:
        """A request without Host, with two or with an invalid one is refused with 400."""
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nhost: b\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            b"GET http://a/ HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        ):
            self.serve(read_all)
            self.connection.send(data)
            self.assertEqual((self.refusal(), self.resource.requests), (BAD, []), data)
            self.assert_lingering()

    def test_valid_hosts(self) -> None:
        """Host may be empty, an address with a port, or absent in HTTP/1.0."""
        for host in (b"Host:\r\n", b"Host: [::1]:80\r\n", b"Host: example_1.com:80\r\n"):
            self.connection.send(b"GET / HTTP/1.1\r\n" + host + b"\r\n")
            self.assertEqual(self.connection.answer().status, 200)
        self.connection.send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(self.connection.answer().status, 200)

    def test_absolute_form(self) -> None:
        """A target in absolute form is served as its path, whatever its host is."""
        for target, path in {
            "http://example.com/a?b=c://d": b"/a",
            "HTTPS://[::1]:443/a/b": b"/a/b",
            "http://example.com": b"/",
            "http://example.com?b": b"/",
        }.items():
            self.connection.request(target)
            self.assertEqual(self.connection.answer().status, 200)
            self.assertEqual(self.resource.requests[-1].path, path)

    def test_invalid_targets(self) -> None:
        """A target that is neither a path nor an absolute HTTP URL is refused with 400."""
        for target in ("a", "example.com:80", "http:///a", "http://u@h/", "ftp://h/", "a://b"):
            self.serve(read_all)
            self.connection.request(target)
            self.assertEqual((self.refusal(), self.resource.requests), (BAD, []), target)

    def test_long_target(self) -> None:
        """A target of 2 KiB is served, and a longer one is refused with 414."""
        self.connection.request("/" + "a" * (MAX_TARGET - 1))
        self.assertEqual(self.connection.answer().status, 200)
        for extra in (100, 10_000, 20_000):
            self.serve(read_all)
            self.connection.request("/" + "a" * (MAX_TARGET + extra))
            self.assertEqual((self.refusal(), self.resource.requests), (TOO_LONG, []))
            self.assert_lingering()

    def test_trailers(self) -> None:
        """Trailers are discarded; one with a bare CR or LF, or without a name, is refused."""
        for trailer, status in {
            b"": 200,
            b"X: y\r\nZ: a\r\n": 200,
            b"X: y\nZ: a\r\n": 400,
            b"X: y\rZ: a\r\n": 400,
            b"X\r\n": 400,
            b": y\r\n": 400,
        }.items():
            self.serve(read_all)
            self.connection.request("/", "POST", Transfer_Encoding="chunked")
            for byte in b"1\r\na\r\n0\r\n" + trailer + b"\r\n":
                self.connection.send(bytes([byte]))
            self.assertEqual(self.connection.answer().status, status, trailer)

    def test_bare_line_feeds_in_chunks(self) -> None:
        """A line of a chunk that ends in LF alone is refused."""
        for body in (b"1\na\r\n0\r\n\r\n", b"1\r\na\n0\r\n\r\n", b"1;x\n\r\na\r\n0\r\n\r\n"):
            self.serve(read_all)
            self.connection.request("/", "POST", body, Transfer_Encoding="chunked")
            self.assertEqual(self.refusal(), BAD, body)

    def test_small_chunks_are_limited(self) -> None:
        """A body may have a few small chunks; more must be large on average."""
        size = BYTES_PER_CHUNK
        for chunk, count, ends in (
            (b"1\r\na\r\n", FREE_CHUNKS, True),
            (b"1\r\na\r\n", FREE_CHUNKS + 2, False),
            (b"%x\r\n%b\r\n" % (size, bytes(size)), 2 * FREE_CHUNKS, True),
        ):
            self.serve(read_all)
            body = chunk * count + b"0\r\n\r\n"
            self.connection.request("/", "POST", body, Transfer_Encoding="chunked")
            self.assertEqual(self.connection.answer().status, 200 if ends else 400)

    def test_asterisk_path(self) -> None:
        """The path ``*`` is routed like any other."""
        self.connection.request("*", "OPTIONS")
        self.assertEqual(self.connection.answer().header("Server"), "fxprofile")
        self.assertEqual(self.resource.requests[0].path, b"/*")
