"""
Tests of :mod:`fxprofile.serving.channel`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.errors import ClientGone, RequestTimeout
from fxprofile.serving.body import PATIENCE
from fxprofile.serving.channel import LINGER_BYTES, LINGER_SECONDS, StreamingRequest
from fxprofile.serving.site import IDLE, StreamingSite
from tests.serving.resources import Handled, Handler, read_all, refuse
from tests.serving.wire import BUFFER, Connection, Wire

BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad"


class ChannelCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.serve(read_all)

    def tearDown(self) -> None:
        self.connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer outlived its connection")

    def serve(self, handler: Handler) -> None:
        """A connection to a site whose requests this coroutine answers."""
        if hasattr(self, "connection"):
            self.connection.lose()
        self.resource = Handled(handler)
        self.site = StreamingSite(self.resource, reactor=self.clock, bad_request=BAD)
        self.connection = Connection(self.site)

    @property
    def wire(self) -> Wire:
        return self.connection.wire

    def post(self, length: int, body: bytes = b"", **headers: str) -> None:
        self.connection.request("/", "POST", body, Content_Length=str(length), **headers)

    def passes(self, seconds: float) -> None:
        self.clock.pump([1] * round(seconds))
        self.connection.settle()

    def assert_alive(self) -> None:
        """The connection is good for another request."""
        self.assertFalse(self.wire.disconnecting or self.wire.half_closed)
        count = len(self.resource.requests)
        self.connection.request("/")
        self.assertEqual(len(self.resource.requests), count + 1)
        self.assertEqual(self.connection.answer().status, 200)

    def assert_lingering(self) -> None:
        """The answer is out, and the rest of the request is read and dropped."""
        self.assertTrue(self.wire.half_closed)
        self.assertTrue(self.wire.reading)
        self.assertFalse(self.wire.disconnecting)


class BodyTests(ChannelCase):
    """Requests with a body."""

    def test_rendered_first(self) -> None:
        """A request is rendered when its headers are in, and reads the body as it comes."""
        self.post(6)
        self.assertEqual(len(self.resource.requests), 1)
        self.assertEqual(self.wire.value(), b"")
        self.connection.send(b"abc")
        self.assertEqual(self.wire.value(), b"")
        self.connection.send(b"def")
        self.assertEqual(self.connection.answer().body, b"abcdef")
        self.assert_alive()

    def test_back_pressure(self) -> None:
        """The transport is read while somebody asks for the body, and at no other time."""
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

    def test_with_the_headers(self) -> None:
        """A body that comes with its headers is read like any other."""
        self.post(3, b"abc")
        self.assertEqual(self.connection.answer().body, b"abc")
        self.assert_alive()

    def test_byte_by_byte(self) -> None:
        """So is a request that comes byte by byte."""
        for byte in b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
            self.connection.send(bytes([byte]))
        self.assertEqual(self.connection.answer().body, b"abc")
        self.assert_alive()

    def test_chunked(self) -> None:
        """A body in chunks is taken apart."""
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"3\r\nabc\r\n2;x=y\r\nde")
        self.connection.send(b"\r\n0\r\n\r\n")
        self.assertEqual(self.connection.answer().body, b"abcde")
        self.assert_alive()

    def test_no_body(self) -> None:
        """A request without a body has an empty one."""
        for method, headers in (("GET", {}), ("POST", {}), ("POST", {"Content_Length": "0"})):
            self.connection.request("/", method, **headers)
            self.assertEqual(self.connection.answer().body, b"")
        self.assert_alive()

    def test_pipelined(self) -> None:
        """Requests that come at once are answered one after the other, in their order."""
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        bodies = [b"one", b"three", b"", b"seven"]
        self.connection.send(b"".join(post % (len(body), body) for body in bodies))
        self.assertEqual([answer.body for answer in self.connection.answers()], bodies)
        self.assert_alive()

    def test_pipelined_behind_a_slow_one(self) -> None:
        """A request waits for the answer to the one before it."""
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

    def test_answer_between(self) -> None:
        """An answer that is given while the last piece is handed over is one answer."""

        async def handler(request: StreamingRequest) -> bytes:
            return await request.body.__anext__()

        self.serve(handler)
        self.post(3)
        self.connection.send(b"abc")
        self.assertEqual(self.connection.answer().body, b"abc")

    def test_read_after_the_end(self) -> None:
        """When the body is in, the transport is read: else nobody would see the client go."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.post(3)
        self.assertFalse(self.wire.reading)
        self.connection.send(b"abc")
        self.assertTrue(self.wire.reading)

    def test_end_while_nothing_is_taken(self) -> None:
        """It is not, as long as the client takes nothing of the answer."""

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

    def test_short(self) -> None:
        """A client that goes away in the middle is gone, not done."""
        self.post(6, b"abc")
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)
        self.assertEqual(self.wire.value(), b"")

    def test_long(self) -> None:
        """What follows the announced length is the next request, or none."""
        self.post(3, b"abcdef\r\n")
        first, second = self.connection.answers()
        self.assertEqual((first.status, first.body), (200, b"abc"))
        self.assertEqual((second.status, second.body), (400, b"bad"))

    def test_stalled(self) -> None:
        """A client that stalls in mid-body is told so after 15 seconds, and let go."""
        self.post(6, b"abc")
        self.passes(PATIENCE - 1)
        self.assertEqual(self.wire.value(), b"")
        self.passes(1)
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.header("Connection")), (408, "close"))
        self.assertIsInstance(self.resource.problems[0], RequestTimeout)
        self.assert_lingering()

    def test_drip(self) -> None:
        """So is one that sends a byte a second."""
        self.post(1000)
        for _ in range(PATIENCE):
            self.assertEqual(self.wire.value(), b"")
            self.connection.send(b"x")
            self.passes(1)
        self.assertEqual(self.connection.answer().status, 408)

    def test_slow_handler(self) -> None:
        """No timer runs against the client while it is we who do nothing."""
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
    """Clients that wait to be told to go on."""

    def test_asked_for(self) -> None:
        """A client is told to go on when somebody asks for the body."""
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

    def test_refused(self) -> None:
        """A client whose request is refused is not told to go on."""
        self.serve(refuse)
        self.post(3, Expect="100-Continue")
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.body), (200, b"no"))
        self.assertEqual(answer.header("Connection"), "close")

    def test_old_client(self) -> None:
        """A client of HTTP/1.0 does not know what it would be told."""
        self.connection.request(
            "/", "POST", b"abc", version="1.0", Content_Length="3", Expect="100-continue"
        )
        self.assertEqual(self.connection.answer().body, b"abc")

    def test_no_body(self) -> None:
        """Without a body there is nothing to go on with."""
        self.connection.request("/", Expect="100-continue")
        self.assertEqual(self.connection.answer().body, b"")
        self.assert_alive()


class RefusalTests(ChannelCase):
    """Answers that come before the end of the body."""

    def setUp(self) -> None:
        super().setUp()
        self.serve(refuse)

    def test_before_the_body(self) -> None:
        """The answer leaves at once, says that it is the last, and no more is parsed."""
        self.post(1000)
        answer = self.connection.answer()
        self.assertEqual((answer.body, answer.header("Connection")), (b"no", "close"))
        self.assert_lingering()
        self.connection.send(b"x" * 1000 + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)
        self.assertEqual(self.wire.value(), b"")

    def test_with_a_part_of_the_body(self) -> None:
        """So it does when a part of the body came with the headers."""
        self.post(1000, b"x" * 500)
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assert_lingering()
        self.connection.send(b"x" * 500 + b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(len(self.resource.requests), 1)

    def test_in_the_middle(self) -> None:
        """So it does when the answer comes in the middle of the body."""

        async def handler(request: StreamingRequest) -> bytes:
            return await request.body.__anext__()

        self.serve(handler)
        self.post(1000)
        self.connection.send(b"abc")
        answer = self.connection.answer()
        self.assertEqual((answer.body, answer.header("Connection")), (b"abc", "close"))
        self.assert_lingering()

    def test_bounded_time(self) -> None:
        """The rest is read for a few seconds."""
        self.post(1 << 40)
        for _ in range(LINGER_SECONDS):
            self.assertFalse(self.wire.aborted)
            self.connection.send(b"x")
            self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_bounded_bytes(self) -> None:
        """The rest is read up to so many bytes."""
        self.post(1 << 40)
        piece = b"x" * (1 << 20)
        for _ in range(LINGER_BYTES // len(piece)):
            self.connection.send(piece)
        self.assertFalse(self.wire.aborted)
        self.connection.send(b"x")
        self.assertTrue(self.wire.aborted)

    def test_whole_body(self) -> None:
        """If the body is there although nobody read it, the connection lives on."""

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
    """What is answered to what is not HTTP."""

    def test_garbage(self) -> None:
        """It is the site's own answer, once, and nothing is rendered."""
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
            head + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
            head + b"Transfer-Encoding: gzip, chunked\r\n\r\nabc",
            head + b"Content-Length: -3\r\n\r\nabc",
            head + b"Content-Length: +3\r\n\r\nabc",
            head + b"Content-Length: 0x3\r\n\r\nabc",
            head + b"Content-Length: \xb2\r\n\r\nabc",
            head + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
            head + b"X: " + b"x" * 20_000,
            b"GET /" + b"x" * 20_000,
            head + b"X: xxxxxxxx\r\n" * 2000 + b"\r\n",
        ):
            self.serve(read_all)
            self.connection.send(data + b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(self.wire.value(), BAD, data[:80])
            self.assertEqual(self.resource.requests, [], data[:80])
            self.assert_lingering()
            self.connection.send(b"GET / HTTP/1.1\r\n\r\n")
            self.assertEqual(self.wire.value(), BAD, data[:80])
            self.passes(LINGER_SECONDS)
            self.assertTrue(self.wire.aborted)

    def test_after_good_ones(self) -> None:
        """Answers to what came before are not touched by it."""
        self.connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nBREW\r\n\r\n")
        answers = self.connection.answers()
        self.assertEqual([answer.status for answer in answers], [200, 400])

    def test_chunks(self) -> None:
        """A body whose chunks are none ends the request that reads it."""
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"3\r\nabc\r\nxyz\r\n")
        self.assertEqual(self.wire.value(), BAD)
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)
        self.assert_lingering()
        self.connection.send(b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        self.assertEqual(self.wire.value(), BAD)
        self.assertEqual(len(self.resource.requests), 1)

    def test_chunks_in_mid_answer(self) -> None:
        """If the answer has begun, its rest is not followed by another one."""

        async def handler(request: StreamingRequest) -> bytes:
            request.setHeader(b"Content-Length", b"10")
            request.write(b"begun")
            return await read_all(request)

        self.serve(handler)
        self.connection.request("/", "POST", Transfer_Encoding="chunked")
        self.connection.send(b"xyz\r\n")
        self.assertTrue(self.wire.value().endswith(b"begun"))
        self.assert_lingering()

    def test_lost_in_the_headers(self) -> None:
        """A client that goes away before its headers are in was never here."""
        for data in (b"", b"GE", b"GET / HTTP/1.1\r\nHost"):
            self.serve(read_all)
            self.connection.send(data)
            self.connection.lose()
            self.assertEqual(self.resource.requests, [])

    def test_asterisk(self) -> None:
        """The server as a whole is a path like any other."""
        self.connection.request("*", "OPTIONS")
        self.assertEqual(self.connection.answer().header("Server"), "fxprofile")
        self.assertEqual(self.resource.requests[0].path, b"/*")


class TimerTests(ChannelCase):
    """How long a client may take over what it has to do."""

    def test_idle(self) -> None:
        """An idle connection is closed after a minute."""
        self.passes(IDLE - 1)
        self.assertFalse(self.wire.disconnecting)
        self.passes(1)
        self.assertTrue(self.wire.disconnecting)

    def test_slow_headers(self) -> None:
        """A byte now and then does not keep a connection alive."""
        self.connection.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(IDLE):
            self.assertFalse(self.wire.disconnecting)
            self.connection.send(b"x")
            self.passes(1)
        self.assertTrue(self.wire.disconnecting)

    def test_between_requests(self) -> None:
        """After an answer, with a body or without, the time begins anew."""
        for _ in range(3):
            self.passes(IDLE - 1)
            self.connection.request("/")
            self.assertEqual(self.connection.answer().status, 200)
            self.passes(IDLE - 1)
            self.post(3, b"abc")
            self.assertEqual(self.connection.answer().status, 200)
        self.passes(IDLE)
        self.assertTrue(self.wire.disconnecting)

    def test_answer_not_taken(self) -> None:
        """A client that takes nothing of a long answer for a minute is cut off."""
        self.serve(self.write_much)
        self.wire.takes = False
        self.connection.request("/")
        self.passes(IDLE - 1)
        self.assertFalse(self.wire.aborted)
        self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_answer_taken_slowly(self) -> None:
        """One that takes something now and then may take long over it all."""
        self.serve(self.write_much)
        self.wire.takes = False
        self.connection.request("/")
        for _ in range(5):
            self.passes(IDLE - 1)
            self.wire.drain(still_takes=False)
            self.resource.requests[0].write(bytes(2 * BUFFER))
        self.assertFalse(self.wire.aborted)
        self.wire.drain()
        self.passes(2 * IDLE)
        self.assertFalse(self.wire.disconnecting)

    async def write_much(self, request: StreamingRequest) -> bytes:
        request.write(bytes(2 * BUFFER))
        return await Deferred[bytes]()

    def test_short_answer_not_taken(self) -> None:
        """A short answer that is not taken keeps its connection no longer than an idle one."""
        self.wire.takes = False
        self.connection.request("/")
        self.passes(IDLE)
        self.assertTrue(self.wire.disconnecting)
        self.passes(IDLE)
        self.assertTrue(self.wire.aborted)

    def test_last_answer_not_taken(self) -> None:
        """Nor does the last one on its connection."""
        self.wire.takes = False
        self.connection.request("/", Connection="close")
        self.assertTrue(self.wire.disconnecting)
        self.passes(IDLE - 1)
        self.assertFalse(self.wire.aborted)
        self.passes(1)
        self.assertTrue(self.wire.aborted)

    def test_slow_answer(self) -> None:
        """A client that waits for us is not cut off."""
        wait = Deferred[bytes]()

        async def handler(request: StreamingRequest) -> bytes:
            return await wait

        self.serve(handler)
        self.connection.request("/")
        self.passes(3 * IDLE)
        wait.callback(b"at last")
        self.assertEqual(self.connection.answer().body, b"at last")


class ClientTests(ChannelCase):
    """Clients that leave, or never listen."""

    def test_leaves_while_we_work(self) -> None:
        """Whoever works for a client that left is cancelled."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.connection.request("/")
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError)

    def test_answer_to_nobody(self) -> None:
        """To write to a client that left, before its body was in, does no harm."""
        self.post(100)
        request = self.resource.requests[0]
        self.connection.lose()
        request.write(b"hello?")
        self.assertEqual(self.wire.value(), b"")

    def test_half_closes(self) -> None:
        """A client that will send no more still gets what is on its way to it."""
        self.wire.takes = False
        self.connection.request("/")
        self.connection.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.assertEqual(self.connection.answer().status, 200)

    def test_half_closes_in_mid_answer(self) -> None:
        """So does a client whose answer has begun: it gets all of it."""
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

    def test_half_closes_in_mid_body(self) -> None:
        """A client that will not send the rest of its body has gone."""
        self.post(6, b"abc")
        self.connection.protocol.readConnectionLost()
        self.assertTrue(self.wire.disconnecting)
        self.connection.lose()
        self.assertIsInstance(self.resource.problems[0], CancelledError | ClientGone)

    def flood(self) -> None:
        """Ask for as much as is read."""
        sent = 0
        while self.wire.reading:
            self.connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
            sent += 1
            self.assertLess(sent, 10, "there is no end to it")
            self.assertLess(self.wire.buffered, 3 * BUFFER)

    def test_takes_nothing(self) -> None:
        """A client that asks and asks and takes nothing is no longer answered, nor read."""
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

    def test_takes_nothing_of_a_long_answer(self) -> None:
        """Nor is one that asks and asks while it takes nothing of a long answer."""
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

    def test_sends_while_we_work(self) -> None:
        """Nor is one that asks and asks while we work on its first question."""

        async def handler(request: StreamingRequest) -> bytes:
            return await Deferred[bytes]()

        self.serve(handler)
        self.flood()
        self.assertEqual(len(self.resource.requests), 1)

    def test_old_client(self) -> None:
        """A client of HTTP/1.0 is served, and its connection ends."""
        self.connection.request("/", version="1.0")
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assertTrue(self.wire.disconnecting)

    def test_host(self) -> None:
        """What a client says of our name is not repeated."""
        self.connection.request("/")
        self.assertEqual(self.resource.requests[0].getRequestHostname(), b"localhost")


class StatusTests(ChannelCase):
    def test_words(self) -> None:
        """A status that HTTP has no words for in Twisted has them here, and others are let be."""
        for code, words in ((422, b"422 Unprocessable "), (404, b"404 Not Found"), (299, b"299 ")):

            async def handler(request: StreamingRequest, code: int = code) -> bytes:
                request.setResponseCode(code)
                return b""

            self.serve(handler)
            self.connection.request("/")
            self.assertTrue(self.wire.value().startswith(b"HTTP/1.1 " + words))


class StoppingTests(ChannelCase):
    """What becomes of connections when a site closes."""

    def test_idle(self) -> None:
        """One that waits for a request is closed."""
        self.site.close_idle()
        self.assertTrue(self.wire.disconnecting)

    def test_busy(self) -> None:
        """One whose request is being answered is closed after that, and the client told."""
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

    def test_headers_coming(self) -> None:
        """One whose request is on its way gets its answer, and is closed after it."""
        self.connection.send(b"GET / HTTP/1.1\r\nHost")
        self.site.close_idle()
        self.assertFalse(self.wire.disconnecting)
        self.connection.send(b": x\r\n\r\n")
        self.assertEqual(self.connection.answer().header("Connection"), "close")
        self.assertTrue(self.wire.disconnecting)

    def test_body_coming(self) -> None:
        """So does one whose body is on its way."""
        self.post(6, b"abc")
        self.site.close_idle()
        self.connection.send(b"def")
        self.assertEqual(self.connection.answer().body, b"abcdef")
        self.assertTrue(self.wire.disconnecting)

    def test_lingering(self) -> None:
        """One that lingers is left to do so."""
        self.serve(refuse)
        self.post(6)
        self.site.close_idle()
        self.assert_lingering()
        self.passes(LINGER_SECONDS)
        self.assertTrue(self.wire.aborted)

    def test_known_channels(self) -> None:
        """The site knows its connections, for as long as they are there."""
        self.assertEqual(len(self.site.channels), 1)
        self.connection.protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual(len(self.site.channels), 0)

    def test_protocols(self) -> None:
        """Over TLS nothing is promised that a channel cannot speak."""
        self.assertEqual(self.site.acceptableProtocols(), [b"http/1.1"])
