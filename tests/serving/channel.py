"""A test case with a site, a connection to it, and a clock that the test advances."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.serving.channel import StreamingSite
from tests.serving.resources import Handled, Handler, read_all
from tests.serving.wire import Connection, Wire

BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nbad"
TOO_LONG = BAD.replace(b"400 Bad Request", b"414 URI Too Long")
BAD_LENGTH = BAD.replace(b"\r\n\r\nbad", b"\r\n\r\nlen")


class ChannelCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.serve(read_all)

    def tearDown(self) -> None:
        self.connection.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer outlived its connection")

    def serve(self, handler: Handler) -> None:
        """Connect to a site whose requests this coroutine handles."""
        if hasattr(self, "connection"):
            self.connection.lose()
        self.resource = Handled(handler)
        self.site = StreamingSite(
            self.resource,
            reactor=self.clock,
            bad_request=BAD,
            bad_length=BAD_LENGTH,
            too_long=TOO_LONG,
        )
        self.connection = Connection(self.site)

    @property
    def wire(self) -> Wire:
        return self.connection.wire

    def refusal(self) -> bytes:
        """Return the refusal that was written, without ``Server`` and ``Date``, which it has."""
        written, lines = self.wire.value(), self.site.standard_headers.lines
        self.assertEqual(written.count(lines), 1, written)
        return written.replace(lines, b"")

    def post(self, length: int, body: bytes = b"", **headers: str) -> None:
        self.connection.request("/", "POST", body, Content_Length=str(length), **headers)

    def passes(self, seconds: float) -> None:
        self.clock.pump([1] * round(seconds))
        self.connection.settle()

    def assert_alive(self) -> None:
        """Assert that the connection can carry another request."""
        self.assertFalse(self.wire.disconnecting or self.wire.half_closed)
        count = len(self.resource.requests)
        self.connection.request("/")
        self.assertEqual(len(self.resource.requests), count + 1)
        self.assertEqual(self.connection.answer().status, 200)

    def assert_lingering(self) -> None:
        """Assert that the response is sent, and the rest of the request is discarded."""
        self.assertTrue(self.wire.half_closed)
        self.assertTrue(self.wire.reading)
        self.assertFalse(self.wire.disconnecting)
