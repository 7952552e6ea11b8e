"""
HTTP connections whose requests are answered as soon as their headers are in.

:class:`twisted.web.http.HTTPChannel` collects the whole body of a request before it
renders it, in memory or in a temporary file (https://github.com/twisted/twisted/issues/4688).
Here a request with a body is rendered at once, and reads the body itself, if it wants
it.  If the answer comes before the end of the body, the connection is closed after it.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from io import BytesIO
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request
from zope.interface import implementer

from fxprofile.serving.body import RequestBody

#: After an answer that came before the end of the body, the rest is read and dropped for
#: so many seconds, up to so many bytes: a client whose bytes meet a closed socket would
#: get a reset, and might never see the answer (RFC 9112, section 9.6).
LINGER_SECONDS = 5
LINGER_BYTES = 32 << 20

#: The header that says how long a body is, or how it is sent.
_LENGTH = re.compile(rb"(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE)

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class StreamingRequest(Request):
    """
    A request that can be rendered before its body has come.

    :ivar body: what the client sends, as it comes.
    :ivar started_at: when its headers were in.
    :ivar route: the path template that answered it, for logs and metrics; so are
        ``request_id``, ``uid`` (empty if nobody's) and ``errno`` (0 if all went well).
    """

    defaultContentType = None
    channel: Any
    transport: Any
    body: RequestBody
    started_at = 0.0
    route = "-"
    request_id = ""
    uid = ""
    errno = 0
    _early = False

    @property
    def begun(self) -> bool:
        """Whether its headers are in; what is no HTTP never gets so far."""
        return hasattr(self, "body")

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        self.started_at = self.channel.site.reactor.seconds()
        self.body = RequestBody(
            transport=self.channel.transport,
            clock=self.channel.site.reactor,
            continue_=self.channel.continue_for(self),
        )

    def body_follows(self, command: bytes, path: bytes, version: bytes) -> None:
        """The headers are in, and a body is to come: answer now."""
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
            # Twisted would answer for the server as a whole, in its own name.
            self.path = b"/*"
        super().process()

    def write(self, data: bytes) -> None:
        if self.channel is not None and not self.startedWriting:
            if not self.body.complete:
                self.channel.persistent = False
            if not self.channel.persistent:
                self.setHeader(b"Connection", b"close")
        super().write(data)

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        # Twisted has no words for some statuses, 422 among them.
        if message is None and code in _PHRASES:
            message = _PHRASES[code]
        super().setResponseCode(code, message)

    def render(self, resource: IResource) -> None:
        # Which versions run here is nobody's business.
        self.setHeader(b"Server", b"fxprofile")
        super().render(resource)

    def getRequestHostname(self) -> bytes:
        # Nothing is routed by host, and a client may put anything into that header.
        return b"localhost"


@implementer(IHalfCloseableProtocol)
class StreamingChannel(HTTPChannel):
    """
    One connection.

    Its timer runs while the client has the next move: to send the headers of a request, or
    to take what is written to it.

    :ivar lingering: whether the last answer is out, and what comes is dropped.
    """

    requestFactory = StreamingRequest
    site: Any
    transport: Any
    _networkProducer: Any
    _abortingCall: Any
    _dataBuffer: list[bytes]
    _waitingForTransport: bool
    _untaken: StreamingRequest | None = None
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
        The client will send no more, but may still take the answer to what it has sent.

        That it has gone altogether looks the same, and shows when the answer is written.
        """
        if any(request.begun and request.body.complete for request in self.requests):
            self.persistent = False
            self.transport.pauseProducing()
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """We will send no more."""

    def continue_for(self, request: Request) -> Any:
        """What sends ``100 Continue``, if the client of this request waits for it."""
        expect = request.requestHeaders.getRawHeaders(b"Expect", [b""])[0]
        if expect.lower() == b"100-continue" and self._version == b"HTTP/1.1":
            return self._send100Continue
        return None

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        persistent = super().checkPersistence(request, version)
        return persistent and not self.site.stopping

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        self.setTimeout(None)
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)
        if self.length != 0:
            request.body_follows(self._command, self._path, self._version)

    def headerReceived(self, line: bytes) -> bool:
        if _LENGTH.match(line):
            self._bad = self.site.bad_length
        try:
            return super().headerReceived(line)
        except ValueError:
            # Python makes no number of so many digits.
            self._respondToBadRequestAndDisconnect()
            return False
        finally:
            self._bad = None

    def lineReceived(self, line: bytes) -> None:
        # The rest of the piece in which something was no HTTP.
        if not self.lingering:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def dataReceived(self, data: bytes) -> None:
        if not self.lingering:
            super().dataReceived(data)
            return
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES:
            self.transport.abortConnection()

    def rawDataReceived(self, data: bytes) -> None:
        # The rest of the piece whose headers were answered at once.
        if not self.lingering:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        # The answer may have been given while the last piece was being handed over.
        if not self.lingering:
            super().allContentReceived()

    def read_on(self) -> None:
        """Read the transport: only one that is read tells that its peer has gone."""
        enough = sum(map(len, self._dataBuffer)) > self._optimisticEagerReadSize
        if not enough and not self._waitingForTransport:
            self.transport.resumeProducing()

    def requestDone(self, request: StreamingRequest) -> None:
        if not request.body.complete:
            self.requests.remove(request)
            self._linger()
        elif self._waitingForTransport:
            # Who asks and asks and takes no answer could else fill our memory.
            self._untaken = request
        else:
            self._next(request)

    def _next(self, request: StreamingRequest) -> None:
        self.setTimeout(self.site.timeOut)
        super().requestDone(request)

    def resetTimeout(self) -> None:
        """Leave the timer: no client can stretch it with a byte now and then."""

    def pauseProducing(self) -> None:
        super().pauseProducing()
        # Twisted reads on while a request is being answered, and keeps what it reads.
        self._networkProducer.pauseProducing()
        if not self.lingering:
            self.setTimeout(self.site.timeOut)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        request, self._untaken = self._untaken, None
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
        # The last bytes may never be taken.
        self._abort_after(self.site.timeOut)
        super().loseConnection()

    def _abort_after(self, seconds: float) -> None:
        if self._abortingCall is None:
            self._abortingCall = self.callLater(seconds, self.forceAbortClient)

    def _linger(self) -> None:
        self.lingering = True
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
        # Twisted's own answer to what is not HTTP has neither headers nor a body.
        if not any(request.startedWriting for request in self.requests):
            self.transport.write(self._bad or self.site.bad_request)
        requests, self.requests = self.requests, []
        self._linger()
        for request in requests:
            request.connectionLost(Failure(ConnectionDone()))
