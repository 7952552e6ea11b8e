"""The API with in-memory drivers, behind a real socket."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Mapping
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from fxprofile.drivers.dev.identity import DevIdentity
from fxprofile.drivers.fxa.customs import Customs
from fxprofile.drivers.memory.expiring import MemoryProfileCache, MemoryRateWindows
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Variant
from fxprofile.model.messages import Result, ResultStatus
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.profiles.monogram import Monograms
from fxprofile.profiles.read import Profiles
from fxprofile.serving.health import Health
from fxprofile.settings.model import DevAccount
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.overload import LoadShedder
from fxprofile.uploads.selection import Selection
from fxprofile.web.api import Api
from fxprofile.web.avatar import AvatarEndpoints
from fxprofile.web.dockerflow import Dockerflow
from fxprofile.web.limits import RateLimiter
from fxprofile.web.openapi import OpenApi
from fxprofile.web.profile import ProfileEndpoints
from fxprofile.web.upload import UploadAdmission, UploadEndpoints
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.store import MemoryProfileStore
from tests.web import conformance

ALICE = "a" * 32
BOB = "b" * 32

#: As much of an image as the intake looks at.
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + bytes(100)

VARIANTS = {
    "default": Variant(200, 150, 1000),
    "small": Variant(100, 75, 500),
    "large": Variant(600, 450, 5000),
}

_FULL = ("profile", "profile:write")


def account(token: str, uid: str, *scopes: str) -> DevAccount:
    return DevAccount(
        token=token,
        uid=uid,
        email=f"{token}@example.com",
        scopes=scopes or _FULL,
        locale="en",
        amr_values=("pwd", "otp"),
        two_factor=True,
    )


class ApiCase(TestCase):
    """
    A test of the API.

    :cvar writes_per_minute: the setting.
    :cvar per_hour: and ``max_pending``, ``wait``, ``max_bytes``: settings of uploads.
    :cvar secret: the secret bearer token.
    """

    per_hour = 0
    writes_per_minute = 0
    max_pending = 1000
    wait = 0.0
    max_bytes = 10_000
    secret: str | None = None

    def setUp(self) -> None:
        self.metrics = Metrics()
        self.store = MemoryProfileStore()
        self.private = MemoryBucket(reactor)
        self.jobs = self.queue("jobs")
        self.cache = MemoryProfileCache(reactor, ttl=60)
        self.updates = self.queue("updates")
        outbox = Outbox(jobs=self.jobs, store=self.store, clock=reactor)
        invalidator = ProfileInvalidator(
            cache=self.cache, updates=self.updates, metrics=self.metrics, clock=reactor
        )
        self.selection = Selection(
            store=self.store,
            outbox=outbox,
            invalidator=invalidator,
            metrics=self.metrics,
            clock=reactor,
        )
        self.intake = Intake(
            private=self.private,
            store=self.store,
            outbox=outbox,
            invalidator=invalidator,
            clock=reactor,
        )
        self.identity = self.make_identity()
        self.health = Health(reactor)
        profiles = Profiles(
            identity=self.identity,
            store=self.store,
            cache=self.cache,
            invalidator=invalidator,
            metrics=self.metrics,
            clock=reactor,
            image_template="http://images.example/a/{id}",
            monograms=Monograms(
                store=self.store,
                invalidator=invalidator,
                metrics=self.metrics,
                url="http://api.example/v1/avatar/",
            ),
        )
        shedder = LoadShedder(
            store=self.store,
            metrics=self.metrics,
            clock=reactor,
            max_pending=self.max_pending,
            max_pending_per_user=3,
            max_age=20,
            room=self.room,
        )
        admission = UploadAdmission(
            limiter=self.limiter("upload", self.per_hour, 3600), customs=self.customs()
        )
        self.api = Api(
            identity=self.identity,
            metrics=self.metrics,
            clock=reactor,
            secret=self.secret or "",
            cors_headers=("x-one", "x-two"),
            writes=self.limiter("write", self.writes_per_minute, 60),
            address_depth=1,
        )
        self.api.add(
            UploadEndpoints(
                intake=self.intake,
                selection=self.selection,
                store=self.store,
                identity=self.identity,
                shedder=shedder,
                admission=admission,
                metrics=self.metrics,
                clock=reactor,
                max_bytes=self.max_bytes,
                wait=self.wait,
                image_template="http://images.example/a/{id}",
                address_depth=1,
            )
        )
        self.api.add(AvatarEndpoints(profiles=profiles, selection=self.selection, monograms=True))
        self.api.add(
            ProfileEndpoints(
                profiles=profiles, invalidator=invalidator, started=1_000_000_000, clock=reactor
            )
        )
        self.api.add(Dockerflow(health=self.health))
        self.api.add(OpenApi(self.api, public_url="http://api.example"))
        self.site = self.api.site()
        self.port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(self._close)
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"

    def limiter(self, name: str, limit: int, seconds: int) -> RateLimiter:
        return RateLimiter(
            windows=MemoryRateWindows(reactor),
            metrics=self.metrics,
            name=name,
            limit=limit,
            seconds=seconds,
        )

    def customs(self) -> Customs | None:
        return None

    async def room(self) -> float:
        """Return how many bytes uploads may still take."""
        return math.inf

    def accounts(self) -> tuple[DevAccount, ...]:
        return (account("alice", ALICE), account("bob", BOB))

    def make_identity(self) -> DevIdentity:
        return DevIdentity(self.accounts())

    def queue(self, name: str) -> MemoryQueue:
        return MemoryQueue(name, visibility_timeout=60, max_receives=5, clock=reactor)

    async def _close(self) -> None:
        await self.port.stopListening()
        self.site.abort_all()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "alice",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """Send a request on a connection of its own; the response must be as documented."""
        given = {"Connection": "close", **(headers or {})}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        response = await treq.request(
            method,
            self.url + path,
            headers=given,
            data=body,
            persistent=False,
            allow_redirects=False,
            timeout=20,
        )
        reply = Reply(response, await response.content())
        conformance.check(self.api, method, path, reply)
        return reply

    async def upload(
        self,
        body: bytes = JPEG,
        *,
        token: str | None = "alice",
        content_type: str | None = "image/jpeg",
        **headers: str,
    ) -> Reply:
        given = {k.replace("_", "-"): v for k, v in headers.items()}
        if content_type is not None:
            given["Content-Type"] = content_type
        return await self.ask("POST", "/v1/avatar/upload", token=token, headers=given, body=body)

    async def avatar_of(self, token: str = "alice") -> str:
        """Upload an avatar, finish it, and return its id."""
        avatar_id = (await self.upload(token=token)).json["id"]
        await self.finish(avatar_id)
        return avatar_id

    async def finish(self, avatar_id: str, placeholder: str | None = None) -> None:
        """Apply the result of an image that a worker has processed."""
        result = Result(avatar_id, ResultStatus.READY, variants=VARIANTS, placeholder=placeholder)
        await self.selection.apply(result)

    async def fail(self, avatar_id: str, reason: str) -> None:
        """Apply the result of an image that a worker could not process."""
        await self.selection.apply(Result(id=avatar_id, status=ResultStatus.FAILED, reason=reason))

    def raw(self, *pieces: bytes, timeout: float = 10, hold: bool = False) -> Any:
        """
        Send bytes on a socket, and give all that comes back until the other end closes.

        :param hold: keep the sending side open.
        """

        def talk_in_thread() -> bytes:
            address = ("127.0.0.1", self.port.getHost().port)
            with socket.create_connection(address, timeout=timeout) as connection:
                for piece in pieces:
                    connection.sendall(piece)
                if not hold:
                    connection.shutdown(socket.SHUT_WR)
                received = b""
                while True:
                    piece = connection.recv(65536)
                    if not piece:
                        return received
                    received += piece

        return deferToThread(talk_in_thread)


class Reply:
    """A response and its body."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status = response.code
        self.phrase = response.phrase
        self.headers = response.headers
        self.body = body

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)
