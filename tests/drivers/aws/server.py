"""
HTTP servers whose behaviour a test scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

#: Handles a request as a test says.
Behaviour = Callable[[Request], Any]


@dataclass(frozen=True)
class Seen:
    """A request that was received; header names are in lower case."""

    method: str
    uri: str
    headers: Mapping[str, str]
    body: bytes


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Return a behaviour with this response.  ``_`` in header names stands for ``-``."""

    def behave(request: Request) -> bytes:
        request.setResponseCode(status)
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        return body

    return behave


def xml_error(status: int, code: str, message: str = "no", **headers: str) -> Behaviour:
    """Return a behaviour that refuses as S3 does."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return answer(status, body.encode(), x_amz_request_id="REQ1", **headers)


def json_answer(members: str, status: int = 200, **headers: str) -> Behaviour:
    """Return a behaviour that responds as SQS does."""
    return answer(status, members.encode(), x_amzn_requestid="REQ2", **headers)


def json_error(status: int, code: str) -> Behaviour:
    """Return a behaviour that refuses as SQS does."""
    return json_answer(f'{{"__type": "com.amazonaws.sqs#{code}", "message": "no"}}', status)


def reset(request: Request) -> int:
    """Reset the connection without a response."""
    request.transport.abortConnection()
    return NOT_DONE_YET


def cut(length: int, body: bytes, **headers: str) -> Behaviour:
    """Return a behaviour that announces so many bytes and closes after others."""

    def behave(request: Request) -> int:
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        request.setHeader("content-length", str(length))
        request.write(body)
        request.transport.loseConnection()
        return NOT_DONE_YET

    return behave


def hang(request: Request) -> int:
    """Never respond."""
    return NOT_DONE_YET


class _Scripted(Resource):
    isLeaf = True

    def __init__(self, server: ScriptedServer) -> None:
        super().__init__()
        self._server = server

    def render(self, request: Request) -> Any:
        server = self._server
        server.seen.append(
            Seen(
                method=request.method.decode(),
                uri=request.uri.decode(),
                headers={
                    name.decode().lower(): values[-1].decode()
                    for name, values in request.requestHeaders.getAllRawHeaders()
                },
                body=request.content.read(),
            )
        )
        behave = server.script.pop(0) if server.script else server.otherwise
        return behave(request)


class ScriptedServer:
    """
    A scripted server on a local port.

    :ivar script: the behaviours for the next requests, in order.
    :ivar otherwise: the behaviour after the script has ended.
    :ivar seen: the requests that were received.
    """

    def __init__(self, test: Any, *script: Behaviour, context: Any = None) -> None:
        self.script = list(script)
        self.otherwise: Behaviour = answer(500)
        self.seen: list[Seen] = []
        site = Site(_Scripted(self))
        if context is None:
            port = reactor.listenTCP(0, site, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, site, context, interface="127.0.0.1")
        test.addCleanup(port.stopListening)
        self.host = f"127.0.0.1:{port.getHost().port}"
        self.url = f"http://{self.host}"


class RawConnection(Protocol):
    """A connection whose bytes a test reads as they arrive."""

    def __init__(self, server: RawServer) -> None:
        self._server = server
        self.data = b""
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._server.connections.append(self)
        if self._server.paused:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._server.received(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


class RawServer:
    """
    A server that only accepts connections.

    :param received: called with a connection that has received data.
    :param paused: whether it reads nothing.
    """

    def __init__(
        self,
        test: Any,
        received: Callable[[RawConnection], object] = lambda connection: None,
        paused: bool = False,
    ) -> None:
        self.received = received
        self.paused = paused
        self.connections: list[RawConnection] = []
        port = reactor.listenTCP(
            0, Factory.forProtocol(lambda: RawConnection(self)), interface="127.0.0.1"
        )
        test.addCleanup(self._close)
        test.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}"

    async def _close(self) -> None:
        for connection in self.connections:
            connection.transport.abortConnection()
            await connection.lost
