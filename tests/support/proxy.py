"""A TCP proxy that injects faults between a daemon and a server."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.support.servers.local import free_port

#: Seconds by which :attr:`Fault.SLOW` delays each piece, in each direction.
DELAY = 0.5


class Fault(Enum):
    """What a proxy does in place of forwarding."""

    #: Close all connections, and refuse new ones.
    CUT = "cut"
    #: Accept connections and forward nothing until the fault ends, as a lost route does.
    HANG = "hang"
    #: Deliver each piece late.
    SLOW = "slow"
    #: Reset each connection, old or new, when data arrives.
    RESET = "reset"
    #: Invert the first bytes of each piece that the server sends.
    CORRUPT = "corrupt"


class FaultProxy(Factory):
    """
    Forwards the connections of a local port to a server, except during a fault.

    :param server: port of the server on this host.
    :ivar port: to connect to.
    """

    noisy = False

    def __init__(self, reactor: Any, server: int) -> None:
        self.reactor = reactor
        self.server = server
        self.port = free_port()
        self.fault: Fault | None = None
        self.sides: set[_Side] = set()
        self.timers: list[Any] = []
        self._listener: Any = None

    def start(self) -> None:
        """Listen."""
        self._listener = self.reactor.listenTCP(self.port, self, backlog=512, interface="127.0.0.1")

    async def stop(self) -> None:
        """Close the listener and all connections."""
        if self._listener is not None:
            await maybeDeferred(self._listener.stopListening)
            self._listener = None
        for side in list(self.sides):
            side.transport.abortConnection()

    async def begin(self, fault: Fault) -> None:
        """Start a fault."""
        self.fault = fault
        if fault is Fault.CUT:
            await self.stop()

    def end(self) -> None:
        """End the fault, and deliver what it has held."""
        self.fault = None
        timers, self.timers = self.timers, []
        for timer in timers:
            if timer.active():
                timer.cancel()
        if self._listener is None:
            self.start()
        for side in list(self.sides):
            side.deliver_all()

    def buildProtocol(self, addr: Any) -> _Side:
        client, server = _Side(self, False), _Side(self, True)
        client.peer, server.peer = server, client
        endpoint = HostnameEndpoint(self.reactor, b"127.0.0.1", self.server)
        connectProtocol(endpoint, server).addErrback(lambda _: client.transport.abortConnection())
        return client


@implementer(IPushProducer)
class _Side(Protocol):
    """
    One of the two connections of a proxied connection.

    :ivar held: pieces for its other end that are not delivered yet; None is the end.
    """

    peer: _Side

    def __init__(self, proxy: FaultProxy, is_server: bool) -> None:
        self._proxy = proxy
        self._is_server = is_server
        self.held: deque[bytes | None] = deque()

    def connectionMade(self) -> None:
        self._proxy.sides.add(self)
        if self._is_server:
            self.transport.registerProducer(self.peer, True)
            self.peer.transport.registerProducer(self, True)
            if self._proxy.fault not in (Fault.HANG, Fault.SLOW):
                self.deliver_all()

    def dataReceived(self, data: bytes) -> None:
        fault = self._proxy.fault
        if fault is Fault.RESET:
            self.transport.abortConnection()
            self.peer.abort()
        elif fault is Fault.CORRUPT and self._is_server:
            self.peer.send(bytes(byte ^ 0xFF for byte in data[:16]) + data[16:])
        else:
            self.peer.send(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._proxy.sides.discard(self)
        self.peer.send(None)

    def pauseProducing(self) -> None:
        """Stop reading while the other end is full."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the end of the other connection comes after the pieces that are held."""

    def send(self, piece: bytes | None) -> None:
        """Deliver a piece to the other end, now or later."""
        self.held.append(piece)
        if self._proxy.fault is Fault.SLOW:
            self._proxy.timers.append(self._proxy.reactor.callLater(DELAY, self._deliver))
        elif self._proxy.fault is not Fault.HANG and self.transport is not None:
            self.deliver_all()

    def deliver_all(self) -> None:
        """Deliver all that is held."""
        while self.held:
            self._deliver()

    def abort(self) -> None:
        """Reset the connection, if it has been made."""
        if self.transport is not None:
            self.transport.abortConnection()

    def _deliver(self) -> None:
        if not self.held or self.transport is None:
            return
        piece = self.held.popleft()
        if piece is None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            self.transport.write(piece)
