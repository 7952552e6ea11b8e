"""
A streaming HTTP server: each request is answered as soon as its headers have arrived.

:class:`twisted.web.http.HTTPChannel` collects the whole body of a request before it
renders it, in memory or in a temporary file (https://github.com/twisted/twisted/issues/4688).
Here a request with a body is rendered at once, and its handler reads the body if it wants
it.  If the response is complete before the body, the connection is closed after it.

The parts are read together, and so share a module: :class:`RequestBody`,
:class:`StreamingRequest`, :class:`StreamingChannel` and :class:`StreamingSite`.  They build on
:mod:`twisted.web.http` alone: what :mod:`twisted.web.server` adds, for sessions, perspective
broker and pages with tracebacks, takes 2 MB.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import attrs
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocolNegotiationFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http import (
    HTTPChannel,
    Request,
    _ChunkedTransferDecoder,
    _MalformedChunkedDataError,
)
from twisted.web.resource import IResource, getChildForRequest
from zope.interface import implementer

from fxprofile.deferreds.notifier import Subscription
from fxprofile.model.errors import ClientGone, RequestTimeout
from fxprofile.serving.connections import ConnectionLimits
from fxprofile.serving.head import BODILESS, PHRASES, StandardHeaders
from fxprofile.telemetry.metrics import Metrics

#: What a resource returns that responds later, as :data:`twisted.web.server.NOT_DONE_YET` is.
NOT_DONE_YET: Final = 1

#: A client must send its headers within so many seconds after their first byte, and its body
#: at :data:`MIN_RATE` bytes a second on average over as many seconds.
PATIENCE = 15
MIN_RATE = 1024
PROGRESS = PATIENCE * MIN_RATE

#: Bytes that are buffered of the responses of all connections together, about, and at most of
#: one connection.  A client that reads slowly costs no more.
IN_FLIGHT = 16 << 20
MAX_IN_FLIGHT = 64 << 10

#: The maximum length of a request target, in bytes.  The API has no longer ones.
MAX_TARGET = 2048

#: A chunked body may have so many chunks, and one more for every so many bytes: parsing a chunk
#: costs far more than a byte.
FREE_CHUNKS = 64
BYTES_PER_CHUNK = 128

#: The maximum size of the trailers of a body, in bytes.
MAX_TRAILERS = 1024

#: After a response that preceded the end of the body, the rest of the body is read and
#: discarded for so many seconds and bytes: a client that writes to a closed socket gets a
#: reset, and may never see the response (RFC 9112, section 9.6).
LINGER_SECONDS = 5
LINGER_BYTES = 32 << 20

#: How long a connection may be idle, in seconds.
IDLE = 60

#: How long a client may take to read what is buffered of its response, in seconds.
UNREAD = 30

# The headers that tell the length of a body.
_LENGTH = (b"content-length", b"transfer-encoding")

# What a host and a port consist of (RFC 3986, section 3.2.2).
_HOST = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"


def bad_request(headers: Mapping[str, str], body: bytes = b"", status: int = 400) -> bytes:
    """
    Return a response, by default 400, for input that is no request.

    ``Server`` and ``Date`` are added when it is sent.
    """
    framing = {"Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**headers, **framing}.items()]
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1") + body


def origin_form(target: bytes) -> bytes | None:
    """
    Return the path and query of a request target, or None if it is invalid.

    :param target: in origin, absolute or asterisk form (RFC 9112, section 3.2).  The host of
        an absolute form is ignored, because nothing is routed by it.
    """
    if target.startswith(b"/"):
        return target
    if target == b"*":
        # Twisted would answer ``*`` itself, with its own headers.
        return b"/*"
    scheme, _, rest = target.partition(b"://")
    host = rest.partition(b"?")[0].partition(b"/")[0]
    if scheme.lower() not in (b"http", b"https") or not is_host(host) or not host:
        return None
    path = rest[len(host) :]
    return path if path.startswith(b"/") else b"/" + path


def is_host(value: bytes) -> bool:
    """Return whether a Host header has only characters of a host and a port."""
    return not value.translate(None, _HOST)


class ChunkDecoder(_ChunkedTransferDecoder):
    """
    Decodes the chunks of a body (RFC 9112, section 7.1).

    It delivers the chunks that were received together as one piece, and discards trailers.
    More chunks than :data:`FREE_CHUNKS` and :data:`BYTES_PER_CHUNK` allow are an error.
    """

    def __init__(
        self, received: Callable[[bytes], object], finished: Callable[[bytes], object]
    ) -> None:
        self._chunks: list[bytes] = []
        self._received, self._finished = received, finished
        self._allowed = FREE_CHUNKS * BYTES_PER_CHUNK
        super().__init__(self._add, self._finish)
        self._maxTrailerHeadersSize = MAX_TRAILERS

    def dataReceived(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        finally:
            self._deliver()

    def _add(self, chunk: bytes) -> None:
        self._allowed += len(chunk)
        self._chunks.append(chunk)

    def _deliver(self) -> None:
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks.clear()
            self._received(data)

    def _finish(self, rest: bytes) -> None:
        self._deliver()
        self._finished(rest)

    def _dataReceived_CRLF(self) -> bool:
        ended = super()._dataReceived_CRLF()
        self._allowed -= BYTES_PER_CHUNK if ended else 0
        if self._allowed < 0:
            raise _MalformedChunkedDataError("too many small chunks")
        return ended

    def _dataReceived_TRAILER(self) -> bool:
        again = super()._dataReceived_TRAILER()
        for line in self._trailerHeaders:
            # Twisted accepts anything between two CRLF.
            if line.translate(None, b"\r\n\0") != line or line.find(b":") < 1:
                raise _MalformedChunkedDataError("invalid trailer")
        self._trailerHeaders.clear()
        if not again:
            # Do not search again what has been searched.
            self._start = max(0, len(self._buffer) - 1)
        return again


@attrs.define(kw_only=True, eq=False, slots=False)
class RequestBody:
    """
    The body of one request, as a :class:`fxprofile.model.ports.Body`.

    The transport is read only while a consumer waits for the next piece, so a slow bucket
    slows its client down, and at most one read of the socket is buffered.

    :param transport: paused while no consumer waits.
    :param continue_: sends ``100 Continue``, if the client waits for it.
    :ivar complete: whether all of it has arrived, and ``completed_at`` when.
    """

    _transport: IPushProducer
    _clock: IReactorTime
    _continue: Callable[[], object] | None = attrs.field(default=None, alias="continue_")
    complete: bool = attrs.field(init=False, default=False)
    completed_at: float = attrs.field(init=False, default=0.0)
    _pieces: list[bytes] = attrs.field(init=False, factory=list)
    _error: Exception | None = attrs.field(init=False, default=None)
    _arrival: Subscription | None = attrs.field(init=False, default=None)
    _waited: float = attrs.field(init=False, default=0.0)
    _waited_before: float = attrs.field(init=False, default=0.0)
    _waits_since: float | None = attrs.field(init=False, default=None)
    _progress: int = attrs.field(init=False, default=0)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        Return what has arrived since the last call, or wait for it.

        :raises ClientGone: if the client disconnected.
        :raises RequestTimeout: if the client sends too slowly.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return data

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
        self._waits_since = started = self._clock.seconds()
        self._arrival = Subscription()
        try:
            await self._arrival.wait(self._clock, max(0, PATIENCE - self._waited))
        finally:
            self._waited_before, self._waits_since = self.waited, None
        if not (self._pieces or self.complete or self._error):
            self._error = RequestTimeout()
        self._waited += self._clock.seconds() - started
        if self._progress >= PROGRESS:
            self._progress = 0
            self._waited = 0

    @property
    def waited(self) -> float:
        """Seconds for which consumers have waited for the client, in all."""
        since = self._waits_since
        return self._waited_before + (0 if since is None else self._clock.seconds() - since)

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
        self.completed_at = self._clock.seconds()
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
        ``request_id``, ``trace_id``, ``uid`` (empty without a user) and ``errno`` (0 if there
        was no error).
    """

    channel: Any
    site: Any
    prepath: list[bytes] | None
    postpath: list[bytes] | None
    body: RequestBody
    started_at = 0.0
    route = "-"
    request_id = ""
    trace_id = ""
    uid = ""
    errno = 0
    _early = False

    @property
    def begun(self) -> bool:
        """Whether its headers have arrived; those of invalid HTTP never do."""
        return hasattr(self, "body")

    def body_follows(self, command: bytes, path: bytes, version: bytes) -> None:
        """Render now: the headers have arrived, and a body follows."""
        self._early = True
        self.channel.transport.pauseProducing()
        self._process(command, path, version)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._early:
            self.channel.read_on()
        self.body.completed()
        if not self._early:
            self._process(command, path, version)

    def _process(self, command: bytes, target: bytes, version: bytes) -> None:
        # Unlike Twisted, without parsing the query, which nothing here reads.
        self.method, self.uri, self.clientproto = command, target, version
        self.path, self.args = target.partition(b"?")[0], {}
        self.process()

    def process(self) -> None:
        """Render the resource that the path names."""
        self.site = self.channel.site
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        try:
            self.render(getChildForRequest(self.site.resource, self))
        except Exception:
            self.processingFailed(Failure())

    def render(self, resource: IResource) -> None:
        """Respond with what a resource returns, unless it responds by itself."""
        try:
            body = resource.render(self)
        except UnsupportedMethod as error:
            self.setHeader(b"Allow", b", ".join(sorted(error.allowedMethods)))
            self.setResponseCode(405)
            body = b""
        if body is not NOT_DONE_YET:
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()

    def processingFailed(self, failure: Failure) -> None:
        """Log what a resource has raised, and respond with 500 if no response has begun."""
        self._log.failure("Request failed", failure=failure)
        if self.startedWriting:
            self.channel.transport.abortConnection()
        else:
            self.finish_json(500, {"error": PHRASES[500].decode()})

    def handleContentChunk(self, data: bytes) -> None:
        self.body.received(data)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        if self.begun:
            self.body.lost()

    def write(self, data: bytes) -> None:
        if self.channel is not None and not self.startedWriting:
            self.setHeader(b"Server", b"fxprofile")
            self.setHeader(b"Date", self.site.standard_headers.date)
            if self._is_last:
                self.setHeader(b"Connection", b"close")
        super().write(data)

    @property
    def _is_last(self) -> bool:
        """Whether the connection is closed after the response, which is about to begin."""
        if not self.body.complete:
            self.channel.persistent = False
        return not self.channel.persistent

    def respond(self, code: int, headers: bytes, body: bytes = b"") -> None:
        """
        Write a whole response in one piece, and finish; do nothing if the client disconnected.

        :param headers: the lines of :func:`fxprofile.serving.head.header_lines`.  Those of
            ``Server``, ``Date``, ``Connection`` and ``Content-Length`` are added.
        """
        if self.channel is None or self._disconnected:
            return
        self.setResponseCode(code)
        self.startedWriting = 1
        parts = [b"%b %d %b\r\n" % (self.clientproto, code, self.code_message)]
        parts += self.site.standard_headers.lines, headers
        if self._is_last:
            parts.append(b"Connection: close\r\n")
        if code not in BODILESS:
            parts.append(b"Content-Length: %d\r\n" % len(body))
        parts.append(b"\r\n")
        if self.method != b"HEAD" and code not in BODILESS:
            parts.append(body)
            self.sentLength = len(body)
        self.channel.write(b"".join(parts))
        self.finish()

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
        metrics.count_request(listener, method, self.route, status, seconds)
        return status, seconds

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        # Twisted has no phrases for some statuses, 422 among them.
        if message is None:
            message = PHRASES.get(code)
        super().setResponseCode(code, message)

    def getRequestHostname(self) -> bytes:
        # The Host header is untrusted, and nothing is routed by it.
        return b"localhost"


@implementer(IHalfCloseableProtocol)
class StreamingChannel(HTTPChannel):
    """
    A connection.

    Its timer runs while it waits for the client: for a request, for the rest of its headers,
    or for the client to read a response.

    :ivar lingering: whether the last response is sent, and further input is discarded.
    """

    requestFactory = StreamingRequest
    maxHeaders = 100
    site: StreamingSite
    transport: Any
    timeOut: Any
    _networkProducer: Any
    _abortingCall: Any
    _dataBuffer: list[bytes]
    _waitingForTransport: bool
    _unread: StreamingRequest | None = None
    _bad: bytes | None = None
    _in_head = False
    _host: str | None = None
    lingering = False
    _lingered = 0
    _deadline: float | None = None
    _timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)
        self._host = getattr(self.transport.getPeer(), "host", None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        if self.site.limits is not None:
            self.site.limits.released(self._host)
        super().connectionLost(reason)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
        problem = self._problem_of(request)
        if problem is not None:
            self._refuse(problem)
            return
        self._in_head = False
        if self.length is None:
            self._transferDecoder = ChunkDecoder(
                request.handleContentChunk, self._finishRequestBody
            )
        self.setTimeout(None)
        self.persistent = self.checkPersistence(request, self._version)
        expect = request.requestHeaders.getRawHeaders(b"Expect", [b""])[0].lower()
        waits = expect == b"100-continue" and self._version == b"HTTP/1.1"
        clock, continue_ = self.site.reactor, self._send100Continue if waits else None
        request.body = RequestBody(transport=self.transport, clock=clock, continue_=continue_)
        request.started_at = clock.seconds()
        if self.length != 0:
            request.body_follows(self._command, self._path, self._version)

    def _problem_of(self, request: StreamingRequest) -> bytes | None:
        """Return the response to invalid headers, or None; it completes the request target."""
        headers, current = request.requestHeaders, self._version == b"HTTP/1.1"
        codings = headers.getRawHeaders(b"Transfer-Encoding")
        if codings is not None:
            # RFC 9112, section 6.1: HTTP/1.0 has no transfer codings.
            chunked = current and [coding.lower() for coding in codings] == [b"chunked"]
            if not chunked or headers.hasHeader(b"Content-Length"):
                return self.site.bad_length
        # RFC 9112, section 3.2.
        hosts = headers.getRawHeaders(b"Host", [])
        if len(hosts) > 1 or (current and not hosts) or not all(map(is_host, hosts)):
            return self.site.bad_request
        target = origin_form(self._path)
        if target is None:
            return self.site.bad_request
        self._path = target
        return None

    def lineReceived(self, line: bytes) -> None:
        if self.requests and not self.requests[-1].begun:
            if line[:1] in (b" ", b"\t"):
                # A folded header is obsolete (RFC 9112, section 5.2).
                self._respondToBadRequestAndDisconnect()
                return
        elif self.persistent and len(line) > MAX_TARGET + len(b"OPTIONS  HTTP/1.1"):
            self._refuse(self.site.too_long)
            return
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        if line.lower().startswith(_LENGTH):
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
        self._refuse(self.site.bad_request if self.requests else self.site.too_long)

    def dataReceived(self, data: bytes) -> None:
        if not self.lingering:
            if not self._in_head and not self.requests:
                self._in_head = True
                self.setTimeout(PATIENCE)
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

    def piece_size(self) -> int:
        """
        Return the number of bytes to write at once, and have the transport buffer no more.

        Two such pieces are in flight at most: one that the transport has paused with, and one
        that it had left.
        """
        share = IN_FLIGHT // max(1, len(self.site.channels))
        size = max(4096, min(share, MAX_IN_FLIGHT // 2))
        self.transport.bufferSize = size
        return size

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

    def setTimeout(self, period: float | None) -> float | None:
        """
        Set the time that the client has, or with None, let it have any; see TimeoutMixin.

        Twisted's own starts and cancels a timer several times per request.  This one is left to
        run out, and is then set to the deadline of that moment.
        """
        before: float | None = self.timeOut
        self.timeOut = period
        if period is None:
            self._deadline = None
            return before
        self._deadline = self.site.reactor.seconds() + period
        if self._timer is None:
            self._timer = self.callLater(period, self._check_deadline)
        elif self._timer.getTime() > self._deadline:
            self._timer.reset(period)
        return before

    def _check_deadline(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        left = self._deadline - self.site.reactor.seconds()
        if left > 0:
            self._timer = self.callLater(left, self._check_deadline)
        else:
            self._deadline = None
            self.timeoutConnection()

    def resetTimeout(self) -> None:
        """Keep the timer running: single bytes do not extend it."""

    def pauseProducing(self) -> None:
        super().pauseProducing()
        # Twisted reads on while a request is being answered, and buffers what it reads.
        self._networkProducer.pauseProducing()
        if not self.lingering:
            self.setTimeout(UNREAD)

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
        self._refuse(self._bad or self.site.bad_request)

    def _refuse(self, response: bytes) -> None:
        if not any(request.startedWriting for request in self.requests):
            status, end, rest = response.partition(b"\r\n")
            self.transport.write(status + end + self.site.standard_headers.lines + rest)
        requests, self.requests = self.requests, []
        self._linger()
        for request in requests:
            request.connectionLost(Failure(ConnectionDone()))


@implementer(IProtocolNegotiationFactory)
class StreamingSite(ServerFactory[StreamingChannel]):
    """
    The protocol factory of a listener.

    :param resource: the root of its resources.
    :param request_factory: the class of its requests.
    :param bad_request: the whole response to input that is not HTTP.
    :param bad_length: the same if the length of a body is invalid, repeated or ambiguous;
        ``bad_request`` by default.
    :param too_long: the same, 414, to a request target that is too long; ``bad_request`` by
        default.
    :param limits: which connections are accepted; all by default.
    :ivar channels: the open connections.
    :ivar standard_headers: of every response.
    """

    protocol = StreamingChannel
    noisy = False

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        bad_request: bytes = bad_request({"X-Content-Type-Options": "nosniff"}),
        bad_length: bytes | None = None,
        too_long: bytes | None = None,
        limits: ConnectionLimits | None = None,
        request_factory: type[StreamingRequest] = StreamingRequest,
    ) -> None:
        self.resource = resource
        self.reactor = reactor
        self._request_factory = request_factory
        self.bad_request = bad_request
        self.bad_length = bad_length or bad_request
        self.too_long = too_long or bad_request
        self.limits = limits
        self.stopping = False
        self.channels: set[StreamingChannel] = set()
        self.standard_headers = StandardHeaders(reactor)

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of a connection, or None to close it."""
        if self.limits is not None and not self.limits.admit(getattr(addr, "host", None)):
            return None
        channel: Any = super().buildProtocol(addr)
        channel.site = self
        channel.requestFactory = self._request_factory
        channel.callLater = self.reactor.callLater
        channel.timeOut = IDLE
        return channel

    def log(self, request: object) -> None:
        """Do nothing: the resources log requests, because they know what is secret."""

    def acceptableProtocols(self) -> list[bytes]:
        """Offer only HTTP/1.1 over TLS; a proxy in front can speak HTTP/2."""
        return [b"http/1.1"]

    def drain(self) -> None:
        """Close each connection after its next response, or that of its request in flight."""
        self.stopping = True
        for channel in self.channels:
            if channel.requests:
                channel.persistent = False

    def close_idle(self) -> None:
        """Close the connections without a request, and the others after their response."""
        self.drain()
        for channel in list(self.channels):
            if not (channel.requests or channel.lingering):
                channel.loseConnection()

    def abort_all(self) -> None:
        """Close every connection immediately."""
        for channel in list(self.channels):
            channel.transport.abortConnection()
