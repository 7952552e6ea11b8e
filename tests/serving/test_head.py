"""The header section of responses, and responses that are written in one piece."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.randbytes import insecureRandom
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from fxprofile.serving.channel import PATIENCE, StreamingRequest, StreamingSite
from fxprofile.serving.head import StandardHeaders, header_lines
from tests.serving.wire import Connection, parse

NOW = 1_700_000_000
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


class HeaderLinesTests(SynchronousTestCase):
    """Headers as bytes."""

    def test_lines(self) -> None:
        """Each header is a line, and text is UTF-8."""
        self.assertEqual(header_lines({"A": "1", "B": "ü"}), "A: 1\r\nB: ü\r\n".encode())
        self.assertEqual(header_lines({}), b"")

    def test_value_cannot_add_a_header(self) -> None:
        """No value ends its line or has a control character, whatever it consists of."""
        for value in (
            "a\r\nB: 1",
            "a\nB: 1",
            "a\rB: 1",
            "\x00",
            "\x0b\x0c\x1c\x85\u2028",
            "a\r\n\r\nb",
        ):
            line = header_lines({"A": value})
            self.assertEqual(len(line.decode().splitlines()), 1, value)
            self.assertTrue(line[:-2].decode().isprintable(), value)
        for _ in range(200):
            value = insecureRandom(20).decode("latin-1")
            line = header_lines({"A": value}).decode()
            self.assertTrue(line[:-2].isprintable())
            self.assertTrue(line.endswith("\r\n"))


class StandardHeadersTests(SynchronousTestCase):
    """The headers that every response has."""

    def test_date_is_made_once_a_second(self) -> None:
        """Within a second the same bytes are returned; in the next one the date is new."""
        clock = Clock()
        clock.advance(NOW)
        headers = StandardHeaders(clock)
        lines = headers.lines
        self.assertEqual(lines, f"Server: fxprofile\r\nDate: {DATE}\r\n".encode())
        clock.advance(0.9)
        self.assertIs(headers.lines, lines)
        clock.advance(0.1)
        self.assertEqual(headers.date, DATE.replace(":20", ":21").encode())

    def test_clock_that_is_set_back(self) -> None:
        """After the clock was set back, the date is that of the clock."""
        clock = Clock()
        clock.advance(NOW + 100)
        headers = StandardHeaders(clock)
        self.assertNotEqual(headers.date, DATE.encode())
        clock.advance(-100)
        self.assertEqual(headers.date, DATE.encode())


class CountingTransport(StringTransport):
    """Counts writes."""

    writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))


class Responds(Resource):
    """Responds to each request in one piece."""

    isLeaf = True

    def __init__(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__()
        self.response = (code, header_lines(headers), body)

    def render(self, request: StreamingRequest) -> int:
        request.respond(*self.response)
        return NOT_DONE_YET


class RespondTests(SynchronousTestCase):
    """Responses that are written in one piece."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)

    def ask(
        self, request: bytes, code: int = 200, headers: Mapping[str, str] | None = None
    ) -> tuple[CountingTransport, bytes]:
        """Send a request, and return the transport and what was written to it."""
        site = StreamingSite(Responds(code, headers or {"A": "1"}, b"body"), reactor=self.clock)
        self.protocol, transport = site.buildProtocol(None), CountingTransport()
        self.protocol.makeConnection(transport)
        self.protocol.dataReceived(request)
        return transport, transport.value()

    def test_head_and_body_are_one_write(self) -> None:
        """Head and body of a response are written at once, and the connection is kept."""
        transport, data = self.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(transport.writes, 1)
        self.assertEqual(
            data,
            f"HTTP/1.1 200 OK\r\nServer: fxprofile\r\nDate: {DATE}\r\nA: 1\r\n"
            "Content-Length: 4\r\n\r\nbody".encode(),
        )
        self.assertFalse(transport.disconnecting)

    def test_response_to_head_has_no_body(self) -> None:
        """The response to HEAD has the length that GET has, and no body."""
        _, data = self.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(data.endswith(b"\r\nContent-Length: 4\r\n\r\n"), data)

    def test_status_without_a_body(self) -> None:
        """A 204 or 304 has neither a body nor a length."""
        for code in (204, 304):
            _, data = self.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", code)
            self.assertTrue(data.endswith(b"\r\nA: 1\r\n\r\n"), data)
            self.assertNotIn(b"Content-Length", data)

    def test_connection_is_closed_when_the_client_wants_it(self) -> None:
        """HTTP/1.0 and ``Connection: close`` close the connection, and the response says so."""
        for request in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ):
            transport, data = self.ask(request)
            self.assertTrue(data.startswith(request[6:14] + b" 200 OK\r\n"), data)
            self.assertEqual(data.count(b"\r\nConnection: close\r\n"), 1)
            self.assertTrue(transport.disconnecting)

    def test_unread_body_closes_the_connection(self) -> None:
        """A response that precedes the end of the request's body closes the connection."""
        _, data = self.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        self.assertIn(b"\r\nConnection: close\r\n", data)

    def test_pipelined_requests(self) -> None:
        """Pipelined requests get their responses in order, each with the status of its method."""
        requests = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
        _, data = self.ask(requests * 3)
        answers = parse(data, ["GET", "HEAD"] * 3)
        self.assertEqual([answer.body for answer in answers], [b"body", b""] * 3)

    def test_one_timer_per_connection(self) -> None:
        """Requests on a kept connection set no timers beyond the one of the connection."""
        self.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        made = []
        self.protocol.callLater = lambda *call: made.append(call) or self.clock.callLater(*call)
        for _ in range(50):
            self.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            self.clock.advance(0.01)
        self.assertEqual((made, len(self.clock.getDelayedCalls())), ([], 1))

    def test_busy_connection_is_kept(self) -> None:
        """A connection that has a request now and then outlives each deadline."""
        transport, _ = self.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            self.clock.advance(PATIENCE + 1)
            self.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertFalse(transport.disconnecting)

    def test_disconnected_client(self) -> None:
        """A response to a client that has disconnected is dropped."""
        site = StreamingSite(Resource(), reactor=self.clock)
        connection = Connection(site)
        waiting: list[StreamingRequest] = []

        class Waits(Resource):
            isLeaf = True

            def render(self, request: StreamingRequest) -> int:
                waiting.append(request)
                return NOT_DONE_YET

        site.resource = Waits()
        connection.request("/")
        connection.lose()
        waiting[0].respond(200, b"", b"late")
        self.assertEqual(connection.wire.value(), b"")
