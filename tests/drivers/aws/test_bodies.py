"""
Tests of :mod:`fxprofile.drivers.aws.bodies` and :mod:`fxprofile.drivers.aws.watchdog`.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from fxprofile.drivers.aws import bodies
from fxprofile.drivers.aws.bodies import (
    CHUNK,
    PIECE,
    BytesProducer,
    Digests,
    PlainStream,
    Receiver,
    StreamProducer,
    TrailerStream,
)
from fxprofile.drivers.aws.watchdog import Watchdog
from fxprofile.model.errors import BodyMismatch
from tests.contracts.bucket import ScriptedBody


def sent(stream: PlainStream) -> list[bytes]:
    """All that a stream sends."""

    async def collect() -> list[bytes]:
        pieces = []
        while piece := await stream.next():
            pieces.append(piece)
        return pieces

    outcome: list[Any] = []
    Deferred.fromCoroutine(collect()).addBoth(outcome.append)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


def decoded(data: bytes) -> tuple[bytes, dict[str, str]]:
    """What ``aws-chunked`` encoding stands for, and the trailers behind it."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
    head, _, rest = data.partition(b"\r\n\r\n")
    assert rest == b""
    return body, dict(line.split(":", 1) for line in head.decode().split("\r\n"))


class StreamTests(SynchronousTestCase):
    @given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 40))
    def test_trailer(self, pieces: list[bytes], chunk: int) -> None:
        """Whatever its pieces, a body comes out whole, as long as announced, with its sum."""
        data = b"".join(pieces)
        self.patch(bodies, "CHUNK", chunk)
        stream = TrailerStream(Digests(ScriptedBody(*pieces), len(data)), len(data))
        wire = b"".join(sent(stream))
        self.assertEqual(len(wire), stream.length)
        body, trailers = decoded(wire)
        self.assertEqual(body, data)
        crc32 = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        self.assertEqual(trailers, {"x-amz-checksum-crc32": crc32})

    def test_large_chunks(self) -> None:
        """A large body has several chunks, none longer than some servers take."""
        data = b"x" * (CHUNK * 2 + 5)
        stream = TrailerStream(Digests(ScriptedBody(data), len(data)), len(data))
        wire = b"".join(sent(stream))
        self.assertEqual(len(wire), stream.length)
        self.assertEqual(decoded(wire)[0], data)

    def test_digests(self) -> None:
        """The digests are those of the whole body."""
        digests = Digests(ScriptedBody(b"ab", b"", b"c"), 3)
        self.assertFalse(digests.started)
        self.assertEqual(sent(PlainStream(digests, 3)), [b"ab", b"c"])
        self.assertTrue(digests.started)
        self.assertEqual(digests.md5, hashlib.md5(b"abc").hexdigest())

    def test_length(self) -> None:
        """A body of another length than announced is refused, before its last byte is sent."""
        for kind in (PlainStream, TrailerStream):
            for pieces in ([b"abc"], [b"abcd", b"ef"], [b"abcdef"]):
                with self.assertRaises(BodyMismatch):
                    sent(kind(Digests(ScriptedBody(*pieces), 5), 5))


class Consumer:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class ProducerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.barks: list[int] = []
        self.watchdog = Watchdog(self.clock, 10, lambda: self.barks.append(1))
        self.consumer = Consumer()

    def start(self, *script: Any, length: int = 6) -> tuple[StreamProducer, Any, ScriptedBody]:
        body = ScriptedBody(*script)
        producer = StreamProducer(PlainStream(Digests(body, length), length), self.watchdog)
        return producer, producer.startProducing(self.consumer), body

    def test_interface(self) -> None:
        """Both are what Twisted's agent wants."""
        verifyObject(IBodyProducer, BytesProducer(b""))
        producer, _, _ = self.start(b"abcdef")
        verifyObject(IBodyProducer, producer)

    def test_all(self) -> None:
        """All is written, and then it is done."""
        producer, done, _ = self.start(b"abc", b"def")
        self.assertIsNone(self.successResultOf(done))
        self.assertTrue(producer.finished)
        self.assertEqual(self.consumer.data, b"abcdef")

    def test_paused(self) -> None:
        """While it is paused it asks for nothing."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"bcdef")
        producer.pauseProducing()
        gate.callback(None)
        self.assertEqual((body.taken, self.consumer.data), (2, b"abcdef"))
        self.assertNoResult(done)
        producer.resumeProducing()
        self.successResultOf(done)

    def test_paused_at_once(self) -> None:
        """Nor when it is paused again and again."""
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

    def test_fails(self) -> None:
        """If the body fails, so does it, and keeps the error."""
        producer, done, _ = self.start(b"abc", ZeroDivisionError())
        self.failureResultOf(done, ZeroDivisionError)
        self.assertIs(producer.failure.type, ZeroDivisionError)
        self.assertFalse(producer.finished)

    def test_stopped(self) -> None:
        """Once it is stopped it asks for nothing more, and is never done."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"bcdef")
        producer.stopProducing()
        self.assertNoResult(done)
        self.assertEqual(body.taken, 1)

    def test_stopped_while_paused(self) -> None:
        """Also when it was paused."""
        gate: Deferred[None] = Deferred()
        producer, done, body = self.start(b"a", gate, b"b", b"cdef")
        producer.pauseProducing()
        gate.callback(None)
        producer.stopProducing()
        producer.resumeProducing()
        self.assertNoResult(done)
        self.assertEqual(body.taken, 2)

    def test_patience(self) -> None:
        """Time in which we wait for the body does not count; time in which we are paused does."""
        gate: Deferred[None] = Deferred()
        producer, done, _ = self.start(b"a", gate, b"bc", b"def")
        self.clock.advance(100)
        self.assertEqual(self.barks, [])
        producer.pauseProducing()
        gate.callback(None)
        self.clock.advance(9)
        self.assertEqual(self.barks, [])
        self.clock.advance(2)
        self.assertEqual(self.barks, [1])
        self.assertNoResult(done)


class WatchdogTests(SynchronousTestCase):
    def test_touched(self) -> None:
        """A watchdog that is touched in time never barks, and one that has ended does not."""
        clock, barks = Clock(), []
        watchdog = Watchdog(clock, 10, lambda: barks.append(1))
        for _ in range(5):
            watchdog.touch()
            clock.advance(9)
        watchdog.end()
        watchdog.touch()
        clock.advance(100)
        self.assertEqual(barks, [])
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_barks_once(self) -> None:
        """It barks once."""
        clock, barks = Clock(), []
        watchdog = Watchdog(clock, 10, lambda: barks.append(1))
        watchdog.touch()
        clock.advance(10)
        watchdog.touch()
        clock.advance(10)
        self.assertEqual(barks, [1])
        self.assertTrue(watchdog.barked)


class Transport:
    """What a receiver tells its transport."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class ReceiverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transport = Transport()
        self.receiver = Receiver()
        self.receiver.makeConnection(self.transport)

    def next(self) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self.receiver.next())

    def test_pieces(self) -> None:
        """What comes is given, in pieces that are not too long, and then the end."""
        self.receiver.dataReceived(b"x" * (PIECE + 1))
        self.receiver.connectionLost(Failure(ResponseDone()))
        sizes = [len(self.successResultOf(self.next())) for _ in range(3)]
        self.assertEqual(sizes, [PIECE, 1, 0])

    def test_waits(self) -> None:
        """Who asks before something comes waits."""
        waiting = self.next()
        self.assertNoResult(waiting)
        self.receiver.dataReceived(b"abc")
        self.assertEqual(self.successResultOf(waiting), b"abc")

    def test_pauses(self) -> None:
        """When enough is kept the other side has to wait until it is taken."""
        self.receiver.dataReceived(b"x" * (PIECE - 1))
        self.assertEqual(self.transport.told, [])
        self.receiver.dataReceived(b"x")
        self.assertEqual(self.transport.told, ["pause"])
        self.successResultOf(self.next())
        self.assertEqual(self.transport.told, ["pause"])
        self.successResultOf(self.next())
        self.assertEqual(self.transport.told, ["pause", "resume"])

    def test_cut(self) -> None:
        """An end before the end is an error."""
        self.receiver.dataReceived(b"abc")
        self.receiver.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.successResultOf(self.next()), b"abc")
        self.failureResultOf(self.next(), ConnectionLost)

    def test_cancelled(self) -> None:
        """Who stops waiting loses nothing but the wait."""
        waiting = self.next()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.receiver.dataReceived(b"abc")
        self.assertEqual(self.successResultOf(self.next()), b"abc")

    def test_given_up(self) -> None:
        """What is given up is let go, and what still comes is dropped."""
        self.receiver.dataReceived(b"abc")
        self.receiver.give_up()
        self.receiver.dataReceived(b"x" * PIECE)
        self.assertEqual(self.transport.told, ["stop", "resume"])

    def test_given_up_at_its_end(self) -> None:
        """A connection that has nothing more to give is kept for the next request."""
        self.receiver.connectionLost(Failure(ResponseDone()))
        self.receiver.give_up()
        self.assertEqual(self.transport.told, [])
