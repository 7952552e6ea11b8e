"""Servers that misbehave: each accepts connections and makes one mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure


class Hostile(Factory):
    """
    A server that reacts to everything it receives in one wrong way.

    :param react: called with a connection that has received data.
    :ivar received: the data that was received, in order.
    :ivar paused: whether new connections read nothing.
    """

    noisy = False
    paused = False

    def __init__(self, reactor: Any, react: Callable[[Connection], None]) -> None:
        self.reactor = reactor
        self.react = react
        self.received: list[bytes] = []
        self.connections: list[Connection] = []

    def buildProtocol(self, addr: Any) -> Connection:
        connection = Connection(self)
        self.connections.append(connection)
        return connection

    @property
    def open(self) -> int:
        """The number of open connections."""
        return sum(not connection.lost for connection in self.connections)

    def listen(self) -> tuple[IListeningPort, str]:
        """
        Listen on a free local port.

        :returns: the port, which the caller closes, and the server's URL.
        """
        port = self.reactor.listenTCP(0, self, backlog=512, interface="127.0.0.1")
        return port, f"http://127.0.0.1:{port.getHost().port}"


class Connection(Protocol):
    """One connection of a hostile server."""

    lost = False

    def __init__(self, server: Hostile) -> None:
        self.server = server
        self.loop: LoopingCall | None = None
        self.data = b""

    def connectionMade(self) -> None:
        if self.server.paused:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.server.received.append(data)
        if self.loop is None:
            self.server.react(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        if self.loop is not None and self.loop.running:
            self.loop.stop()

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def every(self, seconds: float, data: bytes) -> None:
        """Write this repeatedly."""
        self.loop = LoopingCall(self.write, data)
        self.loop.clock = self.server.reactor
        self.loop.start(seconds)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def silent(connection: Connection) -> None:
    """Accept the connection and never respond."""


def hang_up(connection: Connection) -> None:
    """Close the connection without a response."""
    connection.close()


def reset(connection: Connection) -> None:
    """Reset the connection."""
    connection.abort()


def garbage(connection: Connection) -> None:
    """Respond with another protocol."""
    connection.write(b"\x00\xff220 smtp.example ESMTP\r\n" * 10)


def drip_head(connection: Connection) -> None:
    """Send headers without end."""
    if connection.loop is None:
        connection.write(b"HTTP/1.1 200 OK\r\n")
        connection.every(0.02, b"X: y\r\n")


def drip_body(connection: Connection) -> None:
    """Send a body slowly, byte by byte."""
    connection.write(HEAD + b"Content-Length: 1000\r\n\r\n")
    connection.every(0.02, b" ")


def endless(connection: Connection) -> None:
    """Send a body without end, as fast as the client reads."""
    connection.write(HEAD + b"\r\n")
    connection.every(0.001, b" " * 16384)


def huge(connection: Connection) -> None:
    """Announce and send a body that is far too long."""
    connection.write(HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 10_000_000)


def cut(connection: Connection) -> None:
    """Close the connection before the announced end of the body."""
    connection.write(HEAD + b'Content-Length: 1000\r\n\r\n{"block": true}')
    connection.close()


def bad_chunks(connection: Connection) -> None:
    """Send an invalid chunk."""
    connection.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


def bomb(connection: Connection) -> None:
    """Send a compressed body that expands a thousand times."""
    import gzip

    body = gzip.compress(b" " * 50_000_000)
    connection.write(
        HEAD
        + b"Content-Encoding: gzip\r\nContent-Length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )


#: All reactions, by name.
ALL: dict[str, Callable[[Connection], None]] = {
    react.__name__: react
    for react in (
        silent,
        hang_up,
        reset,
        garbage,
        drip_head,
        drip_body,
        endless,
        huge,
        cut,
        bad_chunks,
        bomb,
    )
}
