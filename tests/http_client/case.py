"""Tests over real connections to servers in this process that misbehave."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fxprofile.http_client.agent import HttpAgent
from tests.support.servers.hostile import Connection, Hostile


async def settle(condition: Callable[[], object]) -> None:
    """Wait until a condition holds; the timeout of the test is the limit."""
    while not condition():
        await deferLater(reactor, 0.005)


class HttpCase(TestCase):
    """An agent, and servers in this process."""

    timeout = 20

    def setUp(self) -> None:
        self.agent = HttpAgent(reactor)
        # A test may replace it.
        self.addCleanup(lambda: self.agent.stopService())

    def serve_hostile(self, react: Callable[[Connection], None]) -> tuple[Hostile, str]:
        """Return a server whose connections react to their requests, and its URL."""
        server = Hostile(reactor, react)
        port, url = server.listen()

        async def close() -> None:
            await port.stopListening()
            for connection in server.connections:
                if not connection.lost:
                    connection.abort()
            await settle(lambda: server.open == 0)

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return server, url
