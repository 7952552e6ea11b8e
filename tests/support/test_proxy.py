"""Tests of :mod:`tests.support.proxy`."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.wire import Echo
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.support.proxy import Fault, FaultProxy


class Caller(Protocol):
    """A client that waits for data, and for the end."""

    def __init__(self) -> None:
        self.received = b""
        self.arrived: Deferred[None] = Deferred()
        self.end: Deferred[type] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        arrived, self.arrived = self.arrived, Deferred()
        arrived.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end.callback(reason.type)


class EchoOnce(Echo):
    """A server that closes the connection behind its response, as HTTP/1.0 does."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.loseConnection()


class FaultProxyTests(TestCase):
    """A proxy before a server that echoes."""

    timeout = 20

    def setUp(self) -> None:
        echo = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
        self.proxy = FaultProxy(reactor, echo.getHost().port)
        self.proxy.start()
        self.addCleanup(maybeDeferred, echo.stopListening)
        self.addCleanup(self._gone)

    async def _gone(self) -> None:
        await self.proxy.stop()
        while self.proxy.sides:
            await deferLater(reactor, 0.01)

    async def connected(self) -> Caller:
        """Return a connection through the proxy that has echoed a word."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.proxy.port)
        caller = await connectProtocol(endpoint, Caller())
        caller.transport.write(b"hello ")
        if self.proxy.fault is None:
            await caller.arrived
        return caller

    async def test_cut(self) -> None:
        """A cut closes connections and refuses new ones, until it ends."""
        caller = await self.connected()
        await self.proxy.begin(Fault.CUT)
        self.assertIn(await caller.end, (ConnectionDone, ConnectionLost))
        with self.assertRaises(ConnectionRefusedError):
            await self.connected()
        self.proxy.end()
        self.assertEqual((await self.connected()).received, b"hello ")

    async def test_hang(self) -> None:
        """Pieces that are sent during a hang arrive in order after its end, on any connection."""
        old = await self.connected()
        await self.proxy.begin(Fault.HANG)
        new = await self.connected()
        old.transport.write(b"world")
        await deferLater(reactor, 0.1)
        self.assertEqual((old.received, new.received), (b"hello ", b""))
        self.proxy.end()
        await old.arrived
        while not new.received:
            await deferLater(reactor, 0.01)
        self.assertEqual((old.received, new.received), (b"hello world", b"hello "))

    async def test_slow(self) -> None:
        """Slow pieces arrive, although the server closes the connection at once."""
        server = reactor.listenTCP(0, Factory.forProtocol(EchoOnce), interface="127.0.0.1")
        self.addCleanup(maybeDeferred, server.stopListening)
        self.proxy.server = server.getHost().port
        await self.proxy.begin(Fault.SLOW)
        caller = await self.connected()
        await caller.end
        self.assertEqual(caller.received, b"hello ")
        self.proxy.end()

    async def test_reset(self) -> None:
        """Data resets its connection."""
        caller = await self.connected()
        await self.proxy.begin(Fault.RESET)
        caller.transport.write(b"world")
        self.assertIs(await caller.end, ConnectionLost)

    async def test_corrupt(self) -> None:
        """The beginning of a piece from the server is damaged."""
        caller = await self.connected()
        await self.proxy.begin(Fault.CORRUPT)
        caller.transport.write(b"world, and more than 16 bytes")
        await caller.arrived
        piece = caller.received.removeprefix(b"hello ")
        self.assertTrue(piece.endswith(b"16 bytes"))
        self.assertNotIn(b"world", piece)
