"""
Bodies on the wire, in both directions, with back-pressure.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import deque
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from fxprofile.drivers.aws.watchdog import Watchdog
from fxprofile.model.errors import BodyMismatch
from fxprofile.model.ports import Body

#: The largest piece that a body of ours gives, and the most that it keeps, in bytes.
PIECE: Final = 1 << 16

#: The length of a chunk of a body with a trailer.  Some servers keep a whole chunk.
CHUNK: Final = 1 << 20


class Digests:
    """
    A body, and what it turns out to be.

    :param length: that it was announced with.
    :ivar started: whether a piece was asked for.
    """

    def __init__(self, body: Body, length: int) -> None:
        self._body = body
        self._left = length
        self._length = length
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32 = 0
        self.started = False

    async def next(self) -> bytes:
        """
        The next piece that is not empty; an empty one at the end.

        :raises BodyMismatch: if the length is another.
        """
        self.started = True
        async for piece in self._body:
            self._left -= len(piece)
            if self._left < 0:
                raise BodyMismatch(f"the body has more than {self._length} bytes")
            if piece:
                self._md5.update(piece)
                self._crc32 = zlib.crc32(piece, self._crc32)
                return piece
        if self._left:
            raise BodyMismatch(f"the body has {self._length - self._left} of {self._length} bytes")
        return b""

    @property
    def md5(self) -> str:
        """In hex, as an ETag has it."""
        return self._md5.hexdigest()

    @property
    def crc32(self) -> str:
        """In base64, as a checksum header has it."""
        return base64.b64encode(self._crc32.to_bytes(4, "big")).decode()


class PlainStream:
    """A body as it is."""

    def __init__(self, digests: Digests, length: int) -> None:
        self._digests = digests
        self.length = length

    @property
    def started(self) -> bool:
        """Whether some of it is gone, so that it cannot be sent again."""
        return self._digests.started

    async def next(self) -> bytes:
        """The next bytes for the wire; none at the end."""
        return await self._digests.next()


class TrailerStream(PlainStream):
    """
    A body in ``aws-chunked`` encoding, with its CRC-32 behind it.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
    """

    TRAILER: Final = "x-amz-checksum-crc32"

    def __init__(self, digests: Digests, length: int) -> None:
        chunks, rest = divmod(length, CHUNK)
        super().__init__(
            digests,
            chunks * (CHUNK + len(f"{CHUNK:x}") + 4)
            + (rest + len(f"{rest:x}") + 4 if rest else 0)
            + len(f"0\r\n{self.TRAILER}:12345678\r\n\r\n"),
        )
        self._left = length
        self._room = 0
        self._piece = memoryview(b"")
        self._ended = False

    async def next(self) -> bytes:
        """The next bytes for the wire; none at the end."""
        if self._ended:
            return b""
        if not self._piece:
            self._piece = memoryview(await self._digests.next())
        if not self._piece:
            self._ended = True
            return f"0\r\n{self.TRAILER}:{self._digests.crc32}\r\n\r\n".encode()
        head = tail = b""
        if not self._room:
            self._room = min(CHUNK, self._left)
            head = b"%x\r\n" % self._room
        part, self._piece = self._piece[: self._room], self._piece[self._room :]
        self._room -= len(part)
        self._left -= len(part)
        if not self._room:
            tail = b"\r\n"
        return b"".join((head, part, tail))


@implementer(IBodyProducer)
class StreamProducer:
    """
    Sends a stream as fast as the other side takes it, and asks for no piece before.

    :param stream: plain or with a trailer.
    :param watchdog: is stopped while we wait for the next piece, for which the other side is
        not to blame.
    :ivar failure: how the stream ended before its end.
    :ivar finished: whether all of it was written.
    """

    def __init__(self, stream: PlainStream, watchdog: Watchdog) -> None:
        self.length = stream.length
        self.failure: Failure | None = None
        self.finished = False
        self._stream = stream
        self._watchdog = watchdog
        self._paused: Deferred[None] | None = None
        self._stopped = False
        self._running: Deferred[None] | None = None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())

        def ended(outcome: object) -> None:
            # Once it was stopped nobody is to hear of it.
            if self._stopped:
                return
            self._watchdog.touch()
            if isinstance(outcome, Failure):
                self.failure = outcome
                done.errback(outcome)
            else:
                self.finished = True
                done.callback(None)

        self._running = Deferred.fromCoroutine(self._produce(consumer))
        self._running.addBoth(ended)
        return done

    async def _produce(self, consumer: IConsumer) -> None:
        while True:
            while self._paused is not None:
                await self._paused
            self._watchdog.hold()
            try:
                piece = await self._stream.next()
            finally:
                self._watchdog.touch()
            if not piece:
                return
            consumer.write(piece)

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        self._watchdog.touch()
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        self._stopped = True
        if self._running is not None:
            self._running.cancel()


@implementer(IBodyProducer)
class BytesProducer:
    """Sends bytes that are all there, also if there are none."""

    failure = None
    finished = True

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        if self._data:
            consumer.write(self._data)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """Nothing is left to pause."""

    def resumeProducing(self) -> None:
        """Nor to resume."""

    def stopProducing(self) -> None:
        """Nor to stop."""


class Receiver(Protocol):
    """
    What comes in of a response, up to 64 KiB before it is asked for.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self._end: Failure | None = None
        self._waiter: Deferred[None] | None = None
        self._given_up = False

    def dataReceived(self, data: bytes) -> None:
        if self._given_up:
            return
        for start in range(0, len(data), PIECE):
            self._pieces.append(data[start : start + PIECE])
        self._kept += len(data)
        if self._kept >= PIECE:
            self._producer().pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        self._wake()

    async def next(self) -> bytes:
        """
        The next piece; an empty one at the end.

        :raises Exception: whatever ended the response before its end.
        """
        while not self._pieces:
            if self._end is not None:
                self._end.trap(ResponseDone)
                return b""
            self._waiter = Deferred()
            await self._waiter
        piece = self._pieces.popleft()
        self._kept -= len(piece)
        if not self._pieces and self._end is None:
            self._producer().resumeProducing()
        return piece

    def give_up(self) -> None:
        """Let go of the connection, unless all has come already."""
        self._given_up = True
        self._pieces.clear()
        if self._end is None:
            self._producer().stopProducing()
            # An end that has to be agreed on is not noticed by who does not read.
            self._producer().resumeProducing()

    def _producer(self) -> IPushProducer:
        return self.transport  # type: ignore[return-value]

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)
