"""
Fake OAuth, auth and customs servers.

Each is a resource: ``MemoryAgent`` sends requests to it in memory, :func:`listen` makes
it a real server.  They check requests as strictly as the real servers.  Servers that misbehave
below HTTP are in :mod:`tests.support.servers.hostile`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

ALICE = "a11ce000a11ce000a11ce000a11ce000"
BOB = "b0b00000b0b00000b0b00000b0b00000"


@dataclass
class FakeAccount:
    """A user with one token, as both servers know it."""

    token: str
    uid: str
    scopes: tuple[str, ...] = ("profile", "profile:write")
    client_id: str = "dcdb5ae7add825d2"
    profile_changed_at: int | None = None
    email: str | None = None
    locale: str | None = None
    amr_values: tuple[str, ...] | None = None
    level: int | None = None
    subscriptions: Mapping[str, Sequence[str]] | Sequence[str] | None = None
    metrics_enabled: bool | None = None
    disabled_at: int | None = None
    locked_at: int | None = None


def two_accounts() -> dict[str, FakeAccount]:
    """The same users that the development identity has by default, by token."""
    alice = FakeAccount(
        "alice", ALICE, email="alice@example.com", locale="en-US", amr_values=("pwd",), level=1
    )
    bob = FakeAccount(
        "bob", BOB, email="bob@example.com", locale="de", amr_values=("pwd", "otp"), level=2
    )
    return {account.token: account for account in (alice, bob)}


@dataclass
class Seen:
    """A request that a server got."""

    method: str
    path: str
    headers: Headers
    body: bytes
    members: Any = None


@dataclass
class Said:
    """A response that a test has planned."""

    status: int = 200
    members: Any = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeServer(Resource):
    """
    The base of the fake servers.

    :ivar seen: every request except those for the heartbeat.
    :ivar answer: if set, makes the response in place of the server.
    :ivar hold: while true, requests wait until :meth:`release`.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], Said] | None = None
        self.hold = False
        self.held: list[tuple[Request, Seen]] = []
        self.gone = 0

    def render(self, request: Request) -> bytes | int:  # type: ignore[override]
        body = request.content.read()
        seen = Seen(
            method=request.method.decode(),
            path=request.path.decode(),
            headers=request.requestHeaders,
            body=body,
        )
        if seen.path == "/__lbheartbeat__":
            return self._write(request, Said())
        with contextlib.suppress(ValueError):
            seen.members = json.loads(body)
        self.seen.append(seen)
        if self.hold:
            self.held.append((request, seen))
            request.notifyFinish().addErrback(lambda _: self._went(request))
            return NOT_DONE_YET
        return self._write(request, self._say(seen))

    def release(self) -> None:
        """Answer the requests that wait."""
        held, self.held = self.held, []
        for request, seen in held:
            request.write(self._write(request, self._say(seen)))
            request.finish()

    def say(self, seen: Seen) -> Said:
        """The answer of the real server."""
        raise NotImplementedError

    def _say(self, seen: Seen) -> Said:
        return self.answer(seen) if self.answer is not None else self.say(seen)

    def _went(self, request: Request) -> None:
        self.gone += 1
        self.held = [(held, seen) for held, seen in self.held if held is not request]

    def _write(self, request: Request, said: Said) -> bytes:
        request.setResponseCode(said.status)
        request.setHeader("content-type", "application/json; charset=utf-8")
        for name, value in said.headers.items():
            request.setHeader(name, value)
        return json.dumps(said.members).encode() if said.body is None else said.body


def error(status: int, errno: int, message: str = "Something is not right") -> Said:
    """Return an error response in the format of the Firefox Accounts servers."""
    members = {"code": status, "errno": errno, "error": "Error", "message": message}
    return Said(status=status, members=members)


class FakeOAuth(FakeServer):
    """
    The OAuth server.

    :ivar accounts: by token.
    :ivar keys: the JSON Web Keys that it publishes.
    """

    def __init__(self, accounts: dict[str, FakeAccount] | None = None) -> None:
        super().__init__()
        self.accounts = two_accounts() if accounts is None else accounts
        self.keys: list[dict[str, Any]] = []

    def say(self, seen: Seen) -> Said:
        if (seen.method, seen.path) == ("GET", "/v1/jwks"):
            return Said(members={"keys": self.keys})
        if (seen.method, seen.path) != ("POST", "/v1/verify"):
            return error(404, 999)
        kind = seen.headers.getRawHeaders("content-type", [""])[0]
        if not re.match(r"application/json\b", kind, re.IGNORECASE):
            return error(415, 113)
        if not isinstance(seen.members, dict) or set(seen.members) != {"token"}:
            return error(400, 109)
        account = self.accounts.get(seen.members["token"])
        if account is None:
            return error(400, 108, f"Invalid token {seen.members['token']}")
        members: dict[str, Any] = {
            "user": account.uid,
            "client_id": account.client_id,
            "scope": list(account.scopes),
        }
        if account.profile_changed_at is not None:
            members["profile_changed_at"] = account.profile_changed_at
        return Said(members=members)

    @property
    def verified(self) -> list[str]:
        """The tokens that were asked about."""
        return [seen.members["token"] for seen in self.seen if seen.path == "/v1/verify"]

    @property
    def fetches(self) -> int:
        """How often the keys were fetched."""
        return sum(seen.path == "/v1/jwks" for seen in self.seen)


class FakeAuth(FakeServer):
    """
    The auth server.

    :ivar accounts: by token.
    """

    def __init__(self, accounts: dict[str, FakeAccount] | None = None) -> None:
        super().__init__()
        self.accounts = two_accounts() if accounts is None else accounts

    def say(self, seen: Seen) -> Said:
        if (seen.method, seen.path) != ("GET", "/v1/account/profile"):
            return error(404, 116)
        bearer = seen.headers.getRawHeaders("authorization", [])
        if len(bearer) != 1 or not bearer[0].startswith("Bearer "):
            return error(401, 110)
        account = self.accounts.get(bearer[0].removeprefix("Bearer "))
        if account is None:
            return error(400, 102)
        members: dict[str, Any] = {
            "email": account.email,
            "locale": account.locale,
            "authenticationMethods": account.amr_values,
            "authenticatorAssuranceLevel": account.level,
            "profileChangedAt": account.profile_changed_at,
            "metricsEnabled": account.metrics_enabled,
            "accountDisabledAt": account.disabled_at,
            "accountLockedAt": account.locked_at,
        }
        # Older servers send a list.
        by_client = isinstance(account.subscriptions, Mapping)
        name = "subscriptionsByClientId" if by_client else "subscriptions"
        members[name] = account.subscriptions
        return Said(members={k: v for k, v in members.items() if v is not None})


class FakeCustoms(FakeServer):
    """
    The customs server.

    :ivar verdict: the response to every request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.verdict: dict[str, Any] = {"block": False}

    def say(self, seen: Seen) -> Said:
        if (seen.method, seen.path) != ("POST", "/checkAuthenticated"):
            return error(404, 999)
        if not isinstance(seen.members, dict) or set(seen.members) != {"action", "ip", "uid"}:
            return error(400, 999)
        return Said(members=self.verdict)


class FakeFxa(Resource):
    """
    The OAuth and the auth server behind one address, as one real server has them.

    :param accounts: by token.
    """

    isLeaf = True

    def __init__(self, accounts: dict[str, FakeAccount] | None = None) -> None:
        super().__init__()
        self.accounts = two_accounts() if accounts is None else accounts
        self.oauth = FakeOAuth(self.accounts)
        self.auth = FakeAuth(self.accounts)

    def render(self, request: Request) -> bytes | int:  # type: ignore[override]
        auth = request.path.startswith(b"/v1/account/")
        return (self.auth if auth else self.oauth).render(request)


def listen(reactor: Any, resource: Resource) -> tuple[IListeningPort, str]:
    """
    Make a resource a server on a free port of this machine.

    :returns: the port, to be closed by the caller, and the server's URL.
    """
    port = reactor.listenTCP(0, Site(resource, reactor=reactor), interface="127.0.0.1")
    return port, f"http://127.0.0.1:{port.getHost().port}"
