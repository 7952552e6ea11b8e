"""Request bodies that are sent piece by piece."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.http_client.bodies import IterableBody
from tests.contracts.bucket import ScriptedBody


class Consumer:
    """A consumer that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class IterableBodyTests(SynchronousTestCase):
    """A body is sent with back-pressure."""

    def start(self, *script: Any) -> tuple[IterableBody, Deferred[None], ScriptedBody]:
        self.consumer = Consumer()
        body = ScriptedBody(*script)
        producer = IterableBody(body, 6)
        return producer, producer.startProducing(self.consumer), body

    def test_a_whole_body_is_written(self) -> None:
        """The producer is done when every piece is written."""
        _, done, _ = self.start(b"abc", b"def")
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual(self.consumer.data, b"abcdef")

    def test_a_paused_producer_reads_nothing(self) -> None:
        """A paused producer asks the body for no further piece."""
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
        write = self.consumer.write

        def pausing(data: bytes) -> None:
            write(data)
            producer.pauseProducing()

        self.consumer.write = pausing
        gate.callback(None)
        for taken in (1, 2, 3):
            self.assertEqual(body.taken, taken)
            self.assertNoResult(done)
            producer.resumeProducing()
        self.successResultOf(done)

    def test_a_failing_body_fails_the_producer(self) -> None:
        """An error of the body is the result."""
        _, done, _ = self.start(b"abc", ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)

    def test_a_stopped_producer_never_fires(self) -> None:
        """A stopped producer reads no further piece, and its Deferred does not fire."""
        for paused in (False, True):
            gate: Deferred[None] = Deferred()
            producer, done, body = self.start(b"a", gate, b"b", b"cdef")
            if paused:
                producer.pauseProducing()
                gate.callback(None)
            producer.stopProducing()
            producer.resumeProducing()
            self.assertNoResult(done)
            self.assertEqual(body.taken, 2 if paused else 1)
