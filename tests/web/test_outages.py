"""What a client gets, and when, while a dependency is down, hangs or is slow."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import directlyProvides, providedBy

from fxprofile.app.roles import add_api, check_cache
from fxprofile.app.services import DATABASE_TIMEOUT, Services
from fxprofile.drivers.aws.s3 import s3_bucket
from fxprofile.drivers.aws.sqs import sqs_queue
from fxprofile.drivers.memory.expiring import MemoryProfileCache, MemoryRateWindows
from fxprofile.drivers.redis.connection import TIMEOUT as REDIS_TIMEOUT
from fxprofile.http_client.connection import Deadlines
from fxprofile.images.resource import make_site
from fxprofile.model.errors import CacheError, StoreError
from fxprofile.serving.channel import PATIENCE
from fxprofile.settings.load import load
from fxprofile.settings.model import Role
from fxprofile.telemetry.metrics import Metrics
from tests.drivers.aws.support import make_client
from tests.serving.wire import Connection
from tests.support.core import JPEG
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import FakeAuth, FakeCustoms, FakeOAuth
from tests.support.fakes.store import MemoryProfileStore

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

#: The longest that a client may wait, and what each response of a slow dependency takes.
LIMIT = 10.0
SLOW = 3.0

STATES = ("down", "hanging", "slow")
STEP = 0.25


class Server(Resource):
    """A server whose responses come late, or never."""

    isLeaf = True

    def __init__(self, world: World, resource: Callable[[Any], bytes]) -> None:
        super().__init__()
        self._world = world
        self._resource = resource
        self.state, self.seconds = "", SLOW

    def render(self, request: Any) -> Any:
        if self.state == "down":
            request.transport.loseConnection()
        if self.state == "slow":
            request.notifyFinish().addErrback(lambda _: None)
            self._world.clock.callLater(self.seconds, self._late, request)
        return self._resource(request) if not self.state else NOT_DONE_YET

    def _late(self, request: Any) -> None:
        if not request._disconnected:
            request.write(self._resource(request))
            request.finish()


class Driver:
    """A driver whose calls fail, or come late."""

    def __init__(self, world: World, inner: Any, timeout: float, error: Exception) -> None:
        self._world, self._inner, self._timeout, self._error = world, inner, timeout, error
        self.state = ""
        directlyProvides(self, providedBy(inner))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(**arguments: Any) -> Any:
            wait = {"hanging": self._timeout, "slow": min(SLOW, self._timeout)}.get(self.state, 0)
            if wait:
                await deferLater(self._world.clock, wait)
            if self.state in ("down", "hanging") or wait == self._timeout:
                raise self._error
            return await attribute(**arguments)

        return call


def s3(request: Any) -> bytes:
    """Respond as S3 to a put; no picture exists."""
    if request.method == b"GET":
        request.setResponseCode(404)
        return b"<Error><Code>NoSuchKey</Code></Error>"
    return b""


def sqs(request: Any) -> bytes:
    """Respond as SQS to a batch of messages."""
    request.content.seek(0)
    sent = []
    for entry in json.loads(request.content.read())["Entries"]:
        digest = hashlib.md5(entry["MessageBody"].encode(), usedforsecurity=False).hexdigest()
        sent.append({"Id": entry["Id"], "MessageId": "1", "MD5OfMessageBody": digest})
    return json.dumps({"Successful": sent, "Failed": []}).encode()


class CapturedServices(Services):
    """Keeps the listener in place of opening it."""

    def listen(self, key: str, description: str, factory: Any) -> None:
        self.site = factory


class World:
    """A web process and an images process on one clock, whose dependencies a test breaks."""

    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        self.clock.advance(1_700_000_000)
        self.servers = {
            "OAuth server": Server(self, FakeOAuth().render),
            "auth server": Server(self, FakeAuth().render),
            "customs server": Server(self, FakeCustoms().render),
            "S3": Server(self, s3),
            "SQS": Server(self, sqs),
        }
        self.agents = {name: MemoryAgent(self.clock, at) for name, at in self.servers.items()}
        self.drivers = {
            "database": self.driver(MemoryProfileStore(), DATABASE_TIMEOUT, StoreError("x")),
            "cache": self.driver(
                MemoryProfileCache(self.clock, ttl=60), REDIS_TIMEOUT, CacheError("x")
            ),
            "windows": self.driver(MemoryRateWindows(self.clock), REDIS_TIMEOUT, CacheError("x")),
        }
        self.settings = load(
            overrides=[
                *("identity.driver=fxa", "storage.driver=s3", "queue.driver=sqs"),
                *("queue.jobs_url=http://sqs.example/1/jobs", "customs.url=http://customs.example"),
                "queue.results_url=http://sqs.example/1/results",
            ],
            environ={},
            role=Role.WEB,
        )
        services = self.services()
        add_api(services)
        self.site = services.site
        images = make_site(
            bucket=self.bucket(self.settings.storage.public_bucket),
            max_age=60,
            clock=self.clock,
            metrics=Metrics(),
        )
        self.front = {
            name: MemoryAgent(self.clock, site)
            for name, site in (("api", services.site), ("images", images))
        }

    def driver(self, inner: Any, timeout: float, error: Exception) -> Driver:
        return Driver(self, inner, timeout, error)

    def bucket(self, name: str) -> Any:
        return s3_bucket(self.settings, make_client(self.clock, agent=self.agents["S3"]), name)

    def services(self) -> CapturedServices:
        client = make_client(self.clock, agent=self.agents["SQS"])
        queue = sqs_queue(
            self.settings,
            client,
            name="jobs",
            url=str(self.settings.queue.jobs_url),
            visibility_timeout=60,
        )
        return CapturedServices(
            self.settings,
            self.clock,
            http=_Routed(self.agents),
            store=self.drivers["database"],
            cache=self.drivers["cache"],
            rate_windows=self.drivers["windows"],
            private_bucket=self.bucket(self.settings.storage.private_bucket),
            jobs_queue=queue,
        )

    def break_(self, name: str, state: str) -> None:
        """Put a dependency into a state."""
        if name in self.servers:
            self.servers[name].state = state
            self.agents[name].is_down = state == "down"
        for driver in {"Redis": ("cache", "windows"), "database": ("database",)}.get(name, ()):
            self.drivers[driver].state = state

    def ask(
        self,
        site: str,
        method: str,
        path: str,
        *,
        prefer: bytes = b"respond-async",
        kind: bytes = b"image/jpeg",
        body: bytes = JPEG,
    ) -> tuple[str, float]:
        """Return the status and the errno of a response, and the seconds that it took."""
        headers = [
            *((b"Authorization", b"Bearer alice"), (b"Content-Type", kind), (b"Prefer", prefer)),
        ]
        body = body if method == "POST" else b""
        began = self.clock.seconds()
        patient = Deadlines(head=60, progress=60)
        sent = self.front[site].send(
            method.encode(), f"http://a.example{path}".encode(), headers, body, deadlines=patient
        )
        outcome: list[Any] = []
        sent.addBoth(outcome.append)
        while not outcome and self.clock.seconds() - began < 2 * LIMIT:
            self.clock.advance(STEP)
            for agent in (*self.agents.values(), *self.front.values()):
                agent.flush()
        seconds = self.clock.seconds() - began
        if not outcome:
            return "nothing", seconds
        read: list[bytes] = []
        Deferred.fromCoroutine(outcome[0].read(1 << 20)).addCallback(read.append)
        errno = re.search(rb'"errno": (\d+)', read[0])
        return f"{outcome[0].status}{'/' + errno[1].decode() if errno else ''}", seconds


class _Routed:
    """An agent that sends each request to the server that its URL names."""

    def __init__(self, agents: dict[str, MemoryAgent]) -> None:
        self._agents = agents

    def send(self, method: bytes, url: bytes, *args: Any, **kwargs: Any) -> Any:
        name = "auth server"
        if b"customs" in url:
            name = "customs server"
        elif url.endswith(b"/verify"):
            name = "OAuth server"
        return self._agents[name].send(method, url, *args, **kwargs)


#: What is asked while a dependency is broken.
CASES = (
    ("OAuth server", "api", "GET", "/v1/uid"),
    ("auth server", "api", "GET", "/v1/email"),
    ("auth server", "api", "GET", "/v1/profile"),
    ("customs server", "api", "POST", "/v1/avatar/upload"),
    ("S3", "api", "POST", "/v1/avatar/upload"),
    ("S3", "images", "GET", "/a/" + "1" * 32),
    ("SQS", "api", "POST", "/v1/avatar/upload"),
    ("SQS", "api", "DELETE", "/v1/avatar"),
    ("database", "api", "GET", "/v1/profile"),
    ("database", "api", "POST", "/v1/avatar/upload"),
    ("database", "api", "DELETE", "/v1/avatar"),
    ("Redis", "api", "GET", "/v1/profile"),
    ("Redis", "api", "POST", "/v1/avatar/upload"),
)


class OutageTests(SynchronousTestCase):
    """Broken dependencies of a web and of an images process."""

    def ask(self, case: tuple[str, str, str, str], state: str, **options: Any) -> tuple[str, float]:
        name, site, method, path = case
        world = World()
        if method == "DELETE":
            self.assertEqual(world.ask("api", "POST", "/v1/avatar/upload")[0], "201")
        world.break_(name, state)
        status, seconds = world.ask(site, method, path, **options)
        self.assertLess(seconds, LIMIT, f"{case} {state}")
        return status, seconds

    def row(self, case: tuple[str, str, str, str]) -> str:
        name, _, method, path = case
        answers = [self.ask(case, state) for state in STATES]
        cells = [
            f"{status}, {seconds:g} s" if seconds > STEP else f"{status} at once"
            for status, seconds in answers
        ]
        request = f"{method} {path.replace('1' * 32, '{id}')}"
        return f"| {name} | `{request}` | {' | '.join(cells)} |"

    def test_every_outage_is_answered_as_documented(self) -> None:
        """A client has the documented response in ten seconds, whatever dependency is broken."""
        text = OPERATIONS.read_text()
        rows = [self.row(case) for case in CASES]
        missing = [row for row in rows if row not in text]
        self.assertEqual(missing, [], "\n".join(["the table in docs/operations.md:", *rows]))

    def test_a_client_that_waits_for_the_result_is_answered_in_time(self) -> None:
        """An upload that waits for its image is answered in ten seconds, too."""
        for case in CASES:
            if case[2] == "POST":
                for state in STATES:
                    self.ask(case, state, prefer=b"")

    def test_several_outages_are_answered_in_time(self) -> None:
        """A read and a write are answered in ten seconds, if several dependencies fail at once."""
        for method, path in (
            *(("GET", "/v1/profile"), ("POST", "/v1/profile"), ("DELETE", "/v1/avatar")),
            ("POST", "/v1/display_name"),
        ):
            world = World()
            world.break_("OAuth server", "slow")
            world.servers["OAuth server"].seconds = 4.5
            for name in ("database", "Redis", "SQS"):
                world.break_(name, "hanging")
            status, seconds = world.ask(
                "api", method, path, kind=b"application/json", body=b'{"displayName": "x"}'
            )
            self.assertEqual(status, "503/106", path)
            self.assertLess(seconds, LIMIT, path)

    def test_slow_transactions_one_after_the_other_are_answered_in_time(self) -> None:
        """A request that makes several slow transactions is answered in ten seconds."""
        self.ask(("database", "api", "GET", "/v1/avatar"), "slow")

    def test_heartbeat_names_an_unreachable_cache(self) -> None:
        """The heartbeat names Redis if it is away, and passes: the service works without it."""
        world = World()
        for state, text in (("", None), ("down", "unreachable"), ("", None)):
            world.break_("Redis", state)
            checked: list[object] = []
            checking = Deferred.fromCoroutine(check_cache(world.services()))
            checking.addCallback(checked.append)
            self.assertEqual(checked, [text], state)

    def test_slow_bodies_are_no_outage(self) -> None:
        """A form or JSON that comes too slowly is 408, and is not blamed on a dependency."""
        for path, kind, token in (
            ("/v1/profile", "application/x-www-form-urlencoded", {}),
            ("/v1/display_name", "application/json", {"Authorization": "Bearer alice"}),
        ):
            world = World()
            client = Connection(world.site)
            client.request(path, "POST", Content_Type=kind, Content_Length="100", **token)
            for _ in range(PATIENCE):
                self.assertEqual(client.wire.value(), b"", path)
                client.send(b"a")
                world.clock.advance(1)
                world.agents["OAuth server"].flush()
            self.assertEqual(client.answer().status, 408, path)
            client.lose()
