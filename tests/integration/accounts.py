"""A daemon whose OAuth and auth servers run in the test process."""

from __future__ import annotations

import atexit
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.policies import WrappingFactory
from twisted.trial.unittest import TestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site

from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.queue import DatabaseQueue
from tests.integration.client import PATIENCE
from tests.support.daemon import Daemon
from tests.support.fakes.oauth import FakeAccount, FakeAuth, FakeOAuth
from tests.support.servers.local import free_port

#: The secret bearer token of the auth server and the daemon.
SECRET = "5ecret-of-the-two-servers"

_WHOLE = ("profile", "profile:write")


@dataclass
class Reply:
    """A response of the daemon."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the only header of this name, or None."""
        values = self.headers.getRawHeaders(name) or []
        if len(values) > 1:
            raise AssertionError(f"{name} is there {len(values)} times")
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, int]:
        """Return the status and the errno of an error; its body must repeat the status."""
        if self.json["code"] != self.status:
            raise AssertionError(f"a {self.status} says {self.json}")
        return self.status, self.json["errno"]


@dataclass
class Place:
    """A daemon, and the ports of its servers."""

    daemon: Daemon
    database_url: str
    oauth_port: int = field(default_factory=free_port)
    auth_port: int = field(default_factory=free_port)
    customs_port: int = field(default_factory=free_port)

    def named(self, value: object) -> object:
        """Return a setting, with the ports of the servers filled in."""
        if not isinstance(value, str):
            return value
        return value.replace("{oauth}", str(self.oauth_port)).replace(
            "{customs}", str(self.customs_port)
        )


#: The running daemon, by the test classes that may share it.
_places: dict[object, Place] = {}


class AccountsCase(TestCase):
    """
    A daemon, which the tests of all classes with the same settings share, and servers
    for this one test.

    :cvar settings: and ``environ``: those of the daemon; ``{oauth}`` and ``{customs}``
        are the ports of these servers.
    :ivar url: of the API that is asked.
    :cvar server: the module of the server that has its database; None for SQLite.
    """

    timeout = 4 * PATIENCE
    server: Any = None
    settings: ClassVar[dict[str, object]] = {}
    environ: ClassVar[dict[str, str]] = {}

    async def setUp(self) -> None:
        self.place = await self._place()
        self.daemon = self.place.daemon
        self.url = self.daemon.web_url
        self.accounts: dict[str, FakeAccount] = {}
        self.oauth, self.auth = FakeOAuth(self.accounts), FakeAuth(self.accounts)
        self._serving: dict[int, Any] = {}
        self.addCleanup(self._close_all)
        self.serve(self.place.oauth_port, self.oauth)
        self.serve(self.place.auth_port, self.auth)

    async def _place(self) -> Place:
        key = (
            self.server,
            *sorted(map(str, self.settings.items())),
            *sorted(self.environ.items()),
        )
        for other in set(_places) - {key}:
            await _places.pop(other).daemon.remove()
        if key not in _places:
            daemon = Daemon(preloaded=True)
            embedded = f"sqlite:///{daemon.directory}/var/profile.db"
            url = self.server.shared().new_database() if self.server else embedded
            place = Place(daemon, url)
            daemon.settings = {
                "identity.driver": "fxa",
                "identity.oauth_url": f"http://127.0.0.1:{place.oauth_port}/v1",
                "identity.auth_url": f"http://127.0.0.1:{place.auth_port}/v1",
                "queue.events_url": "events",
                "queue.updates_url": "updates",
                "uploads.wait": 30,
                "crunch.processes": 1,
                **{name: place.named(value) for name, value in self.settings.items()},
            }
            daemon.environ = {
                "FXPROFILE_SECRET_BEARER_TOKEN": SECRET,
                "FXPROFILE_DATABASE__URL": place.database_url,
                **self.environ,
            }
            await daemon.start()
            atexit.register(daemon.close)
            _places[key] = place
        return _places[key]

    # The servers.

    def serve(self, number: int, what: Resource | Factory) -> None:
        """Serve a resource on a port, instead of the previous one."""
        if number in self._serving:
            raise AssertionError("the port is in use: close() it first")
        factory = Site(what, reactor=reactor) if isinstance(what, Resource) else what
        factory.noisy = False
        # The wrapper closes the connections that daemons keep open.
        self._serving[number] = reactor.listenTCP(
            number, WrappingFactory(factory), interface="127.0.0.1"
        )

    async def close(self, number: int) -> None:
        """Stop listening on a port."""
        port = self._serving.pop(number, None)
        if port is None:
            return
        await maybeDeferred(port.stopListening)
        for connection in list(port.factory.protocols):
            connection.transport.abortConnection()
        while port.factory.protocols:
            await deferLater(reactor, 0.01)

    async def _close_all(self) -> None:
        for number in list(self._serving):
            await self.close(number)

    def account(self, *scopes: str, **details: Any) -> FakeAccount:
        """Return a new user, by default with an e-mail address."""
        token = details.pop("token", secrets.token_hex(32))
        details.setdefault("email", f"{secrets.token_hex(4)}@example.com")
        account = FakeAccount(
            token=token, uid=secrets.token_hex(16), scopes=scopes or _WHOLE, **details
        )
        self.accounts[token] = account
        return account

    # The client.

    async def ask(
        self,
        method: str,
        path: str,
        who: FakeAccount | str | None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """
        Ask the API.

        :param who: an account or a token; None to send no token.
        :param body: bytes, or what JSON can say.
        """
        token = who.token if isinstance(who, FakeAccount) else who
        sent = {} if token is None else {"Authorization": f"Bearer {token}"}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        response = await treq.request(
            method,
            self.url + path,
            headers={**sent, **(headers or {})},
            data=body,
            persistent=False,
            timeout=PATIENCE,
            allow_redirects=False,
        )
        return Reply(response.code, response.headers, await response.content())

    async def profile(self, who: FakeAccount) -> dict[str, Any]:
        """Return the profile of a user."""
        reply = await self.ask("GET", "/v1/profile", who)
        self.assertEqual(reply.status, 200, reply.body)
        return dict(reply.json)

    async def set_name(self, who: FakeAccount, name: str) -> None:
        """Set the display name of a user."""
        reply = await self.ask("POST", "/v1/display_name", who, {"displayName": name})
        self.assertEqual((reply.status, reply.json), (200, {}))

    async def all_of(self, *work: Any) -> list[Any]:
        """Run all of these concurrently, and return their results."""
        return list(
            await gatherResults([Deferred.fromCoroutine(w) for w in work], consumeErrors=True)
        )

    async def until(self, condition: Any, what: str) -> None:
        """Wait until an asynchronous condition holds."""
        deadline = reactor.seconds() + PATIENCE
        while not await condition():
            if reactor.seconds() > deadline:
                raise AssertionError(f"{what}\n{self.daemon.output[-4000:]}")
            await deferLater(reactor, 0.05)

    # The queues.

    def queue(self, name: str) -> DatabaseQueue:
        """Return a queue of the daemon."""
        database = Database(reactor, self.place.database_url, migrate=False, threads=1)
        database.startService()
        self.addCleanup(database.stopService)
        return DatabaseQueue(database, name, 30, None, reactor)

    async def told(self, updates: DatabaseQueue, uid: str) -> int:
        """Return how many updates of a user were sent since the last call."""
        count = 0
        while messages := await updates.receive(max_messages=10, wait=0):
            for message in messages:
                body = json.loads(json.loads(message.body)["Message"])
                self.assertEqual(set(body), {"uid"})
                count += body["uid"] == uid
                await updates.delete(message=message)
        return count


def event(name: str, uid: str, **more: Any) -> str:
    """Return the message of an account event, as the auth server publishes it through SNS."""
    return json.dumps({"Message": json.dumps({"event": name, "uid": uid, **more})})
