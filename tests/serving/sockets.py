"""TCP clients of a site on the loopback interface."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from fxprofile.serving.channel import StreamingSite

#: Seconds after which a test gives up on something that should have happened at once.
SOON = 60


async def until(condition: Callable[[], object], clock: Clock | None = None) -> None:
    """
    Let the reactor run until something is so.

    :param clock: is advanced meanwhile, a little at a time.
    """
    deadline = reactor.seconds() + SOON
    while not condition():
        assert reactor.seconds() < deadline, "it never came true"
        await deferLater(reactor, 0.002)
        if clock is not None:
            clock.advance(0.01)


class Client(Protocol):
    """
    A client over TCP.

    :ivar received: all that came.
    :ivar lost: why the connection ended, if it has.
    """

    def __init__(self) -> None:
        self.received = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    @property
    def reset(self) -> bool:
        """Whether the connection ended with a TCP reset."""
        return self.lost is not None and self.lost.check(ConnectionLost) is not None

    async def get(self, size: int) -> bytes:
        """Wait for this many bytes, and remove them from the received ones."""
        await until(lambda: len(self.received) >= size or self.lost)
        data, self.received = self.received[:size], self.received[size:]
        return data

    async def answer(self) -> tuple[bytes, bytes]:
        """Wait for a response with a Content-Length, and return its head and its body."""
        await until(lambda: b"\r\n\r\n" in self.received or self.lost)
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await self.get(length)

    async def end(self) -> bytes:
        """Wait for the end of the connection, and return everything received."""
        await until(lambda: self.lost)
        return self.received


class LoopbackCase(TestCase):
    """A test with sites on the loopback interface."""

    async def listen(self, site: StreamingSite, send_buffer: int | None = None) -> int:
        """
        Open a site.

        :param send_buffer: how many bytes the kernel keeps for each connection, about.
        :returns: the port.
        """
        port: Any = reactor.listenTCP(0, site, backlog=512, interface="127.0.0.1")
        if send_buffer is not None:
            port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

        async def close() -> None:
            await port.stopListening()
            site.abort_all()
            await until(lambda: not site.channels)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        number: int = port.getHost().port
        return number

    async def connect(self, port: int) -> Client:
        """Open a connection."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        client: Client = await connectProtocol(endpoint, Client())

        async def close() -> None:
            if client.lost is None:
                client.transport.abortConnection()
                await until(lambda: client.lost)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return client


def buffered(site: StreamingSite) -> int:
    """Return how many unsent bytes the connections of a site buffer in this process."""
    return sum(
        len(channel.transport.dataBuffer)
        - channel.transport.offset
        + channel.transport._tempDataLen
        for channel in site.channels
    )
