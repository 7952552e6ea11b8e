"""Real servers that misbehave: each accepts connections and does one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure


class Hostile(Factory):
    """
    A server that answers every piece it receives in its own way.

    :param react: called with the connection when something arrives on it.
    :ivar received: all that came, by connection.
    :ivar open: how many connections are open.
    """

    noisy = False

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
        return sum(not connection.lost for connection in self.connections)

    def listen(self) -> tuple[IListeningPort, str]:
        """
        Listen on a free port of this machine.

        :returns: the port, to be closed by the caller, and the server's URL.
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
        """Write this again and again."""
        self.loop = LoopingCall(self.write, data)
        self.loop.clock = self.server.reactor
        self.loop.start(seconds)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def silent(connection: Connection) -> None:
    """Accept and say nothing."""


def hang_up(connection: Connection) -> None:
    """Close without a word."""
    connection.close()


def reset(connection: Connection) -> None:
    """Break the connection."""
    connection.abort()


def garbage(connection: Connection) -> None:
    """Speak something else."""
    connection.write(b"\x00\xff220 smtp.example ESMTP\r\n" * 10)


def drip_head(connection: Connection) -> None:
    """Send headers for ever."""
    if connection.loop is None:
        connection.write(b"HTTP/1.1 200 OK\r\n")
        connection.every(0.02, b"X: y\r\n")


def drip_body(connection: Connection) -> None:
    """Send a body byte by byte."""
    connection.write(HEAD + b"Content-Length: 1000\r\n\r\n")
    connection.every(0.02, b" ")


def endless(connection: Connection) -> None:
    """Send a body without end, as fast as it is taken."""
    connection.write(HEAD + b"\r\n")
    connection.every(0.001, b" " * 16384)


def huge(connection: Connection) -> None:
    """Announce and send a body that is much too long."""
    connection.write(HEAD + b"Content-Length: 10000000\r\n\r\n" + b" " * 10_000_000)


def cut(connection: Connection) -> None:
    """Close before the announced end of the body."""
    connection.write(HEAD + b'Content-Length: 1000\r\n\r\n{"block": true}')
    connection.close()


def bad_chunks(connection: Connection) -> None:
    """Break the chunked coding."""
    connection.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")


def bomb(connection: Connection) -> None:
    """Answer with something compressed that is a thousand times as large."""
    import gzip

    body = gzip.compress(b" " * 50_000_000)
    connection.write(
        HEAD
        + b"Content-Encoding: gzip\r\nContent-Length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )


#: All of them, by name.
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
