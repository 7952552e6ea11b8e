"""
Tests of :mod:`fxprofile.drivers.aws.client.transport`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.aws.client.errors import AwsTimeout, AwsUnreachable
from fxprofile.drivers.aws.client.payload import StreamPayload
from fxprofile.drivers.aws.client.transport import (
    BUFFER,
    IdleTimeout,
    PayloadProducer,
    ResponseStream,
)
from tests.contracts.bucket import ScriptedBody


class Consumer:
    """A consumer that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class ProducerTests(SynchronousTestCase):
    """A payload is sent with back-pressure."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.expired: list[int] = []
        self.idle = IdleTimeout(self.clock, 10, lambda: self.expired.append(1))
        self.consumer = Consumer()

    def start(self, *script: Any, length: int = 6) -> tuple[PayloadProducer, Any, ScriptedBody]:
        body = ScriptedBody(*script)
        producer = PayloadProducer(StreamPayload(body, length), length, self.idle)
        return producer, producer.startProducing(self.consumer), body

    def test_the_producer_provides_its_interface(self) -> None:
        """The producer provides Twisted's IBodyProducer."""
        verifyObject(IBodyProducer, PayloadProducer(BytesBody(b""), 0, self.idle))

    def test_a_whole_payload_is_written(self) -> None:
        """The producer is done when every piece is written."""
        producer, done, _ = self.start(b"abc", b"def")
        self.assertIsNone(self.successResultOf(done))
        self.assertTrue(producer.finished)
        self.assertEqual(self.consumer.data, b"abcdef")

    def test_a_paused_producer_reads_nothing(self) -> None:
        """A paused producer asks the payload for no further piece."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"bcdef")
        producer.pauseProducing()
        gate.callback(None)
        self.assertEqual((body.taken, self.consumer.data), (2, b"abcdef"))
        self.assertNoResult(done)
        producer.resumeProducing()
        self.successResultOf(done)

    def test_a_consumer_may_pause_after_every_piece(self) -> None:
        """A consumer that pauses in every write receives one piece per resume."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(gate, b"ab", b"cd", b"ef")
        consumer_write = self.consumer.write

        def write(data: bytes) -> None:
            consumer_write(data)
            producer.pauseProducing()

        self.consumer.write = write
        gate.callback(None)
        for taken in (1, 2, 3):
            self.assertEqual(body.taken, taken)
            self.assertNoResult(done)
            producer.resumeProducing()
        self.successResultOf(done)

    def test_a_failing_payload_fails_the_producer(self) -> None:
        """An error of the payload is the result, and is kept."""
        producer, done, _ = self.start(b"abc", ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)
        self.assertIs(producer.failure.type, ZeroDivisionError)
        self.assertFalse(producer.finished)

    def test_a_stopped_producer_never_fires(self) -> None:
        """A stopped producer reads no further piece, and its Deferred does not fire."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"bcdef")
        producer.stopProducing()
        self.assertNoResult(done)
        self.assertEqual(body.taken, 1)

    def test_a_paused_producer_can_be_stopped(self) -> None:
        """A producer that is stopped while paused does not continue when resumed."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"b", b"cdef")
        producer.pauseProducing()
        gate.callback(None)
        producer.stopProducing()
        producer.resumeProducing()
        self.assertNoResult(done)
        self.assertEqual(body.taken, 2)

    def test_only_the_server_is_timed(self) -> None:
        """The idle timeout runs while the server pauses us, not while the payload is awaited."""
        gate: Deferred[None] = Deferred()
        producer, done, _ = self.start(b"a", gate, b"bc", b"def")
        self.clock.advance(100)
        self.assertEqual(self.expired, [])
        producer.pauseProducing()
        gate.callback(None)
        self.clock.advance(9)
        self.assertEqual(self.expired, [])
        self.clock.advance(2)
        self.assertEqual(self.expired, [1])
        self.assertNoResult(done)


class IdleTimeoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.expired: list[int] = []
        self.idle = IdleTimeout(self.clock, 10, lambda: self.expired.append(1))

    def test_progress_restarts_the_timeout(self) -> None:
        """Progress restarts the timeout, which expires once after no progress for its length."""
        self.idle.progress()
        for _ in range(3):
            self.clock.advance(9)
            self.idle.progress()
        self.assertFalse(self.idle.expired)
        self.clock.advance(10)
        self.idle.progress()
        self.clock.advance(100)
        self.assertEqual((self.expired, self.idle.expired), ([1], True))

    def test_the_timeout_can_be_suspended(self) -> None:
        """A suspended timeout runs again from the next progress."""
        self.idle.progress()
        self.idle.suspend()
        self.clock.advance(100)
        self.idle.progress()
        self.clock.advance(9)
        self.assertEqual(self.expired, [])
        self.clock.advance(1)
        self.assertEqual(self.expired, [1])

    def test_an_ended_timeout_leaves_no_timer(self) -> None:
        """Progress after the end does not start the timeout again."""
        self.idle.progress()
        self.idle.end()
        self.idle.progress()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class FakeTransport:
    """Records what a protocol asks of its transport."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class ResponseStreamTests(SynchronousTestCase):
    """A response is read with back-pressure."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = FakeTransport()
        self.stream = ResponseStream(self.clock, 10)
        self.stream.makeConnection(self.transport)

    def next(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self.stream.__anext__())

    def assert_ended(self) -> None:
        # A coroutine cannot raise StopAsyncIteration into a Deferred unchanged.
        async def rest() -> list[bytes]:
            return [piece async for piece in self.stream]

        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(rest())), [])

    def test_pieces_are_followed_by_the_end(self) -> None:
        """The pieces are returned in order, and then the iteration ends."""
        self.stream.dataReceived(b"ab")
        self.stream.dataReceived(b"c")
        self.stream.connectionLost(Failure(ResponseDone()))
        self.assertEqual([self.successResultOf(self.next()) for _ in range(2)], [b"ab", b"c"])
        self.assert_ended()

    def test_a_reader_waits_for_data(self) -> None:
        """A reader that is ahead of the server waits for the next piece."""
        waiting = self.next()
        self.assertNoResult(waiting)
        self.stream.dataReceived(b"abc")
        self.assertEqual(self.successResultOf(waiting), b"abc")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_full_buffer_pauses_the_server(self) -> None:
        """The transport is paused while the buffer is full, and resumed once it is empty."""
        self.stream.dataReceived(b"x" * (BUFFER - 1))
        self.assertEqual(self.transport.calls, [])
        self.stream.dataReceived(b"x")
        self.assertEqual(self.transport.calls, ["pause"])
        self.successResultOf(self.next())
        self.assertEqual(self.transport.calls, ["pause"])
        self.successResultOf(self.next())
        self.assertEqual(self.transport.calls, ["pause", "resume"])

    def test_a_truncated_response_is_an_error(self) -> None:
        """A connection that is lost early is an error after the last piece."""
        self.stream.dataReceived(b"abc")
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.successResultOf(self.next()), b"abc")
        self.failureResultOf(self.next(), AwsUnreachable)
        self.assert_ended()

    def test_a_silent_server_is_an_error(self) -> None:
        """A piece that does not arrive in time is an error, and the connection is dropped."""
        waiting = self.next()
        self.clock.advance(10)
        self.failureResultOf(waiting, AwsTimeout)
        self.assertEqual(self.transport.calls, ["stop", "resume"])
        self.assert_ended()

    def test_a_cancelled_read_drops_the_connection(self) -> None:
        """A reader that is cancelled closes the stream."""
        waiting = self.next()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.transport.calls, ["stop", "resume"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_closed_stream_drops_later_data(self) -> None:
        """Closing drops the connection, the buffer, and all later data."""
        self.stream.dataReceived(b"abc")
        self.successResultOf(Deferred.fromCoroutine(self.stream.aclose()))
        self.stream.dataReceived(b"x" * BUFFER)
        self.assertEqual(self.transport.calls, ["stop", "resume"])
        self.assert_ended()

    def test_a_complete_response_keeps_its_connection(self) -> None:
        """Closing after the end of the response leaves the connection for the next request."""
        self.stream.connectionLost(Failure(ResponseDone()))
        self.successResultOf(Deferred.fromCoroutine(self.stream.aclose()))
        self.assertEqual(self.transport.calls, [])
