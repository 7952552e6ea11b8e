"""Every endpoint of the API, on real accounts and on each kind of database."""

from __future__ import annotations

from typing import Any

from tests.integration import photos
from tests.integration.accounts import SECRET, AccountsCase, event
from tests.support.fakes.oauth import FakeAccount
from tests.support.servers import mariadb, postgresql

DEFAULT_ID = "0" * 32

#: Texts that some databases change when they store them.
NAMES = (
    "Zoë 🦊",
    "日本",
    "trailing ",
    " leading",
    "O'Brien \\ %s :x",
    "e\u0301",
    "x" * 256,
    "🦊" * 256,
)


class Endpoints:
    """Every endpoint behaves as ``docs/api.md`` describes it."""

    async def test_profile_fields(self) -> None:
        """The profile has the known fields of a user; unknown ones are left out."""
        alice = self.account(
            "profile",
            "openid",
            locale="fr",
            amr_values=("pwd", "otp"),
            level=2,
            profile_changed_at=5,
        )
        expected = {
            "uid": alice.uid,
            "sub": alice.uid,
            "email": alice.email,
            "locale": "fr",
            "amrValues": ["pwd", "otp"],
            "twoFactorAuthentication": True,
            "avatar": f"{self.daemon.web_url}/v1/avatar/{alice.email[0]}",
            "avatarId": DEFAULT_ID,
            "avatarDefault": False,
        }
        self.assertEqual(await self.profile(alice), expected)
        bare = self.account("profile:email", "profile:locale", "profile:amr", email=None)
        self.assertEqual(await self.profile(bare), {})
        self.assertEqual((await self.ask("GET", "/v1/email", bare)).json, {})
        self.assertEqual((await self.ask("GET", "/v1/email", alice)).json, {"email": alice.email})
        self.assertEqual((await self.ask("GET", "/v1/uid", alice)).json, {"uid": alice.uid})

    async def test_display_name_until_it_is_unset(self) -> None:
        """A display name is returned as it was set, until it is unset."""
        alice = self.account()
        self.assertEqual((await self.ask("GET", "/v1/display_name", alice)).status, 204)
        for name in NAMES:
            await self.set_name(alice, name)
            reply = await self.ask("GET", "/v1/display_name", alice)
            self.assertEqual((reply.status, reply.json), (200, {"displayName": name}))
            self.assertEqual((await self.profile(alice))["displayName"], name)
        for bad in ("x" * 257, "a\0b", "\u2028", "\ud800", "\ue000", 5, None):
            reply = await self.ask("POST", "/v1/display_name", alice, {"displayName": bad})
            self.assertEqual(reply.error, (400, 101), repr(bad))
        await self.set_name(alice, "")
        reply = await self.ask("GET", "/v1/display_name", alice)
        self.assertEqual((reply.status, reply.body), (204, b""))
        self.assertNotIn("displayName", await self.profile(alice))

    async def test_avatar_from_upload_to_deletion(self) -> None:
        """An avatar is uploaded, read, shown in the profile and deleted."""
        alice, bob = self.account(), self.account()
        reply = await self.ask("GET", "/v1/avatar", alice)
        self.assertEqual((reply.json["id"], reply.json["avatarDefault"]), (DEFAULT_ID, False))
        first = await self.upload(alice, 400)
        url = f"{self.daemon.images_url}/a/{first['id']}"
        ready = {"id": first["id"], "url": url, "status": "ready"}
        self.assertEqual(first, {**ready, "placeholder": first["placeholder"]})
        expected = {
            "id": first["id"],
            "avatar": url,
            "avatarDefault": False,
            "url": url,
            "placeholder": first["placeholder"],
        }
        reply = await self.ask("GET", "/v1/avatar", alice)
        self.assertEqual((reply.json, reply.header("ETag")), (expected, f'"{first["id"]}"'))
        again = await self.ask(
            "GET", "/v1/avatar", alice, headers={"If-None-Match": reply.header("ETag")}
        )
        self.assertEqual((again.status, again.body), (304, b""))
        profile = await self.profile(alice)
        self.assertEqual((profile["avatar"], profile["avatarDefault"]), (url, False))
        self.assertEqual(profile["avatarId"], first["id"])

        status = f"/v1/avatar/upload/{first['id']}"
        self.assertEqual((await self.ask("GET", status, alice)).json, first)
        self.assertEqual((await self.ask("GET", status, bob)).error, (404, 101))
        mine = f"/v1/avatar/{first['id']}"
        self.assertEqual((await self.ask("DELETE", mine, bob)).error, (401, 100))
        second = await self.upload(alice, 300)
        self.assertEqual((await self.ask("GET", status, alice)).json["status"], "replaced")

        mine = f"/v1/avatar/{second['id']}"
        self.assertEqual((await self.ask("DELETE", mine, alice)).json, {})
        self.assertEqual((await self.ask("DELETE", mine, alice)).error, (404, 101))
        self.assertEqual((await self.ask("DELETE", "/v1/avatar", alice)).error, (404, 101))
        default = await self.ask("DELETE", f"/v1/avatar/{DEFAULT_ID}", alice)
        self.assertEqual((default.status, default.json), (200, {}))
        self.assertIn("/v1/avatar/", (await self.profile(alice))["avatar"])

        reply = await self.send(alice, b"no picture at all " * 9, "image/png")
        self.assertEqual((reply.error, reply.json["reason"]), ((422, 103), "unsupported"))

    async def test_invalid_tokens_and_insufficient_scopes(self) -> None:
        """An invalid token gets 401, too little scope 403, and no response reveals more."""
        weak = self.account("profile:nothing", "basket")
        there = "0123456789abcdef" * 2
        for method, path in (
            *(("GET", f"/v1/{name}") for name in ("profile", "email", "uid", "display_name")),
            *(("GET", "/v1/subscriptions"), ("POST", "/v1/profile")),
            *(("GET", "/v1/avatar"), ("GET", f"/v1/avatar/upload/{there}")),
            *(("DELETE", "/v1/avatar"), ("DELETE", f"/v1/avatar/{there}")),
            *(("POST", "/v1/display_name"), ("POST", "/v1/avatar/upload")),
        ):
            body = b"{}" if method == "POST" else None
            for token in (None, "unknown", "not valid"):
                reply = await self.ask(method, path, token, body)
                self.assertEqual(reply.error, (401, 100), (method, path, token))
                self.assertEqual(reply.header("WWW-Authenticate"), "Bearer")
            reply = await self.ask(method, path, weak, body)
            self.assertEqual(reply.error, (403, 100), (method, path))
            challenge = reply.header("WWW-Authenticate")
            self.assertEqual(challenge, 'Bearer error="insufficient_scope"')
        self.assertEqual((await self.ask("GET", "/v1/nothing", weak)).error, (404, 101))
        reply = await self.ask("POST", "/v1/uid", weak, b"{}")
        self.assertEqual((reply.error, reply.header("Allow")), ((405, 101), "GET, HEAD"))

    async def test_endpoints_of_the_auth_server(self) -> None:
        """With the secret, the auth server sets names and invalidates profiles; without it, 401."""
        alice = self.account("profile", locale="en")
        self.assertEqual((await self.profile(alice))["locale"], "en")
        alice.locale = "fr"
        self.assertEqual((await self.profile(alice))["locale"], "en")
        drop, name = f"/v1/cache/{alice.uid}", f"/v1/_display_name/{alice.uid}"
        for token in (None, alice.token, SECRET[:-1], SECRET + "x"):
            self.assertEqual((await self.ask("DELETE", drop, token)).error, (401, 100))
            reply = await self.ask("POST", name, token, {"name": "Mallory"})
            self.assertEqual(reply.error, (401, 100))
        self.assertEqual((await self.ask("DELETE", drop, SECRET)).json, {})
        self.assertEqual((await self.profile(alice))["locale"], "fr")
        self.assertEqual((await self.ask("POST", name, SECRET, {"name": "Alice"})).json, {})
        self.assertEqual((await self.profile(alice))["displayName"], "Alice")
        self.assertEqual((await self.ask("POST", name, SECRET, {"name": "\0"})).error, (400, 101))
        self.assertEqual((await self.ask("DELETE", "/v1/cache/nobody", SECRET)).error, (404, 101))

    async def test_events_invalidate_and_delete(self) -> None:
        """Events invalidate the profile of a user; a deleted account leaves nothing behind."""
        events = self.queue("events")
        alice = self.account()
        await self.set_name(alice, "Alice")
        avatar = await self.upload(alice, 200)
        for name in (
            *("primaryEmailChanged", "profileDataChanged", "profileDataChange"),
            *("passwordChange", "reset"),
        ):
            await self.profile(alice)
            alice.email = f"{name}@example.com".lower()
            await events.send(body=event(name, f"{alice.uid}@accounts.example.com"))
            await self.until(lambda: self.has(alice, email=alice.email), f"{name} has no effect")
        await events.send(body="this is no event")
        await events.send(body=event("login", alice.uid))
        await events.send(body=event("delete", "nobody"))
        await events.send(body=event("delete", alice.uid, extra=["whatever"]))
        letter = f"{self.daemon.web_url}/v1/avatar/{alice.email[0]}"
        await self.until(lambda: self.has(alice, avatar=letter), "the avatar stays")
        self.assertNotIn("displayName", await self.profile(alice))

        async def gone() -> bool:
            status = await self.ask("GET", f"/v1/avatar/upload/{avatar['id']}", alice)
            return status.status == 404 and not list(self.daemon.directory.rglob(avatar["id"]))

        await self.until(gone, "the picture stays")
        heartbeat = await self.ask("GET", "/__heartbeat__", None)
        self.assertEqual((heartbeat.status, heartbeat.json["status"]), (200, "ok"))

    async def test_each_change_is_published(self) -> None:
        """Each change of a profile is published on the updates queue, and nothing else is."""
        updates = self.queue("updates")
        alice = self.account()

        async def told() -> bool:
            return await self.told(updates, alice.uid) == 1

        await self.set_name(alice, "Alice")
        await self.until(told, "the new name was not told")
        await self.upload(alice, 200)
        await self.until(told, "the new avatar was not told")
        await self.ask("DELETE", "/v1/avatar", alice)
        await self.until(told, "the end of the avatar was not told")
        name = f"/v1/_display_name/{alice.uid}"
        await self.ask("POST", name, SECRET, {"name": "Also Alice"})
        await self.until(told, "the other name was not told")
        await self.profile(alice)
        self.assertEqual(await self.told(updates, alice.uid), 0)

    async def has(self, who: FakeAccount, **fields: Any) -> bool:
        profile = await self.profile(who)
        return all(profile.get(name) == value for name, value in fields.items())

    async def send(self, who: FakeAccount, body: bytes, content_type: str) -> Any:
        headers = {"Content-Type": content_type}
        return await self.ask("POST", "/v1/avatar/upload", who, body, headers)

    async def upload(self, who: FakeAccount, side: int) -> Any:
        reply = await self.send(who, photos.jpeg(side, side), "image/jpeg")
        self.assertEqual(reply.status, 201, reply.body)
        self.assertEqual(reply.header("Location"), f"/v1/avatar/upload/{reply.json['id']}")
        return reply.json


class SqliteEndpointTests(Endpoints, AccountsCase):
    """The endpoints on SQLite."""


class ServerEndpoints(Endpoints):
    """The endpoints on a database server, which may be down."""

    async def test_database_outage(self) -> None:
        """While the database is down responses are 503; afterwards everything is as before."""
        alice = self.account()
        await self.set_name(alice, "Alice")

        async def ill() -> bool:
            reply = await self.ask("GET", "/__heartbeat__", None)
            return (reply.status, reply.json["checks"]["database"]) == (503, "fail")

        async def well() -> bool:
            return (await self.ask("GET", "/__heartbeat__", None)).status == 200

        await self.until(well, "the daemon is not well")
        self.server.shared().stop()
        try:
            reply = await self.ask("GET", "/v1/display_name", alice)
            self.assertEqual(reply.error, (503, 106))
            self.assertIsNotNone(reply.header("Retry-After"))
            reply = await self.ask("POST", "/v1/display_name", alice, {"displayName": "Bob"})
            self.assertEqual(reply.error, (503, 106))
            self.assertEqual((await self.ask("GET", "/v1/uid", alice)).status, 200)
            # An earlier heartbeat may still be cached for a moment.
            await self.until(ill, "the heartbeat does not tell")
            self.assertEqual((await self.ask("GET", "/__lbheartbeat__", None)).status, 200)
        finally:
            self.server.shared().start()

        async def back() -> bool:
            return (await self.ask("GET", "/v1/display_name", alice)).status == 200

        await self.until(back, "the database was not found again")
        reply = await self.ask("GET", "/v1/display_name", alice)
        self.assertEqual(reply.json, {"displayName": "Alice"})
        await self.until(well, "the heartbeat stays ill")


class MariadbEndpointTests(ServerEndpoints, AccountsCase):
    """The endpoints on MariaDB."""

    server = mariadb
    skip = mariadb.missing()


class PostgresqlEndpointTests(ServerEndpoints, AccountsCase):
    """The endpoints on PostgreSQL."""

    server = postgresql
    skip = postgresql.missing()
