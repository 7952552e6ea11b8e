"""The HTTP client, connected in memory to a resource."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.web.resource import Resource
from twisted.web.server import Site

from fxprofile.http_client.agent import HttpAgent


class MemoryAgent(HttpAgent):
    """
    An agent whose requests all go to one resource, whatever their URL.

    :param clock: of the agent's deadlines.
    :param resource: or the protocol factory of a whole server.
    :ivar connections: how many were made.
    :ivar is_down: whether connections are refused.
    """

    def __init__(self, clock: Clock, resource: Resource | Factory) -> None:
        super().__init__(clock, endpoints=self)
        is_server = isinstance(resource, Factory)
        self._site = resource if is_server else Site(resource, reactor=Clock())
        self._pumps: list[IOPump] = []
        self.connections = 0
        self.is_down = False

    def endpointForURI(self, uri: object) -> MemoryAgent:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.is_down:
            return fail(ConnectionRefusedError())
        self.connections += 1
        address = IPv4Address("TCP", "127.0.0.1", 80)
        client, server = factory.buildProtocol(address), self._site.buildProtocol(address)
        near = FakeTransport(client, False, address, address)
        far = FakeTransport(server, True, address, address)
        self._pumps.append(connect(server, far, client, near, greet=False))
        return succeed(client)

    def send(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        response = super().send(*args, **kwargs)
        self.flush()
        return response

    def flush(self) -> None:
        """Pass on what either side has sent."""
        while any(pump.flush() for pump in list(self._pumps)):
            pass
        self._pumps = [pump for pump in self._pumps if not pump.clientIO.disconnected]
