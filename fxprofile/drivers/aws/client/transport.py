"""
HTTP for AWS calls: Twisted's agent, with back-pressure and idle timeouts in both directions.

Twisted and treq limit the time to connect, or the whole request.  AWS requests may
rightly take long, so here a request fails when the server makes no progress for a while;
time spent on waiting for our own payload does not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from functools import cached_property
from typing import Final, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from fxprofile.drivers.aws.client.errors import AwsMalformed, AwsTimeout, AwsUnreachable

#: Bytes of a response that are buffered before the server has to wait.
BUFFER: Final = 1 << 16

#: Seconds for a connection to be made.
CONNECT_TIMEOUT: Final = 5.0

#: Seconds without progress after which a request fails.
READ_TIMEOUT: Final = 30.0

#: Seconds that an idle connection is kept, which is less than AWS keeps it.
IDLE_TIMEOUT: Final = 5

#: Idle connections that are kept per host.
IDLE_CONNECTIONS: Final = 32


@attrs.define(eq=False, slots=False)
class IdleTimeout(TimeoutMixin):
    """
    A time limit that starts again at every sign of progress.

    :param seconds: without progress.
    :param expire: called once when they have passed.
    :ivar expired: whether they have.
    """

    _clock: IReactorTime
    _seconds: float
    _expire: Callable[[], object]
    expired: bool = attrs.field(default=False, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    def progress(self) -> None:
        """Start the time limit again."""
        if not self._ended:
            self.setTimeout(self._seconds)

    def suspend(self) -> None:
        """Stop the time until the next progress."""
        self.setTimeout(None)

    def end(self) -> None:
        """Stop the time for good."""
        self._ended = True
        self.setTimeout(None)

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        """Called by the mixin to start the time."""
        return self._clock.callLater(period, func)

    def timeoutConnection(self) -> None:
        """Called by the mixin when the time has passed."""
        self._ended = self.expired = True
        self._expire()


@implementer(IBodyProducer)
@attrs.define(eq=False, slots=False)
class PayloadProducer:
    """
    Sends a payload as fast as the server accepts it, and reads no piece before.

    :param payload: its pieces.
    :param length: their bytes.
    :param idle: suspended while the next piece is awaited, because that is not the server's
        fault.
    :ivar failure: the error that ended the payload early.
    :ivar finished: whether all of it was written.
    """

    _payload: AsyncIterable[bytes]
    length: int
    _idle: IdleTimeout
    failure: Failure | None = attrs.field(default=None, init=False)
    finished: bool = attrs.field(default=False, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _paused: Deferred[None] | None = attrs.field(default=None, init=False)
    _running: Deferred[None] | None = attrs.field(default=None, init=False)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        done: Deferred[None] = Deferred(lambda _: self.stopProducing())

        def ended(outcome: Failure | None) -> None:
            # IBodyProducer: the Deferred of a stopped producer must not fire.
            if self._stopped:
                return
            self._idle.progress()
            self.finished = outcome is None
            self.failure = outcome
            done.callback(outcome)  # A failure calls its errbacks.

        self._running = Deferred.fromCoroutine(self._produce(consumer))
        self._running.addBoth(ended)
        return done

    async def _produce(self, consumer: IConsumer) -> None:
        self._idle.suspend()
        async for piece in self._payload:
            self._idle.progress()
            consumer.write(piece)
            while self._paused is not None:
                await self._paused
            self._idle.suspend()

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        self._idle.progress()
        paused, self._paused = self._paused, None
        if paused is not None:
            paused.callback(None)

    def stopProducing(self) -> None:
        self._stopped = True
        if self._running is not None:
            self._running.cancel()


@attrs.define(eq=False, slots=False)
class ResponseStream(Protocol):
    """
    The body of a response: an asynchronous iterator with back-pressure.

    :param timeout: seconds that a piece may take to arrive.
    """

    _clock: IReactorTime
    _timeout: float
    _pieces: deque[bytes] = attrs.field(factory=deque, init=False)
    _buffered: int = attrs.field(default=0, init=False)
    _end: Failure | None = attrs.field(default=None, init=False)
    _waiter: Deferred[None] | None = attrs.field(default=None, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered >= BUFFER:
            self._producer().pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        self._wake()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        :raises AwsUnreachable: if the body ends early, or nothing arrives in time.
        """
        while not (self._pieces or self._end or self._closed):
            self._waiter = Deferred()
            try:
                await self._waiter.addTimeout(self._timeout, self._clock)
            except WaitTimeout:
                await self.aclose()
                raise AwsTimeout(f"no data for {self._timeout:g} s") from None
            except BaseException:
                await self.aclose()
                raise
        if self._pieces:
            piece = self._pieces.popleft()
            self._buffered -= len(piece)
            if not self._pieces and self._end is None:
                self._producer().resumeProducing()
            return piece
        if not self._closed:
            self._closed = True
            cause = self._end.value if self._end is not None else None
            if cause is not None and not isinstance(cause, ResponseDone):
                raise AwsUnreachable(f"the response ended early: {describe(cause)}") from cause
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Drop the rest of the body, and the connection unless all of it has arrived."""
        if self._closed:
            return
        self._closed = True
        self._pieces.clear()
        if self._end is None:
            self._producer().stopProducing()
            # A paused transport does not notice that a TLS connection has ended.
            self._producer().resumeProducing()
        self._wake()

    def _producer(self) -> IPushProducer:
        return cast(IPushProducer, self.transport)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)


@attrs.frozen
class RawResponse:
    """
    An HTTP response whose body has not been read.

    :ivar headers: with names in lower case.
    :ivar body: to be read or closed.
    """

    status: int
    headers: Mapping[str, str]
    body: ResponseStream


@attrs.define(eq=False, slots=False)
class Transport:
    """
    Sends requests over a pool of persistent connections.

    :param reactor: gives the time, and connects.
    """

    _reactor: IReactorTime

    @cached_property
    def _pool(self) -> HTTPConnectionPool:
        pool = HTTPConnectionPool(self._reactor)
        pool.maxPersistentPerHost = IDLE_CONNECTIONS
        pool.cachedConnectionTimeout = IDLE_TIMEOUT
        return pool

    @cached_property
    def agent(self) -> IAgent:
        """Twisted's agent on the pool."""
        agent: IAgent = Agent(self._reactor, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)
        return agent

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        payload: AsyncIterable[bytes],
        length: int,
        timeout: float,
    ) -> RawResponse:
        """
        Send a request, and return when the head of the response has arrived.

        :param length: of the payload, in bytes.
        :param timeout: seconds without progress after which the request fails.
        :raises AwsUnreachable: if there is no response.
        :raises AwsMalformed: if the server reports success before it has the whole payload.
        :raises Exception: any error of the payload.
        """
        idle = IdleTimeout(self._reactor, timeout, lambda: sending.cancel())
        producer = PayloadProducer(payload, length, idle)
        # RFC 9110, section 8.6: only methods that expect content have a length of zero.
        has_content = bool(length) or method in ("PUT", "POST")
        sending = self.agent.request(
            method.encode(),
            url.encode(),
            Headers({name: [value] for name, value in headers.items()}),
            producer if has_content else None,
        )
        idle.progress()
        cancelled = False

        def cancel(_: object) -> None:
            # Twisted raises different errors, depending on the state of the connection.
            nonlocal cancelled
            cancelled = True
            sending.cancel()

        responded: Deferred[IResponse] = Deferred(cancel)
        sending.addBoth(responded.callback)
        try:
            response = await responded
        except Exception as error:
            if cancelled:
                raise CancelledError from None
            if producer.failure is not None:
                producer.failure.raiseException()
            if idle.expired:
                raise AwsTimeout(f"no progress for {timeout:g} s") from None
            raise AwsUnreachable(describe(error)) from error
        finally:
            idle.end()
        body = ResponseStream(self._reactor, timeout)
        response.deliverBody(body)
        if has_content and not producer.finished:
            # The server has responded early, and ignores the rest of the payload.
            producer.stopProducing()
            await _refuse_early_success(response, body)
        return RawResponse(response.code, _headers(response), body)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.closeCachedConnections()


async def _refuse_early_success(response: IResponse, body: ResponseStream) -> None:
    if response.code < 300:
        await body.aclose()
        text = "success was reported before the end of the payload"
        raise AwsMalformed(text, code="EarlyResponse")


def _headers(response: IResponse) -> Mapping[str, str]:
    headers = {
        name.decode("latin-1").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }
    if response.length is not UNKNOWN_LENGTH:
        # Twisted removes Content-Length from the headers, except those of a HEAD.
        headers.setdefault("content-length", str(response.length))
    return headers


def describe(error: BaseException) -> str:
    """Return a network error in one line, with the errors that Twisted has wrapped in it."""
    reasons: list[Failure] = getattr(error, "reasons", None) or []
    if causes := [reason.value for reason in reasons if reason.value is not None]:
        return "; ".join(map(describe, causes))
    return f"{type(error).__name__}: {error}".removesuffix(": ")
