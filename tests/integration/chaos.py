"""
A daemon whose every dependency is behind a proxy that injects faults, under a steady load.

``python -m benchmarks.chaos`` runs all cases; ``test_chaos`` runs a few.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import deferLater

from tests.integration import photos
from tests.integration.client import PATIENCE, Client
from tests.integration.cloud import ENVIRON, Cloud
from tests.support.daemon import Daemon
from tests.support.fakes.oauth import FakeAccount, FakeAuth, FakeOAuth, listen
from tests.support.proxy import Fault, FaultProxy
from tests.support.servers import moto
from tests.support.servers.redis import RedisServer

USERS = 16

#: Seconds from the end of a fault until everything must work again.
RECOVERY = 10

#: Seconds without an error after which the service has recovered.
QUIET = 2

#: The status of a request that succeeded.
GOOD = {"upload": 201, "name": 200, "profile": 200, "image": 200, "heartbeat": 200}

#: Seconds between two requests of a kind.
EVERY = {"upload": 0.5, "name": 0.5, "profile": 0.2, "image": 0.2, "heartbeat": 1.0}


@dataclass
class Answer:
    """
    The outcome of a request.

    :ivar began: and ``ended``: times of the reactor, in seconds.
    :ivar status: the HTTP status, or the name of an exception.
    """

    kind: str
    began: float
    ended: float
    status: int | str

    @property
    def is_good(self) -> bool:
        return self.status == GOOD[self.kind]

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Outcome:
    """
    What a fault did.

    :ivar answers: to the requests that were open during the fault.
    :ivar requests_well: seconds from the end of the fault to the end of the last failed request.
    :ivar uploads_settled: seconds from the end of the fault until all uploads that were accepted
        before are ready, failed or replaced.
    :ivar lost: accepted uploads that are not.
    :ivar failed: accepted uploads that failed, although their pictures are good.
    :ivar wrong: users whose avatar is not their newest upload.
    """

    answers: Sequence[Answer]
    requests_well: float
    uploads_settled: float
    lost: Sequence[str] = ()
    failed: Sequence[str] = ()
    wrong: Sequence[str] = ()

    @property
    def recovery(self) -> float:
        return max(self.requests_well, self.uploads_settled)


@dataclass
class Load:
    """
    Uploads, changes of names, reads and heartbeats at a steady rate.

    :ivar accepted: ids of the accepted uploads of each user, in order.
    :ivar pending: accepted uploads that were not seen to be settled.
    """

    daemon: Daemon
    tokens: Sequence[str]
    picture: str
    accepted: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    answers: list[Answer] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)
    _open: dict[Deferred[None], tuple[str, float]] = field(default_factory=dict)
    _uploading: set[str] = field(default_factory=set)
    _stopped: bool = False

    def start(self) -> None:
        """Start the load."""
        self._stopped = False
        photo = photos.jpeg(160, 120)
        self._loops = [
            Deferred.fromCoroutine(self._loop(kind, request))
            for kind, request in {
                "upload": lambda token: self._upload(token, photo),
                "name": lambda token: self._ask(
                    token, "POST", "/v1/display_name", b'{"displayName": "A"}'
                ),
                "profile": lambda token: self._ask(token, "GET", "/v1/profile"),
                "image": lambda token: self._image(),
                "heartbeat": lambda token: self._ask(token, "GET", "/__heartbeat__"),
            }.items()
        ]

    async def stop(self) -> None:
        """Stop the load, and wait for the responses."""
        self._stopped = True
        await gatherResults(self._loops)
        await gatherResults(list(self._open))

    async def _loop(self, kind: str, request: Callable[[str], Awaitable[int | None]]) -> None:
        for token in itertools.cycle(self.tokens):
            if self._stopped:
                return
            done = Deferred.fromCoroutine(self._timed(kind, request(token)))
            if not done.called:
                self._open[done] = (kind, reactor.seconds())
                done.addCallback(lambda _, done=done: self._open.pop(done) and None)
            await deferLater(reactor, EVERY[kind])

    async def _timed(self, kind: str, request: Awaitable[int | None]) -> None:
        began, status = reactor.seconds(), None
        try:
            status = await request
        except Exception as error:
            status = type(error).__name__
        if status is not None:
            self.answers.append(Answer(kind, began, reactor.seconds(), status))

    async def _ask(self, token: str, method: str, path: str, body: bytes | None = None) -> int:
        headers = {"Content-Type": "application/json"} if body else {}
        return (await Client(self.daemon, token).ask(method, path, body, headers))[0]

    async def _image(self) -> int:
        return (await Client(self.daemon).picture(self.picture))[0]

    async def _upload(self, token: str, photo: bytes) -> int | None:
        # The order of uploads is that of the responses only if a user has one at a time.
        if token in self._uploading:
            return None
        self._uploading.add(token)
        try:
            status, answer = await Client(self.daemon, token).upload(photo)
        finally:
            self._uploading.discard(token)
        if status == 201:
            self.accepted[token].append(answer["id"])
            self.pending.add(answer["id"])
        return status

    async def settle(self, ids: Iterable[str]) -> set[str]:
        """Ask for the status of uploads; return those that are still processed."""
        owners = {i: token for token, ids in self.accepted.items() for i in ids}
        left = set()
        for avatar_id in ids:
            try:
                client = Client(self.daemon, owners[avatar_id])
                status, answer = await client.ask("GET", f"/v1/avatar/upload/{avatar_id}")
            except Exception:
                status, answer = 0, None
            if status == 200 and answer["status"] != "processing":
                self.pending.discard(avatar_id)
                if answer["status"] == "failed":
                    self.failed.append(avatar_id)
            else:
                left.add(avatar_id)
        return left

    async def wrong(self) -> list[str]:
        """Return the users whose avatar is not their newest accepted upload."""
        found = []
        for token, ids in self.accepted.items():
            _, avatar = await Client(self.daemon, token).ask("GET", "/v1/avatar")
            # An upload whose response was lost may be newer.
            if avatar["id"] in ids[:-1] or avatar["avatarDefault"]:
                found.append(token)
        return found


class Service:
    """
    A daemon in the combined role.

    :ivar tokens: of its users.
    """

    daemon: Daemon
    tokens: Sequence[str]

    async def start(self) -> None:
        """Start it."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop everything."""
        raise NotImplementedError

    async def load(self) -> Load:
        """Return a load that runs, after its first requests have succeeded."""
        client = Client(self.daemon, self.tokens[0])
        status, answer = await client.upload(photos.jpeg(160, 120), Prefer="wait=30")
        assert (status, answer["status"]) == (201, "ready"), (status, answer)
        # Nobody replaces this one.
        load = Load(self.daemon, self.tokens[1:], answer["url"])
        load.start()
        await deferLater(reactor, QUIET)
        return load

    async def run(self, fault: AbstractAsyncContextManager[None], seconds: float) -> Outcome:
        """
        Inject a fault under load, and return what happened.

        :param seconds: that it lasts.
        """
        load = await self.load()
        began = reactor.seconds()
        async with fault:
            await deferLater(reactor, seconds)
        ended = reactor.seconds()
        well, settled = await self._recover(load, ended)
        await load.stop()
        deadline = reactor.seconds() + PATIENCE
        while load.pending and reactor.seconds() < deadline:
            await load.settle(list(load.pending))
            await deferLater(reactor, 0.2)
        return Outcome(
            [a for a in load.answers if a.ended > began and a.began < ended],
            well,
            settled,
            sorted(load.pending),
            load.failed,
            await load.wrong(),
        )

    async def _recover(self, load: Load, ended: float) -> tuple[float, float]:
        """Return the seconds until no request fails, and until the uploads are settled."""
        left, settled, deadline = set(load.pending), 0.0, ended + PATIENCE
        well = 0.0
        while reactor.seconds() < deadline:
            if left:
                left = await load.settle(left)
                settled = reactor.seconds() - ended
            bad = [a.ended for a in load.answers if not a.is_good]
            well = max(0.0, max(bad, default=ended) - ended)
            if not left and reactor.seconds() - ended > well + QUIET:
                break
            await deferLater(reactor, 0.2)
        return well, settled


class World(Service):
    """
    A daemon, its servers, and a proxy before each.

    :param database: the module of the database server.
    :ivar proxies: by the name of the service.
    """

    def __init__(self, database: Any) -> None:
        self.proxies: dict[str, FaultProxy] = {}
        self.tokens = [f"user{number}" for number in range(USERS)]
        self._database = database.shared().new_database()
        self._name = database.__name__.rpartition(".")[2]
        self._redis = RedisServer()
        self._ports: list[Any] = []
        self.daemon = Daemon(preloaded=True)

    async def start(self) -> None:
        """Start the servers and the daemon."""
        accounts = {
            token: FakeAccount(token, f"{number:032x}", email=f"{token}@example.com")
            for number, token in enumerate(self.tokens)
        }
        self._redis.start()
        cloud = Cloud(moto.shared.reset(), visibility=15)
        fakes = {"oauth": FakeOAuth(accounts), "auth": FakeAuth(accounts)}
        urls = {"oauth_url": "", "auth_url": ""}
        for name, fake in fakes.items():
            port, url = listen(reactor, fake)
            self._ports.append(port)
            urls[f"{name}_url"] = self._proxied(name, f"{url}/v1")
        self.daemon.settings = {
            **cloud.settings,
            **{f"queue.{n}_url": self._proxied("SQS", url) for n, url in cloud.urls.items()},
            **{f"identity.{name}": url for name, url in urls.items()},
            "identity.driver": "fxa",
            "storage.endpoint_url": self._proxied("S3", cloud.url),
            "aws.endpoint_url": "",
            "cache.driver": "redis",
            "cache.url": self._proxied("Redis", self._redis.url()),
            "uploads.per_hour": 0,
            "limits.writes_per_minute": 0,
        }
        del self.daemon.settings["aws.endpoint_url"]
        self.daemon.environ = {
            **ENVIRON,
            "FXPROFILE_DATABASE__URL": self._proxied(self._name, self._database),
        }
        await self.daemon.start()

    async def stop(self) -> None:
        """Stop everything."""
        await self.daemon.remove()
        for proxy in self.proxies.values():
            await proxy.stop()
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        self._redis.remove()

    def _proxied(self, name: str, url: str) -> str:
        """Return a URL with the port of the proxy of a service."""
        port = urlsplit(url).port
        assert port is not None
        if name not in self.proxies:
            self.proxies[name] = FaultProxy(reactor, port)
            self.proxies[name].start()
        return url.replace(f":{port}", f":{self.proxies[name].port}")

    @asynccontextmanager
    async def faults(self, faults: Mapping[str, Fault]) -> AsyncIterator[None]:
        """Inject faults, by the name of the service."""
        for name, fault in faults.items():
            await self.proxies[name].begin(fault)
        try:
            yield
        finally:
            for name in faults:
                self.proxies[name].end()
