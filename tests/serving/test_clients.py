"""
Tests of :mod:`fxprofile.serving.channel`: clients that are slow, leave, or never listen.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from fxprofile.model.errors import ClientGone
from fxprofile.serving.channel import IDLE, LINGER_SECONDS, StreamingRequest
from tests.serving.channel import ChannelCase
from tests.serving.resources import refuse
from tests.serving.wire import BUFFER


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
