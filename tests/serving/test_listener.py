"""Tests of :mod:`fxprofile.serving.listener`: how a listener starts and stops."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock

from fxprofile.model.errors import ConfigError
from fxprofile.serving.channel import StreamingRequest, StreamingSite
from fxprofile.serving.connections import RESERVE, ConnectionLimits
from fxprofile.serving.listener import GRACE, PAUSE, Listener
from fxprofile.telemetry.metrics import Metrics
from tests.serving.resources import Handled, Handler, read_all
from tests.serving.sockets import Client, LoopbackCase, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Endpoint(TCP4ServerEndpoint):
    """
    A port of the loopback interface.

    :ivar port: what is open.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(reactor, port, interface="127.0.0.1")

    async def _note(self, listening: Deferred[Any]) -> Any:
        self.port = await listening
        return self.port

    def listen(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._note(super().listen(factory)))


class ListenerTests(LoopbackCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wait = Deferred[bytes]()

    async def slowly(self, request: StreamingRequest) -> bytes:
        return await self.wait

    async def start(self, handler: Handler, limits: ConnectionLimits | None = None) -> Client:
        """Open a listener, and a connection to it."""
        self.resource = Handled(handler)
        self.site = StreamingSite(self.resource, reactor=self.clock, limits=limits)
        self.endpoint = Endpoint()
        self.listener = Listener(
            endpoint=self.endpoint, site=self.site, clock=self.clock, where="test.listen"
        )
        self.listener.startService()
        await self.listener.ready()
        self.addCleanup(self.stopped)
        client = await self.connect_again()
        await until(lambda: self.site.channels)
        return client

    async def connect_again(self) -> Client:
        return await self.connect(self.endpoint.port.getHost().port)

    def stop(self) -> Deferred[None]:
        self.stopping = self.listener.stopService()
        return self.stopping

    async def stopped(self) -> None:
        """Wait until the listener has stopped, and check that it has no connections."""
        if self.listener.running:
            self.stop()
        await until(lambda: self.stopping.called, self.clock)
        await until(lambda: not self.site.channels)

    async def test_idle_connections_are_closed(self) -> None:
        """Idle connections are closed immediately and without a reset."""
        client = await self.start(read_all)
        client.transport.write(GET)
        await client.answer()
        self.stop()
        await until(lambda: self.stopping.called, self.clock)
        self.assertLess(self.clock.seconds(), GRACE)
        await client.end()
        self.assertFalse(client.reset)

    async def test_stop_refuses_new_connections(self) -> None:
        """A stopping listener refuses new connections, and answers the requests in flight."""
        client = await self.start(self.slowly)
        client.transport.write(GET)
        await until(lambda: self.resource.requests)
        self.stop()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect_again()
        self.wait.callback(b"done")
        head, body = await client.answer()
        self.assertEqual(body, b"done")
        self.assertIn(b"Connection: close", head)
        await self.stopped()
        self.assertFalse(client.reset)

    async def test_stop_finishes_responses(self) -> None:
        """A response that is being read is not truncated by a stop."""
        size = 16 << 20
        client = await self.start(self.slowly)
        client.transport.write(GET)
        await until(lambda: self.resource.requests)
        client.transport.pauseProducing()
        self.wait.callback(bytes(size))
        self.stop()
        await until(lambda: self.site.stopping)
        self.clock.advance(GRACE / 2)
        self.assertFalse(self.stopping.called)
        client.transport.resumeProducing()
        self.assertEqual(len((await client.answer())[1]), size)
        await self.stopped()
        self.assertFalse(client.reset)

    async def test_stop_is_bounded(self) -> None:
        """Connections that are still open after the grace period are aborted."""
        client = await self.start(self.slowly)
        client.transport.write(GET)
        await until(lambda: self.resource.requests)
        self.stop()
        await until(lambda: self.site.stopping)
        self.clock.advance(GRACE - 1)
        await until(iter((False,) * 5 + (True,)).__next__)
        self.assertFalse(self.stopping.called)
        self.clock.advance(1)
        await self.stopped()
        await client.end()
        self.assertTrue(client.reset)
        self.assertIsInstance(self.resource.problems[0], CancelledError)

    async def test_stop_without_connections(self) -> None:
        """A listener without connections stops immediately."""
        client = await self.start(read_all)
        client.transport.loseConnection()
        await until(lambda: not self.site.channels)
        await self.stop()

    def limits(self, **more: Any) -> ConnectionLimits:
        return ConnectionLimits(clock=self.clock, metrics=Metrics(), listener="api", **more)

    async def test_accepting_pauses(self) -> None:
        """While descriptors run low, connections wait, and are accepted a second later."""
        left = RESERVE
        limits = self.limits(left=lambda: left)
        client = await self.start(read_all, limits)
        left = 0
        refused = await self.connect_again()
        await refused.end()
        left = RESERVE
        waiting = await self.connect_again()
        waiting.transport.write(GET)
        await until(iter((False,) * 20 + (True,)).__next__)
        self.assertEqual(len(self.site.channels), 1)
        self.clock.advance(PAUSE)
        await waiting.answer()
        client.transport.loseConnection()

    async def test_stop_while_paused(self) -> None:
        """A listener that stops while accepting is paused leaves no timer."""
        limits = self.limits()
        await self.start(read_all, limits)
        timers = len(self.clock.getDelayedCalls())
        for _ in range(2):
            limits.pause()
            self.assertEqual(len(self.clock.getDelayedCalls()), timers + 1)
        self.stop()
        await self.stopped()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_address_in_use(self) -> None:
        """An address in use is a ConfigError whose one line names the setting."""
        await self.start(read_all)
        second = Listener(
            endpoint=Endpoint(self.endpoint.port.getHost().port),
            site=StreamingSite(self.resource, reactor=self.clock),
            clock=self.clock,
            where="other.listen",
            description="tcp:0",
        )
        second.startService()
        with self.assertRaisesRegex(ConfigError, r"\Aother\.listen: cannot listen at tcp:0: .+\Z"):
            await second.ready()
        await second.stopService()

    async def test_invalid_port(self) -> None:
        """A port that cannot exist is a ConfigError that check() raises at once."""
        listener = Listener(
            endpoint=Endpoint(65536),
            site=StreamingSite(Handled(read_all), reactor=self.clock),
            clock=self.clock,
            where="test.listen",
            description="tcp:65536",
        )
        listener.privilegedStartService()
        with self.assertRaisesRegex(ConfigError, r"\Atest\.listen: cannot listen at tcp:65536: "):
            listener.check()
        await listener.stopService()

    async def test_port_opens_once(self) -> None:
        """The port is opened by privilegedStartService(), and not again by startService()."""
        endpoint = Endpoint()
        listener = Listener(
            endpoint=endpoint,
            site=StreamingSite(Handled(read_all), reactor=self.clock),
            clock=self.clock,
            where="test.listen",
        )
        listener.privilegedStartService()
        first = endpoint.port
        listener.startService()
        await listener.ready()
        self.assertIs(endpoint.port, first)
        await listener.stopService()

    async def test_stopped_before_it_is_open(self) -> None:
        """A listener that is stopped before it is open does not open."""

        class Never:
            opening: Deferred[Any] = Deferred()

            def listen(self, factory: object) -> Deferred[Any]:
                return self.opening

        never = Never()
        listener = Listener(
            endpoint=never,  # type: ignore[arg-type]
            site=StreamingSite(Handled(read_all), reactor=self.clock),
            clock=self.clock,
            where="test.listen",
        )
        listener.startService()
        await listener.stopService()
        self.assertTrue(never.opening.called)
