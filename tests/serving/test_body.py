"""
Tests of :mod:`fxprofile.serving.channel`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

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

    def test_asked_for(self) -> None:
        """The transport is read while somebody asks, and not before or after."""
        self.assertFalse(self.wire.reading)
        asked = self.next()
        self.assertTrue(self.wire.reading)
        self.assertNoResult(asked)
        self.body.received(b"piece")
        self.assertEqual(self.successResultOf(asked), b"piece")
        self.assertFalse(self.wire.reading)

    def test_there_already(self) -> None:
        """What came unasked is handed over before more is read."""
        self.body.received(b"one")
        self.body.received(b"two")
        self.assertEqual(self.successResultOf(self.next()), b"one")
        self.assertEqual(self.successResultOf(self.next()), b"two")
        self.assertFalse(self.wire.reading)

    def test_end(self) -> None:
        """After the last piece it ends, and stays ended."""
        self.body.received(b"last")
        self.body.completed()
        self.assertEqual(self.successResultOf(self.next()), b"last")
        for _ in range(2):
            self.failureResultOf(self.next(), StopAsyncIteration)

    def test_end_while_asked(self) -> None:
        """Who waits for a piece that does not come is told of the end."""
        asked = self.next()
        self.body.completed()
        self.failureResultOf(asked, StopAsyncIteration)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_continue(self) -> None:
        """The client is told to go on at the first question, once."""
        self.assertEqual(self.continued, 0)
        for _ in range(2):
            asked = self.next()
            self.assertEqual(self.continued, 1)
            self.body.received(b"x")
            self.successResultOf(asked)

    def test_continue_not_waited_for(self) -> None:
        """A client that sends without waiting is not told to go on."""
        self.body.received(b"x")
        self.successResultOf(self.next())
        self.next().addErrback(lambda _: None)
        self.assertEqual(self.continued, 0)

    def test_gone(self) -> None:
        """A client that goes away in the middle is an error, now and later."""
        asked = self.next()
        self.body.lost()
        self.failureResultOf(asked, ClientGone)
        self.failureResultOf(self.next(), ClientGone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone_after_the_end(self) -> None:
        """A client that goes away when it has sent all of it has sent all of it."""
        self.body.received(b"all")
        self.body.completed()
        self.body.lost()
        self.assertEqual(self.successResultOf(self.start(self.body.read(10))), b"all")

    def test_stalled(self) -> None:
        """A client that sends nothing is waited for so long and no longer."""
        asked = self.next()
        self.clock.advance(PATIENCE - 0.5)
        self.assertNoResult(asked)
        self.clock.advance(0.5)
        self.failureResultOf(asked, RequestTimeout)
        self.body.received(b"too late")
        self.failureResultOf(self.next(), RequestTimeout)

    def test_drip(self) -> None:
        """A client that sends a byte a second is stalled too."""
        for _ in range(PATIENCE - 1):
            asked = self.next()
            self.clock.advance(1)
            self.body.received(b"x")
            self.successResultOf(asked)
        asked = self.next()
        self.clock.advance(1)
        self.failureResultOf(asked, RequestTimeout)

    def test_slow_but_steady(self) -> None:
        """A client that makes progress may take long over it all."""
        for _ in range(10):
            asked = self.next()
            self.clock.advance(PATIENCE - 1)
            self.body.received(b"x" * PROGRESS)
            self.successResultOf(asked)

    def test_slow_reader(self) -> None:
        """The time in which nobody asks is not the client's."""
        for _ in range(10):
            asked = self.next()
            self.clock.advance(1)
            self.body.received(b"x")
            self.successResultOf(asked)
            self.clock.advance(10 * PATIENCE)

    def test_reader_is_cancelled(self) -> None:
        """Who gives up waiting leaves no timer behind, and the next one can go on."""
        asked = self.next()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.body.received(b"piece")
        self.assertEqual(self.successResultOf(self.next()), b"piece")

    def test_given_up(self) -> None:
        """When a body is given up, what was there and what still comes is dropped."""
        self.body.received(b"x" * 1000)
        self.successResultOf(self.start(self.body.aclose()))
        self.successResultOf(self.start(self.body.aclose()))
        self.body.received(b"y" * 1000)
        self.failureResultOf(self.next(), ClientGone)
        self.assertFalse(self.wire.reading)

    def test_closed_after_the_end(self) -> None:
        """To close a body that was read to its end changes nothing."""
        self.body.completed()
        self.successResultOf(self.start(self.body.aclose()))
        self.failureResultOf(self.next(), StopAsyncIteration)

    def test_read(self) -> None:
        """All of it, if it is not too long."""
        for limit, expected in ((6, b"abcdef"), (7, b"abcdef"), (5, None)):
            body = RequestBody(transport=self.wire, clock=self.clock)
            for piece in (b"abc", b"def"):
                body.received(piece)
            body.completed()
            self.assertEqual(self.successResultOf(self.start(body.read(limit))), expected)

    def test_read_stops_at_the_limit(self) -> None:
        """Of a body that is too long, no more is read than shows it."""
        reading = self.start(self.body.read(5))
        self.body.received(b"abcdef")
        self.assertIsNone(self.successResultOf(reading))
        self.assertFalse(self.wire.reading)
