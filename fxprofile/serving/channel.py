"""
A streaming HTTP server: each request is answered as soon as its headers have arrived.

:class:`twisted.web.http.HTTPChannel` collects the whole body of a request before it
renders it, in memory or in a temporary file (https://github.com/twisted/twisted/issues/4688).
Here a request with a body is rendered at once, and its handler reads the body if it wants
it.  If the response is complete before the body, the connection is closed after it.

The parts are read together, and so share a module: :class:`RequestBody`,
:class:`StreamingRequest`, :class:`StreamingChannel` and :class:`StreamingSite`.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from http import HTTPStatus
from io import BytesIO
from typing import Any

import attrs
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site
from zope.interface import implementer

from fxprofile.deferreds.notifier import Subscription
from fxprofile.model.errors import ClientGone, RequestTimeout
from fxprofile.telemetry.metrics import Metrics

#: A client must send :data:`PROGRESS` bytes of a body every so many seconds; a client that
#: sends a byte now and then times out too.
PATIENCE = 15
PROGRESS = 8192

#: After a response that preceded the end of the body, the rest of the body is read and
#: discarded for so many seconds and bytes: a client that writes to a closed socket gets a
#: reset, and may never see the response (RFC 9112, section 9.6).
LINGER_SECONDS = 5
LINGER_BYTES = 32 << 20

#: How long a connection may be idle, in seconds.
IDLE = 60

#: The headers that tell the length of a body.
_LENGTH = re.compile(rb"(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def bad_request(headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return a whole response 400, for input that is not HTTP and so has no request."""
    framing = {"Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**headers, **framing}.items()]
    return "\r\n".join(["HTTP/1.1 400 Bad Request", *lines, "", ""]).encode("latin-1") + body


@attrs.define(kw_only=True, eq=False, slots=False)
class RequestBody:
    """
    The body of one request, as a :class:`fxprofile.model.ports.Body`.

    The transport is read only while a consumer waits for the next piece, so a slow bucket
    slows its client down, and at most one read of the socket is buffered.

    :param transport: paused while no consumer waits.
    :param continue_: sends ``100 Continue``, if the client waits for it.
    """

    _transport: IPushProducer
    _clock: IReactorTime
    _continue: Callable[[], object] | None = attrs.field(default=None, alias="continue_")
    complete: bool = attrs.field(init=False, default=False)
    _pieces: list[bytes] = attrs.field(init=False, factory=list)
    _error: Exception | None = attrs.field(init=False, default=None)
    _arrival: Subscription | None = attrs.field(init=False, default=None)
    _waited: float = attrs.field(init=False, default=0.0)
    _progress: int = attrs.field(init=False, default=0)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        Return the next piece.

        :raises ClientGone: if the client disconnected.
        :raises RequestTimeout: if the client sends too slowly.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            await self._wait()
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        """Stop reading; the rest of the body is discarded."""
        if not self.complete and self._error is None:
            self._error = ClientGone("the body was closed before its end")
        self._pieces.clear()

    async def _wait(self) -> None:
        if self._continue is not None:
            self._continue()
            self._continue = None
        self._transport.resumeProducing()
        started = self._clock.seconds()
        self._arrival = Subscription()
        await self._arrival.wait(self._clock, max(0, PATIENCE - self._waited))
        if not (self._pieces or self.complete or self._error):
            self._error = RequestTimeout()
        self._waited += self._clock.seconds() - started
        if self._progress >= PROGRESS:
            self._progress = 0
            self._waited = 0

    def received(self, data: bytes) -> None:
        """Add a piece that the client sent."""
        self._continue = None
        if self._error is not None:
            return
        self._pieces.append(data)
        self._progress += len(data)
        self._transport.pauseProducing()
        self._wake()

    def completed(self) -> None:
        """Mark the end of the body."""
        self.complete = True
        self._wake()

    def lost(self) -> None:
        """Mark the body as aborted, unless it is complete."""
        if self.complete:
            return
        if self._error is None:
            self._error = ClientGone("the client disconnected before the end of the body")
        self._pieces.clear()
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.notify()


class StreamingRequest(Request):
    """
    A request that is rendered before its body has arrived.

    :ivar body: the body, as it arrives.
    :ivar started_at: when its headers had arrived.
    :ivar route: the path template of its endpoint.  Logs and metrics use it, as well as
        ``request_id``, ``uid`` (empty without a user) and ``errno`` (0 if there was no error).
    """

    defaultContentType = None
    channel: StreamingChannel
    site: StreamingSite
    body: RequestBody
    started_at = 0.0
    route = "-"
    request_id = ""
    uid = ""
    errno = 0
    _early = False

    @property
    def begun(self) -> bool:
        """Whether its headers have arrived; those of invalid HTTP never do."""
        return hasattr(self, "body")

    def begin(self, body: RequestBody, now: float) -> None:
        """Note that the headers have arrived, and when."""
        # Twisted expects a file, which stays empty.
        self.content = BytesIO()
        self.body, self.started_at = body, now

    def body_follows(self, command: bytes, path: bytes, version: bytes) -> None:
        """Render now: the headers have arrived, and a body follows."""
        self._early = True
        self.channel.transport.pauseProducing()
        super().requestReceived(command, path, version)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._early:
            self.channel.read_on()
        self.body.completed()
        if not self._early:
            super().requestReceived(command, path, version)

    def handleContentChunk(self, data: bytes) -> None:
        self.body.received(data)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        if self.begun:
            self.body.lost()

    def process(self) -> None:
        if self.path == b"*":
            # Twisted would answer ``*`` itself, with its own headers.
            self.path = b"/*"
        super().process()

    def write(self, data: bytes) -> None:
        if self.channel is not None and not self.startedWriting:
            if not self.body.complete:
                self.channel.persistent = False
            if not self.channel.persistent:
                self.setHeader(b"Connection", b"close")
        super().write(data)

    def finish_json(self, code: int, members: object) -> None:
        """Write a JSON response that may not be cached, and finish."""
        body = json.dumps(members).encode()
        self.setResponseCode(code)
        self.setHeader(b"Content-Type", b"application/json")
        self.setHeader(b"Cache-Control", b"no-store")
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def count(
        self, outcome: object, metrics: Metrics, listener: str, methods: Collection[bytes]
    ) -> tuple[int, float]:
        """
        Count this request, which has ended.

        :param outcome: how, as ``notifyFinish`` says.
        :param methods: the methods that are counted by name.
        :returns: its status, 499 if the client disconnected, and its duration in seconds.
        """
        status = 499 if isinstance(outcome, Failure) else self.code
        seconds = self.site.reactor.seconds() - self.started_at
        method = self.method.decode() if self.method in methods else "other"
        metrics.requests.labels(listener, method, self.route, status).inc()
        metrics.request_seconds.labels(listener, self.route).observe(seconds)
        return status, seconds

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        # Twisted has no phrases for some statuses, 422 among them.
        if message is None and code in _PHRASES:
            message = _PHRASES[code]
        super().setResponseCode(code, message)

    def render(self, resource: IResource) -> None:
        # Twisted's own header would reveal versions.
        self.setHeader(b"Server", b"fxprofile")
        super().render(resource)

    def getRequestHostname(self) -> bytes:
        # The Host header is untrusted, and nothing is routed by it.
        return b"localhost"


@implementer(IHalfCloseableProtocol)
class StreamingChannel(HTTPChannel):
    """
    A connection.

    Its timer runs while it waits for the client: for the headers of a request, or for the
    client to read a response.

    :ivar lingering: whether the last response is sent, and further input is discarded.
    """

    requestFactory = StreamingRequest
    site: StreamingSite
    transport: Any
    _networkProducer: Any
    _abortingCall: Any
    _dataBuffer: list[bytes]
    _waitingForTransport: bool
    _unread: StreamingRequest | None = None
    _bad: bytes | None = None
    lingering = False
    _lingered = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        super().connectionLost(reason)

    def readConnectionLost(self) -> None:
        """
        Keep the connection if a complete request waits for its response.

        A client that has closed its connection altogether looks the same here; that shows when
        the response is written.
        """
        if any(request.begun and request.body.complete for request in self.requests):
            self.persistent = False
            self.transport.pauseProducing()
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Ignore that our side is closed, which only lingering does."""

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        persistent = super().checkPersistence(request, version)
        return persistent and not self.site.stopping

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        self.setTimeout(None)
        self.persistent = self.checkPersistence(request, self._version)
        expect = request.requestHeaders.getRawHeaders(b"Expect", [b""])[0].lower()
        waits = expect == b"100-continue" and self._version == b"HTTP/1.1"
        clock, continue_ = self.site.reactor, self._send100Continue if waits else None
        body = RequestBody(transport=self.transport, clock=clock, continue_=continue_)
        request.begin(body, clock.seconds())
        if self.length != 0:
            request.body_follows(self._command, self._path, self._version)

    def headerReceived(self, line: bytes) -> bool:
        if _LENGTH.match(line):
            self._bad = self.site.bad_length
        try:
            return super().headerReceived(line)
        except ValueError:
            # Python refuses to convert a number of so many digits.
            self._respondToBadRequestAndDisconnect()
            return False
        finally:
            self._bad = None

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def dataReceived(self, data: bytes) -> None:
        if not self.lingering:
            super().dataReceived(data)
            return
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES:
            self.transport.abortConnection()

    def allContentReceived(self) -> None:
        # The response may have been sent while the last piece was delivered.
        if not self.lingering:
            super().allContentReceived()

    def read_on(self) -> None:
        """Read the transport, which reports a disconnected client only while it is read."""
        enough = sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize
        if not enough and not self._waitingForTransport:
            self.transport.resumeProducing()

    def requestDone(self, request: StreamingRequest) -> None:
        if not request.body.complete:
            self.requests.remove(request)
            self._linger()
        elif self._waitingForTransport:
            # A client that pipelines requests and reads no response must not fill our memory.
            self._unread = request
        else:
            self._next(request)

    def _next(self, request: StreamingRequest) -> None:
        self.setTimeout(IDLE)
        super().requestDone(request)

    def resetTimeout(self) -> None:
        """Keep the timer running: single bytes do not extend it."""

    def pauseProducing(self) -> None:
        super().pauseProducing()
        # Twisted reads on while a request is being answered, and buffers what it reads.
        self._networkProducer.pauseProducing()
        if not self.lingering:
            self.setTimeout(IDLE)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        request, self._unread = self._unread, None
        if request is not None:
            self._next(request)
        elif any(request.begun for request in self.requests):
            self.setTimeout(None)
            self.read_on()

    def timeoutConnection(self) -> None:
        if self._waitingForTransport:
            self.transport.abortConnection()
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        self.setTimeout(None)
        # The client may never read the last bytes.
        self._abort_after(IDLE)
        super().loseConnection()

    def _abort_after(self, seconds: float) -> None:
        if self._abortingCall is None:
            self._abortingCall = self.callLater(seconds, self.forceAbortClient)

    def _linger(self) -> None:
        self.lingering = True
        # What has arrived is not read either.
        self.clearLineBuffer()
        self.setTimeout(None)
        close_write = getattr(self.transport, "loseWriteConnection", None)
        if close_write is None:
            self.loseConnection()
            return
        self._networkProducer.unregisterProducer()
        self._abort_after(LINGER_SECONDS)
        self.transport.resumeProducing()
        close_write()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own response to invalid HTTP has neither headers nor a body.
        if not any(request.startedWriting for request in self.requests):
            self.transport.write(self._bad or self.site.bad_request)
        requests, self.requests = self.requests, []
        self._linger()
        for request in requests:
            request.connectionLost(Failure(ConnectionDone()))


class StreamingSite(Site):
    """
    The protocol factory of a listener.

    :param bad_request: the whole response to input that is not HTTP.
    :param bad_length: the same if the length of a body is invalid, repeated or ambiguous;
        ``bad_request`` by default.
    :ivar channels: the open connections.
    """

    protocol: Any = StreamingChannel
    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        bad_request: bytes = bad_request({"X-Content-Type-Options": "nosniff"}),
        bad_length: bytes | None = None,
    ) -> None:
        super().__init__(
            resource,
            requestFactory=StreamingRequest,
            reactor=reactor,
            timeout=IDLE,
            parsePOSTFormSubmission=False,
        )
        self.bad_request = bad_request
        self.bad_length = bad_length or bad_request
        self.stopping = False
        self.channels: set[StreamingChannel] = set()

    def log(self, request: object) -> None:
        """Do nothing: the resources log requests, because they know what is secret."""

    def acceptableProtocols(self) -> list[bytes]:
        """Offer only HTTP/1.1 over TLS; a proxy in front can speak HTTP/2."""
        return [b"http/1.1"]

    def close_idle(self) -> None:
        """Close the connections without a request, and the others after their response."""
        self.stopping = True
        for channel in list(self.channels):
            if channel.requests:
                channel.persistent = False
            elif not channel.lingering:
                channel.loseConnection()

    def abort_all(self) -> None:
        """Close every connection immediately."""
        for channel in list(self.channels):
            channel.transport.abortConnection()
