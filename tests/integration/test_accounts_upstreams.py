"""The API responds in time, even if the OAuth and the auth server misbehave."""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.integration.accounts import AccountsCase
from tests.support.fakes.oauth import FakeAccount, Said, Seen, error
from tests.support.servers import hostile
from tests.support.servers.hostile import Connection, Hostile

#: The token in a request to either server.
_TOKEN = re.compile(rb'"token": ?"(\w+)"|Bearer (\w+)')

#: Unusable responses of an HTTP server.
NONSENSE = {
    "no_json": Said(body=b"<html>Welcome</html>"),
    "empty": Said(body=b""),
    "not_utf8": Said(body=b'{"user": "\xff\xfe"}'),
    "a_list": Said(members=[1, 2, 3]),
    "null": Said(members=None),
    "deep": Said(body=b"[" * 60_000),
    "redirect": Said(302, {}, headers={"location": "http://127.0.0.1:1/v1/verify"}),
    "moved": Said(308, {}, headers={"location": "/v1/somewhere"}),
    "created": Said(201, {}),
    "no_content": Said(204, body=b""),
    "broken": error(500, 999, "upstream-secret"),
    "bad_gateway": Said(502, body=b"upstream-secret"),
    "unavailable": error(503, 201, "upstream-secret"),
}

#: Other responses of the OAuth server, and the status and errno that follow.
OAUTH = {
    "unknown": (error(400, 108, "upstream-secret"), 401, 100),
    "unauthorized": (error(401, 110, "upstream-secret"), 401, 100),
    "not_found": (error(404, 999), 503, 104),
    "forbidden_token": (error(403, 108, "upstream-secret"), 401, 100),
    "gone_token": (error(404, 102, "upstream-secret"), 401, 100),
    "forbidden": (error(403, 999), 503, 104),
    "throttled": (Said(429, {"errno": 114}, headers={"retry-after": "7"}), 429, 114),
    "no_user": (Said(members={"scope": ["profile"]}), 503, 104),
    "a_path": (Said(members={"user": "../../etc/passwd", "scope": ["profile"]}), 503, 104),
    "scope_text": (Said(members={"user": "a" * 32, "scope": "profile"}), 503, 104),
    "no_scope": (Said(members={"user": "a" * 32}), 403, 100),
}

#: Other responses of the auth server, and the status and errno that follow.
AUTH = {
    "unauthorized": (error(401, 110, "upstream-secret"), 401, 100),
    "gone": (error(400, 102, "upstream-secret"), 401, 100),
    "gone_too": (error(404, 102), 401, 100),
    "bad_request": (error(400, 107, "upstream-secret"), 400, 107),
    "forbidden": (error(403, 999), 400, 107),
    "not_found": (Said(404, body=b"upstream-secret"), 400, 107),
    "throttled": (Said(429, {"errno": 114}, headers={"retry-after": "7"}), 429, 114),
    "email_number": (Said(members={"email": 5}), 503, 105),
    "surrogate": (Said(body=b'{"email": "\\ud800@example.com"}'), 503, 105),
    "locale_list": (Said(members={"locale": ["en"]}), 503, 105),
}


class UpstreamTests(AccountsCase):
    """A daemon whose identity servers misbehave in a different way for each token."""

    async def fails(self, token: str, path: str, expected: tuple[int, int]) -> None:
        reply = await self.ask("GET", path, token)
        self.assertEqual(reply.error, expected, (token, path))
        self.assertEqual(set(reply.json) - {"retryAfter"}, {"code", "errno", "error", "message"})
        self.assertNotIn("upstream", reply.body.decode())
        retry_after = {503: "5", 429: "7"}.get(expected[0])
        self.assertEqual(reply.header("Retry-After"), retry_after, token)
        bearer = {401: "Bearer", 403: 'Bearer error="insufficient_scope"'}.get(expected[0])
        self.assertEqual(reply.header("WWW-Authenticate"), bearer, token)

    def by_token(self, said: dict[str, Said]) -> Callable[[Seen], Said]:
        """Return a server that responds to each token with its entry in this mapping."""

        def say(seen: Seen) -> Said:
            bearer = seen.headers.getRawHeaders("authorization", ["Bearer "])[0]
            token = (seen.members or {}).get("token") or bearer.removeprefix("Bearer ")
            return said[token]

        return say

    def misbehaving(self) -> Hostile:
        """Return a server that misbehaves towards each token in the way that the token names."""

        def react(connection: Connection) -> None:
            match = _TOKEN.search(connection.data)
            if match is not None:
                connection.data = b""
                hostile.ALL[(match[1] or match[2]).decode()](connection)

        return Hostile(reactor, react)

    async def test_unusable_responses_of_the_oauth_server(self) -> None:
        """A token that the OAuth server rejects is 401; an unusable response is 503."""
        said = {**NONSENSE, **{name: row[0] for name, row in OAUTH.items()}}
        expected = {**dict.fromkeys(NONSENSE, (503, 104)), **{n: r[1:] for n, r in OAUTH.items()}}
        self.oauth.answer = self.by_token(said)
        work = (self.fails(name, "/v1/profile", expected[name]) for name in said)
        await self.all_of(*work)
        self.assertEqual(self.auth.seen, [])
        self.assertEqual(sorted(self.oauth.verified), sorted(said), "a failure was tried again")

    async def test_unusable_responses_of_the_auth_server(self) -> None:
        """An account that the auth server does not know is 401; other 4xx are 400 or 429."""
        said = {**NONSENSE, **{name: row[0] for name, row in AUTH.items()}}
        expected = {**dict.fromkeys(NONSENSE, (503, 105)), **{n: r[1:] for n, r in AUTH.items()}}
        self.auth.answer = self.by_token(said)
        for name in said:
            self.account(token=name)
        for path in ("/v1/profile", "/v1/email", "/v1/avatar"):
            await self.all_of(*(self.fails(name, path, expected[name]) for name in said))
        # Requests that do not need the auth server succeed.
        for name in said:
            self.assertEqual((await self.ask("GET", "/v1/uid", name)).status, 200)

    async def test_hostile_oauth_server(self) -> None:
        """An OAuth server that is slow or does not speak HTTP is 503 with errno 104."""
        await self.close(self.place.oauth_port)
        self.serve(self.place.oauth_port, self.misbehaving())
        await self.all_of(*(self.fails(n, "/v1/profile", (503, 104)) for n in hostile.ALL))
        await self.close(self.place.oauth_port)
        await self.fails("whoever", "/v1/profile", (503, 104))
        self.serve(self.place.oauth_port, self.oauth)
        await self.profile(self.account())

    async def test_hostile_auth_server(self) -> None:
        """An auth server that is slow or does not speak HTTP is 503 with errno 105."""
        for name in hostile.ALL:
            self.account(token=name)
        known = self.account("profile:uid", "profile:display_name", "profile:avatar")
        await self.close(self.place.auth_port)
        self.serve(self.place.auth_port, self.misbehaving())
        await self.all_of(*(self.fails(n, "/v1/profile", (503, 105)) for n in hostile.ALL))
        await self.close(self.place.auth_port)
        await self.fails(next(iter(hostile.ALL)), "/v1/email", (503, 105))
        for path in ("/v1/uid", "/v1/display_name", "/v1/avatar"):
            self.assertLess((await self.ask("GET", path, known)).status, 300, path)
        self.serve(self.place.auth_port, self.auth)
        await self.profile(self.account())

    async def test_slow_server_delays_no_other_request(self) -> None:
        """A slow server delays no other request; requests with one token share a response."""
        slow, fast = self.account(), self.account("profile:uid")
        self.auth.hold = self.oauth.hold = True
        waiting = [self.fails(slow.token, "/v1/email", (503, 105)) for _ in range(20)]
        waiting += [self.asks_for_uid(fast) for _ in range(20)]
        waiting.append(self.verify_when_all_ask(self.account()))
        await self.all_of(*waiting)
        self.assertLess(len(self.oauth.verified), 40)

    async def verify_when_all_ask(self, last: FakeAccount) -> None:
        """Release the OAuth server, once the earlier requests have reached it."""

        async def asked() -> bool:
            return last.token in self.oauth.verified

        asks = Deferred.fromCoroutine(self.asks_for_uid(last))
        await self.until(asked, "the OAuth server is not asked")
        self.oauth.hold = False
        self.oauth.release()
        await asks

    async def test_disconnected_client(self) -> None:
        """A client that disconnects does not affect other requests with the same token."""
        alice, last = self.account("profile:uid"), self.account("profile:uid")
        gone = self.daemon.output.count("/v1/uid 499")
        self.oauth.hold = True

        async def is_asked() -> bool:
            return {alice.token, last.token} <= set(self.oauth.verified)

        async def is_gone() -> bool:
            return self.daemon.output.count("/v1/uid 499") > gone

        first = Deferred.fromCoroutine(self.asks_for_uid(alice))
        first.addErrback(lambda failure: None)
        others = [Deferred.fromCoroutine(self.asks_for_uid(alice)) for _ in range(5)]
        others.append(Deferred.fromCoroutine(self.asks_for_uid(last)))
        await self.until(is_asked, "the OAuth server is not asked")
        first.cancel()
        await self.until(is_gone, "no request was cancelled")
        self.assertEqual(self.oauth.gone, 0)
        self.oauth.hold = False
        self.oauth.release()
        await gatherResults(others)

    async def asks_for_uid(self, who: FakeAccount) -> None:
        reply = await self.ask("GET", "/v1/uid", who)
        self.assertEqual(reply.json, {"uid": who.uid})

    async def test_fields_beyond_the_scopes_are_hidden(self) -> None:
        """Fields that the server sends beyond the scopes, and unknown ones, are not shown."""
        scopes = ("profile:locale", "profile:uid")
        alice = self.account(*scopes, locale="fr", level=2, amr_values=("pwd",))
        self.auth.answer = lambda seen: Said(
            members={
                "email": alice.email,
                "locale": "fr",
                "uid": "somebody else",
                "avatar": "javascript:alert(1)",
                "displayName": "Mallory",
                "profileChangedAt": 5,
                "authenticationMethods": ["pwd"],
                "authenticatorAssuranceLevel": 2,
                "subscriptions": ["vpn"],
                "metricsEnabled": False,
                "accountDisabledAt": 5,
            }
        )
        expected = {"uid": alice.uid, "locale": "fr", "metricsEnabled": False}
        self.assertEqual(await self.profile(alice), expected)
        reply = await self.ask("GET", "/v1/profile", self.account("basket", "profiles"))
        self.assertEqual(reply.error, (403, 100))

    async def test_heartbeat_names_the_server(self) -> None:
        """The heartbeat names the server that is down, until it is back."""

        async def heartbeat() -> tuple[int, set[str]]:
            reply = await self.ask("GET", "/__heartbeat__", None)
            checks = reply.json["checks"]
            self.assertLessEqual({"oauth server", "auth server", "database"}, set(checks))
            return reply.status, {name for name, state in checks.items() if state != "ok"}

        for name, port, server in (
            ("oauth server", self.place.oauth_port, self.oauth),
            ("auth server", self.place.auth_port, self.auth),
        ):

            async def well() -> bool:
                return await heartbeat() == (200, set())

            async def ill(name: str = name) -> bool:
                return await heartbeat() == (503, {name})

            await self.until(well, "the daemon is not well")
            await self.close(port)
            await self.until(ill, f"the heartbeat does not tell of the {name}")
            self.assertEqual((await self.ask("GET", "/__lbheartbeat__", None)).status, 200)
            self.serve(port, server)
            await self.until(well, f"the {name} is not found again")

    async def test_change_time_in_the_far_future(self) -> None:
        """An impossible change time from the OAuth server does not break a response."""
        alice = self.account(profile_changed_at=2**53)
        reply = await self.ask("GET", "/v1/profile", alice)
        self.assertEqual(reply.status, 200, reply.body)
        self.assertEqual(reply.json["uid"], alice.uid)
