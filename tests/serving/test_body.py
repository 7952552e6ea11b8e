"""Tests of :class:`fxprofile.serving.channel.RequestBody`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import read_all
from fxprofile.model.errors import ClientGone, RequestTimeout
from fxprofile.serving.channel import PATIENCE, PROGRESS, RequestBody
from tests.serving.wire import Wire


class RequestBodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.wire.pauseProducing()
        self.continued = 0
        self.body = RequestBody(transport=self.wire, clock=self.clock, continue_=self.count)

    def count(self) -> None:
        self.continued += 1

    def start(self, work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    def next(self) -> Deferred[bytes]:
        return self.start(self.body.__anext__())

    def test_transport_is_read_on_demand(self) -> None:
        """The transport is read only while a consumer waits for a piece."""
        self.assertFalse(self.wire.reading)
        asked = self.next()
        self.assertTrue(self.wire.reading)
        self.assertNoResult(asked)
        self.body.received(b"piece")
        self.assertEqual(self.successResultOf(asked), b"piece")
        self.assertFalse(self.wire.reading)

    def test_buffered_pieces_come_first(self) -> None:
        """Buffered pieces are returned as one before the transport is read again."""
        self.body.received(b"one")
        self.body.received(b"two")
        self.assertEqual(self.successResultOf(self.next()), b"onetwo")
        self.assertFalse(self.wire.reading)

    def test_iteration_ends(self) -> None:
        """After the last piece the iteration ends, repeatedly."""
        self.body.received(b"last")
        self.body.completed()
        self.assertEqual(self.successResultOf(self.next()), b"last")
        for _ in range(2):
            self.failureResultOf(self.next(), StopAsyncIteration)

    def test_end_wakes_the_consumer(self) -> None:
        """The end of the body ends the iteration of a waiting consumer."""
        asked = self.next()
        self.body.completed()
        self.failureResultOf(asked, StopAsyncIteration)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_continue_is_sent_once(self) -> None:
        """The first read sends 100 Continue, and later ones do not."""
        self.assertEqual(self.continued, 0)
        for _ in range(2):
            asked = self.next()
            self.assertEqual(self.continued, 1)
            self.body.received(b"x")
            self.successResultOf(asked)

    def test_continue_is_not_needed(self) -> None:
        """A client that sends without waiting gets no 100 Continue."""
        self.body.received(b"x")
        self.successResultOf(self.next())
        self.next().addErrback(lambda _: None)
        self.assertEqual(self.continued, 0)

    def test_disconnect_is_an_error(self) -> None:
        """A disconnected client is an error for the waiting consumer and for later ones."""
        asked = self.next()
        self.body.lost()
        self.failureResultOf(asked, ClientGone)
        self.failureResultOf(self.next(), ClientGone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_disconnect_after_the_end(self) -> None:
        """A client that disconnects after a complete body does no harm."""
        self.body.received(b"all")
        self.body.completed()
        self.body.lost()
        self.assertEqual(self.successResultOf(self.start(read_all(self.body, 10))), b"all")

    def test_stalled_client_times_out(self) -> None:
        """A client that sends nothing times out."""
        asked = self.next()
        self.clock.advance(PATIENCE - 0.5)
        self.assertNoResult(asked)
        self.clock.advance(0.5)
        self.failureResultOf(asked, RequestTimeout)
        self.body.received(b"too late")
        self.failureResultOf(self.next(), RequestTimeout)

    def test_dripping_client_times_out(self) -> None:
        """A client that sends one byte a second times out."""
        for _ in range(PATIENCE - 1):
            asked = self.next()
            self.clock.advance(1)
            self.body.received(b"x")
            self.successResultOf(asked)
        asked = self.next()
        self.clock.advance(1)
        self.failureResultOf(asked, RequestTimeout)

    def test_rate_below_the_minimum_times_out(self) -> None:
        """A client that sends 600 bytes a second times out after 15 seconds."""
        for _ in range(PATIENCE - 1):
            asked = self.next()
            self.clock.advance(1)
            self.body.received(bytes(600))
            self.successResultOf(asked)
        asked = self.next()
        self.clock.advance(1)
        self.failureResultOf(asked, RequestTimeout)

    def test_steady_client_does_not_time_out(self) -> None:
        """A client that sends at the minimum rate does not time out."""
        for _ in range(10):
            asked = self.next()
            self.clock.advance(PATIENCE - 1)
            self.body.received(b"x" * PROGRESS)
            self.successResultOf(asked)

    def test_slow_consumer_does_not_count(self) -> None:
        """Time in which no consumer waits does not count against the client."""
        for _ in range(10):
            asked = self.next()
            self.clock.advance(1)
            self.body.received(b"x")
            self.successResultOf(asked)
            self.clock.advance(10 * PATIENCE)

    def test_cancelled_consumer(self) -> None:
        """A cancelled read leaves no timer, and a later read continues."""
        asked = self.next()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.body.received(b"piece")
        self.assertEqual(self.successResultOf(self.next()), b"piece")

    def test_closed_body_discards(self) -> None:
        """A closed body discards its pieces and all that follow."""
        self.body.received(b"x" * 1000)
        self.successResultOf(self.start(self.body.aclose()))
        self.successResultOf(self.start(self.body.aclose()))
        self.body.received(b"y" * 1000)
        self.failureResultOf(self.next(), ClientGone)
        self.assertFalse(self.wire.reading)

    def test_close_after_the_end(self) -> None:
        """Closing a body that was read to its end changes nothing."""
        self.body.completed()
        self.successResultOf(self.start(self.body.aclose()))
        self.failureResultOf(self.next(), StopAsyncIteration)

    def test_read_returns_the_whole_body(self) -> None:
        """A body within the limit is returned whole."""
        for limit in (6, 7):
            body = RequestBody(transport=self.wire, clock=self.clock)
            for piece in (b"abc", b"def"):
                body.received(piece)
            body.completed()
            self.assertEqual(self.successResultOf(self.start(read_all(body, limit))), b"abcdef")

    def test_read_stops_at_the_limit(self) -> None:
        """Reading stops at the first piece that exceeds the limit."""
        reading = self.start(read_all(self.body, 5))
        self.body.received(b"abcdef")
        self.failureResultOf(reading, OverflowError)
        self.assertFalse(self.wire.reading)
