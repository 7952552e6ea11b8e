"""
HTTP connections whose requests are answered as soon as their headers are in.

:class:`twisted.web.http.HTTPChannel` collects the whole body of a request before it
renders it, in memory or in a temporary file (https://github.com/twisted/twisted/issues/4688).
Here a request with a body is rendered at once, and reads the body itself, if it wants
it.  If the answer comes before the end of the body, the connection is closed after it.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request

from fxprofile.serving.body import RequestBody

#: After an answer that came before the end of the body, the rest is read and dropped for
#: so many seconds, up to so many bytes: a client whose bytes meet a closed socket would
#: get a reset, and might never see the answer (RFC 9112, section 9.6).
LINGER_SECONDS = 5
LINGER_BYTES = 32 << 20


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
    body: RequestBody
    started_at = 0.0
    route = "-"
    request_id = ""
    uid = ""
    errno = 0
    _early = False

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
        self.body.completed()
        if not self._early:
            super().requestReceived(command, path, version)

    def handleContentChunk(self, data: bytes) -> None:
        self.body.received(data)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        # What is no HTTP never gets as far as a body.
        if hasattr(self, "body"):
            self.body.lost()

    def write(self, data: bytes) -> None:
        if not self.startedWriting and not self.body.complete:
            self.channel.persistent = False
            self.setHeader(b"Connection", b"close")
        super().write(data)

    def render(self, resource: IResource) -> None:
        # Which versions run here is nobody's business.
        self.setHeader(b"Server", b"fxprofile")
        super().render(resource)

    def getRequestHostname(self) -> bytes:
        # Nothing is routed by host, and a client may put anything into that header.
        return b"localhost"


class StreamingChannel(HTTPChannel):
    """One connection."""

    requestFactory = StreamingRequest
    site: Any
    transport: Any
    _networkProducer: Any
    _lingering: IDelayedCall | None = None
    _lingered = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.site.channels.discard(self)
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)

    def continue_for(self, request: Request) -> Any:
        """What sends ``100 Continue``, if the client of this request waits for it."""
        expect = request.requestHeaders.getRawHeaders(b"Expect", [b""])[0]
        if expect.lower() == b"100-continue" and self._version == b"HTTP/1.1":
            return self._send100Continue
        return None

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        self.persistent = self.checkPersistence(request, self._version)
        request.gotLength(self.length)
        if self.length != 0:
            request.body_follows(self._command, self._path, self._version)

    def dataReceived(self, data: bytes) -> None:
        if self._lingering is None:
            super().dataReceived(data)
            return
        self._lingered += len(data)
        if self._lingered > LINGER_BYTES:
            self.transport.abortConnection()

    def rawDataReceived(self, data: bytes) -> None:
        # The rest of the piece whose headers were answered at once.
        if self._lingering is None:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        # The answer may have been given while the last piece was being handed over.
        if self._lingering is None:
            super().allContentReceived()

    def requestDone(self, request: StreamingRequest) -> None:
        if request.body.complete:
            super().requestDone(request)
            return
        self.requests.remove(request)
        self._linger()

    def _linger(self) -> None:
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        close_write = getattr(self.transport, "loseWriteConnection", None)
        if close_write is None:
            self.transport.loseConnection()
            return
        self._lingering = self.callLater(LINGER_SECONDS, self.transport.abortConnection)
        self.transport.resumeProducing()
        close_write()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # Twisted's own answer to what is not HTTP has neither headers nor a body.
        self.transport.write(self.site.bad_request)
        self.loseConnection()
