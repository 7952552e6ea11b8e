"""A daemon with a customs server, Sentry, signed tokens, or a second web process."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections import Counter
from typing import Any, ClassVar

import treq
from joserfc import jwt
from twisted.web.resource import Resource
from twisted.web.server import Request

from tests.drivers.fxa.signed import AUDIENCE, ISSUER, private_key, public
from tests.integration.accounts import AccountsCase, Reply, event
from tests.support.daemon import Daemon
from tests.support.fakes.oauth import FakeAccount, FakeCustoms, error
from tests.support.servers import redis
from tests.support.servers.redis import RedisServer


class _Uploads(AccountsCase):
    """Base of tests with uploads that fail as soon as they are admitted."""

    async def upload(self, who: FakeAccount, **headers: str) -> Reply:
        headers["Content-Type"] = "image/png"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", "/v1/avatar/upload", who, b"no image at all", named)


class CustomsTests(_Uploads):
    """A daemon with a customs server, which is asked about each upload."""

    settings: ClassVar[dict[str, object]] = {
        "customs.url": "http://127.0.0.1:{customs}",
        "web.client_address_depth": 1,
    }

    async def setUp(self) -> None:
        await super().setUp()
        self.customs = FakeCustoms()
        self.serve(self.place.customs_port, self.customs)

    async def test_blocked_users(self) -> None:
        """A blocked user gets 400 or, if the block has an end, 429; others are admitted."""
        alice = self.account()
        reply = await self.upload(alice, X_Forwarded_For="203.0.113.9, 198.51.100.7")
        self.assertEqual(reply.error, (422, 103))
        asked = {"action": "avatarUpload", "ip": "198.51.100.7", "uid": alice.uid}
        self.assertEqual([seen.members for seen in self.customs.seen], [asked])
        for verdict, expected, retry_after in (
            ({"block": True}, (400, 125), None),
            ({"block": True, "retryAfter": 30}, (429, 114), "30"),
        ):
            self.customs.verdict = verdict
            reply = await self.in_time(alice)
            self.assertEqual((reply.error, reply.header("Retry-After")), (expected, retry_after))
        self.assertEqual((await self.profile(alice))["uid"], alice.uid)

    async def in_time(self, who: FakeAccount) -> Reply:
        """Upload until the customs server responds in time: the machine may be slow."""
        while True:
            missed = self.daemon.output.count("Customs check failed")
            reply = await self.upload(who)
            if self.daemon.output.count("Customs check failed") == missed:
                return reply

    async def test_customs_outage(self) -> None:
        """While the customs server is slow or down, every upload is admitted."""
        alice = self.account()
        self.customs.hold = True
        self.assertEqual((await self.upload(alice)).error, (422, 103))
        await self.close(self.place.customs_port)
        self.assertEqual((await self.upload(alice)).error, (422, 103))
        self.assertIn("Customs check failed", self.daemon.output)


class FakeSentry(Resource):
    """
    A Sentry server that accepts every report.

    :ivar events: what was reported.
    :ivar sent: all of it, as it came.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self.sent = b""

    def render_POST(self, request: Request) -> bytes:
        data = request.content.read()
        if request.getHeader("content-encoding") == "gzip":
            data = gzip.decompress(data)
        self.sent += data
        # https://develop.sentry.dev/sdk/data-model/envelopes/: each header line is followed by
        # the line of its item.
        members = [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]
        self.events += [item for item in members if "exception" in item]
        return b"{}"


class SentryTests(AccountsCase):
    """A daemon that reports its errors to Sentry."""

    settings: ClassVar[dict[str, object]] = {"sentry.dsn": "http://key@127.0.0.1:{customs}/1"}

    async def test_only_failures_of_servers_are_reported(self) -> None:
        """
        Each failure of another server is reported, and no fault of a client; a report contains
        nothing that a user has sent.
        """
        sentry = FakeSentry()
        self.serve(self.place.customs_port, sentry)
        mark = "5e4re7"
        alice = self.account(token=f"token{mark}", email=f"alice{mark}@example.com")
        weak = self.account("basket", token=f"weak{mark}")
        for who, path, status in (
            (None, "/v1/uid", 401),
            (f"nobody{mark}", "/v1/uid", 401),
            (weak, "/v1/uid", 403),
            (alice, f"/v1/{mark}", 404),
        ):
            self.assertEqual((await self.ask("GET", path, who)).status, status)
        body = {"displayName": f"{mark}\0"}
        self.assertEqual((await self.ask("POST", "/v1/display_name", alice, body)).status, 400)
        self.auth.answer = lambda seen: error(400, 107, mark)
        reply = await self.ask("GET", "/v1/email", alice)
        self.assertEqual(reply.error, (400, 107))
        self.auth.answer = lambda seen: error(500, 999, mark)
        for _ in range(3):
            self.assertEqual((await self.ask("GET", "/v1/email", alice)).error, (503, 105))

        async def told() -> bool:
            return len(sentry.events) >= 2

        await self.until(told, "Sentry was not told")
        kinds = [(e["level"], e["exception"]["values"][-1]["type"]) for e in sentry.events]
        self.assertEqual(
            sorted(kinds), [("warning", "AuthUnavailable"), ("warning", "UpstreamRefused")]
        )
        for secret in (mark, "example.com", alice.uid):
            self.assertNotIn(secret.encode(), sentry.sent)


class SignedTokenTests(AccountsCase):
    """A daemon that verifies the signatures of tokens."""

    settings: ClassVar[dict[str, object]] = {
        "identity.jwks_url": "http://127.0.0.1:{oauth}/v1/jwks",
        "identity.issuer": ISSUER,
    }
    environ: ClassVar[dict[str, str]] = {"FXPROFILE_IDENTITY__AUDIENCE": f'["{AUDIENCE}"]'}

    def signed(self, key: Any, **changes: Any) -> FakeAccount:
        """A user with a signed token, which the OAuth server would not know."""
        account = self.account()
        claims = {
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "sub": account.uid,
            "client_id": account.client_id,
            "scope": "profile",
            "iat": int(time.time()),
            "exp": int(time.time()) + 600,
            **changes,
        }
        header = {"alg": "RS256", "typ": "at+JWT", "kid": key.kid}
        account.token = jwt.encode(header, claims, key, algorithms=["RS256"], default_type=None)
        self.auth.accounts[account.token] = account
        return account

    async def test_signed_tokens(self) -> None:
        """A valid token needs no OAuth server; an invalid one is rejected."""
        key = private_key()
        self.oauth.keys = [public(key)]
        self.oauth.accounts = {}
        for _ in range(2):
            alice = self.signed(key)
            self.assertEqual((await self.profile(alice))["email"], alice.email)
        self.assertEqual((self.oauth.verified, self.oauth.fetches), ([], 1))
        for bad in (
            self.signed(key, exp=int(time.time()) - 600),
            self.signed(key, iss="https://accounts.evil"),
            self.signed(key, aud=["https://another.example"]),
        ):
            self.assertEqual((await self.ask("GET", "/v1/uid", bad)).error, (401, 100))
        other = self.account(token="opaque")
        self.oauth.accounts = self.accounts
        self.assertEqual((await self.ask("GET", "/v1/uid", other)).json, {"uid": other.uid})


class _TwoHeads(_Uploads):
    """
    A daemon and a web role that share a database and a Redis server.

    :cvar more: further settings of the web role.
    """

    redis: ClassVar[RedisServer | None] = None
    more: ClassVar[dict[str, object]] = {}

    async def setUp(self) -> None:
        if _TwoHeads.redis is None:
            _TwoHeads.redis = RedisServer()
            _TwoHeads.redis.start()
            _TwoHeads.environ = {"FXPROFILE_CACHE__URL": _TwoHeads.redis.url()}
            _TwoHeads.settings = {
                "cache.driver": "redis",
                "uploads.per_hour": 2,
                "identity.token_cache_seconds": 600,
            }
        await super().setUp()
        folder = f"{self.daemon.directory}/var/buckets"
        self.other = Daemon(
            role="web",
            settings={**self.daemon.settings, "storage.directory": folder, **self.more},
            environ=self.daemon.environ,
            preloaded=not self.more,
        )
        self.addCleanup(self.other.remove)
        await self.other.start()
        self.heads = (self.daemon.web_url, self.other.web_url)


class TwoHeadsTests(_TwoHeads):
    """Two web processes that share a database and a Redis server."""

    skip = redis.missing()

    async def test_cached_profiles_are_shared(self) -> None:
        """A profile cached by one process is served by the other, until either changes it."""
        alice, writer = self.account("profile"), self.account()
        writer.uid = alice.uid
        for number, (here, there) in enumerate((self.heads, self.heads[::-1])):
            self.auth.seen.clear()
            self.url = here
            await self.set_name(writer, f"Alice {number}")
            first = await self.profile(alice)
            self.url = there
            second = await self.profile(alice)
            self.assertEqual(first["displayName"], f"Alice {number}")
            self.assertEqual(second["displayName"], f"Alice {number}")
            self.assertEqual(len(self.auth.seen), 1)

    async def test_event_reaches_both_processes(self) -> None:
        """An event that one process receives invalidates the profile in both."""
        alice = self.account("profile", locale="en")
        for head in self.heads:
            self.url = head
            await self.profile(alice)
        alice.locale = "fr"
        await self.queue("events").send(body=event("profileDataChanged", alice.uid))

        async def both() -> bool:
            seen = set()
            for head in self.heads:
                self.url = head
                seen.add((await self.profile(alice))["locale"])
            return seen == {"fr"}

        await self.until(both, "one process has not applied it")

    async def test_password_change_reaches_both_processes(self) -> None:
        """After a password change neither process trusts an earlier token."""
        alice = self.account()
        for head in self.heads:
            self.url = head
            await self.profile(alice)
        del self.oauth.accounts[alice.token]
        await self.queue("events").send(body=event("passwordChange", alice.uid))

        async def both() -> bool:
            statuses = set()
            for head in self.heads:
                self.url = head
                statuses.add((await self.ask("GET", "/v1/uid", alice)).status)
            return statuses == {401}

        await self.until(both, "one head trusts an old token")

    async def test_rate_limits_are_shared(self) -> None:
        """The rate limit counts the uploads to all processes together."""
        alice, bob = self.account(), self.account()
        for head in self.heads:
            self.url = head
            self.assertEqual((await self.upload(alice)).error, (422, 103))
        for head in self.heads:
            self.url = head
            reply = await self.upload(alice)
            self.assertEqual(reply.error, (429, 114))
            self.assertTrue(1 <= int(reply.header("Retry-After")) <= 3600)
            self.assertEqual((await self.upload(bob)).error, (422, 103))


class ThreeProcessesTests(_TwoHeads):
    """A web role of three processes, which share a database and a Redis server."""

    skip = redis.missing()
    more: ClassVar[dict[str, object]] = {
        "web.processes": 3,
        "web.client_address_depth": 1,
        "uploads.per_hour": 10,
        "limits.writes_per_minute": 0,
    }

    async def setUp(self) -> None:
        await super().setUp()
        self.url = self.other.web_url

    async def statuses(self, who: FakeAccount) -> Counter[int]:
        """Return the statuses of requests for a uid on connections of their own."""
        asked = [self.ask("GET", "/v1/uid", who) for _ in range(30)]
        return Counter([reply.status for reply in await self.all_of(*asked)])

    async def served_by_all(self, who: FakeAccount) -> None:
        """Request the uid of a user until each process has verified the token."""
        pattern = (
            r'_requests_total\{listener="api",method="GET",process="(\d)",'
            r'route="/v1/uid",status="200"\} [1-9]'
        )

        async def all_served() -> bool:
            self.assertEqual(await self.statuses(who), {200: 30})
            url = f"{self.other.admin_url}/metrics"
            text = await (await treq.get(url, persistent=False)).text()
            return set(re.findall(pattern, text)) == {"1", "2", "3"}

        await self.until(all_served, "a process has not served any request")

    async def test_rate_limit_is_exact(self) -> None:
        """Of concurrent uploads to all processes, exactly as many as the limit are admitted."""
        alice, bob = self.account(), self.account()
        await self.served_by_all(alice)
        for who in (alice, bob):
            address = {"X_Forwarded_For": "203.0.113.7"}
            replies = await self.all_of(*(self.upload(who, **address) for _ in range(30)))
            errors = Counter([reply.error for reply in replies])
            self.assertEqual(errors, {(422, 103): 10, (429, 114): 20})

    async def test_changes_reach_all_processes(self) -> None:
        """A change by one process is seen by all as soon as it is answered."""
        alice, writer = self.account("profile"), self.account()
        writer.uid = alice.uid
        await self.served_by_all(alice)
        for name in ("one", "two", "three"):
            await self.set_name(writer, name)
            profiles = await self.all_of(*(self.profile(alice) for _ in range(30)))
            self.assertEqual({profile["displayName"] for profile in profiles}, {name})

    async def test_revoked_token_is_trusted_by_no_process(self) -> None:
        """After a password change no process trusts an earlier token, which all had cached."""
        alice = self.account()
        await self.served_by_all(alice)
        verified = len(self.oauth.seen)
        self.assertEqual(await self.statuses(alice), {200: 30})
        self.assertEqual(len(self.oauth.seen), verified, "the token is not cached")
        del self.oauth.accounts[alice.token]
        await self.queue("events").send(body=event("passwordChange", alice.uid))

        async def revoked() -> bool:
            return (await self.ask("GET", "/v1/uid", alice)).status == 401

        await self.until(revoked, "the event had no effect")
        self.assertEqual(await self.statuses(alice), {401: 30})
