"""Headers, conditional requests, CORS and monograms."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from twisted.internet import reactor

from tests.integration.accounts import AccountsCase, Reply

NOT_KEPT = "private, no-cache, no-store, must-revalidate"


class HeaderTests(AccountsCase):
    """The headers of every response, and those of the profile."""

    def assert_safe(self, reply: Reply) -> None:
        """Check the headers that every response has."""
        for name, value in (
            ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Credentials", None),
        ):
            self.assertEqual(reply.header(name), value)
        self.assertIn("default-src 'none'", reply.header("Content-Security-Policy"))
        self.assertRegex(reply.header("X-Request-Id"), r"^[0-9a-f]{16}$")
        exposed = set(re.split(r",\s*", reply.header("Access-Control-Expose-Headers")))
        self.assertLessEqual({"ETag", "Last-Modified", "Location", "Retry-After"}, exposed)

    async def test_security_headers(self) -> None:
        """
        Every response has the security headers, is not cacheable, and is found in the log, except
        those of health checks.
        """
        alice = self.account()
        ids = {}
        for method, path, who, status in (
            ("GET", "/v1/profile", alice, 200),
            ("HEAD", "/v1/profile", alice, 200),
            ("GET", "/v1/display_name", alice, 204),
            ("GET", "/v1/profile", None, 401),
            ("GET", "/v1/profile", self.account("basket"), 403),
            ("GET", "/nothing", None, 404),
            ("PUT", "/v1/profile", alice, 405),
            ("GET", "/", None, 200),
            ("GET", "/__version__", None, 200),
            ("GET", "/__heartbeat__", None, 200),
            ("GET", "/__lbheartbeat__", None, 200),
            ("GET", "/v1/avatar/%ff", None, 400),
        ):
            reply = await self.ask(method, path, who)
            self.assertEqual(reply.status, status, path)
            self.assert_safe(reply)
            self.assertEqual(reply.header("Cache-Control"), NOT_KEPT)
            ids[reply.header("X-Request-Id")] = path
        self.assertEqual(len(ids), 12)
        for request_id, path in ids.items():
            is_health_check = path.endswith("heartbeat__")
            self.assertEqual(request_id in self.daemon.output, not is_health_check, path)

    async def test_conditional_requests(self) -> None:
        """A client that has the profile gets 304 until it changes, cached or not."""
        alice = self.account("profile", "profile:write")
        kept = self.account("profile")
        for who in (alice, kept):
            first = await self.ask("GET", "/v1/profile", who)
            etag = first.header("ETag")
            self.assertRegex(etag, r'^"[0-9a-f]{32}"$')
            for asked in (etag, f'"other", {etag}', f"W/{etag}", f'"{etag}"', f'"W/{etag}"', "*"):
                reply = await self.ask("GET", "/v1/profile", who, headers={"If-None-Match": asked})
                self.assertEqual((reply.status, reply.body), (304, b""), asked)
                self.assertEqual(reply.header("ETag"), etag)
                self.assertEqual(reply.header("Last-Modified"), first.header("Last-Modified"))
                self.assert_safe(reply)
            for asked in ('"other"', etag.strip('"'), ""):
                reply = await self.ask("GET", "/v1/profile", who, headers={"If-None-Match": asked})
                self.assertEqual(reply.status, 200, asked)
        await self.set_name(alice, "Alice")
        headers = {"If-None-Match": etag}
        reply = await self.ask("GET", "/v1/profile", alice, headers=headers)
        self.assertEqual((reply.status, reply.json["displayName"]), (200, "Alice"))

    async def test_last_modified_is_the_latest_change(self) -> None:
        """Last-Modified is the time of the latest change, and never in the future."""
        old = self.account(profile_changed_at=1_234_567_890_123)
        future = self.account(profile_changed_at=7_000_000_000_000)
        none = self.account("profile:uid")
        named = self.account()
        before = int(reactor.seconds())
        await self.set_name(named, "Somebody")
        told = {}
        for who in (old, future, none, named):
            reply = await self.ask("GET", "/v1/profile", who)
            told[who.uid] = parsedate_to_datetime(reply.header("Last-Modified")).timestamp()
            self.assertLessEqual(told[who.uid], reactor.seconds())
        self.assertEqual(told[old.uid], 1_234_567_890)
        self.assertGreaterEqual(told[named.uid], before)
        self.assertLessEqual(told[none.uid], before)

    async def test_any_origin_is_allowed(self) -> None:
        """A page of any origin may send requests with a token, and without cookies."""
        asked = {
            "Origin": "https://relier.example",
            "Access-Control-Request-Method": "DELETE",
            "Access-Control-Request-Headers": "authorization, content-type, if-none-match, prefer, "
            "accept, sentry-trace, baggage, fxa-ci, traceparent",
        }
        for path in ("/v1/profile", "/v1/avatar/upload", "/v1/avatar", "/v1/display_name"):
            reply = await self.ask("OPTIONS", path, None, headers=asked)
            self.assertEqual((reply.status, reply.body), (204, b""))
            self.assert_safe(reply)
            allowed = reply.header("Access-Control-Allow-Headers").lower()
            for header in asked["Access-Control-Request-Headers"].split(", "):
                self.assertIn(header, re.split(r",\s*", allowed))
            methods = reply.header("Access-Control-Allow-Methods")
            self.assertLessEqual({"GET", "POST", "DELETE"}, set(re.split(r",\s*", methods)))
        self.assertEqual(self.oauth.seen, [])
        reply = await self.ask(
            "GET", "/v1/uid", self.account(), headers={"Origin": asked["Origin"]}
        )
        self.assertEqual(reply.header("Access-Control-Allow-Origin"), "*")


class MonogramTests(AccountsCase):
    """Users without an avatar have a monogram."""

    async def avatar(self, *scopes: str, name: str | None, email: str | None) -> str:
        """Return the avatar URL of such a user, which must be the same at two endpoints."""
        writer = self.account(email=email)
        reader = self.account(*scopes, email=email)
        reader.uid = writer.uid
        if name is not None:
            await self.set_name(writer, name)
        profile = await self.profile(reader)
        answer = (await self.ask("GET", "/v1/avatar", reader)).json
        for member in ("avatar", "avatarDefault"):
            self.assertEqual(profile[member], answer[member])
        self.assertEqual(answer["avatarDefault"], "/v1/avatar/" not in answer["avatar"])
        self.assertEqual((answer["id"], answer["url"]), ("0" * 32, answer["avatar"]))
        return str(answer["avatar"])

    async def test_initial_of_a_visible_name(self) -> None:
        """The monogram is the initial of the name, or else of the address, if visible."""
        root = f"{self.daemon.web_url}/v1/avatar/"
        plain = f"{self.daemon.images_url}/a/{'0' * 32}"
        avatar, name, email = "profile:avatar", "profile:display_name", "profile:email"
        for scopes, has_name, has_email, expected in (
            (("profile",), "zoë", "alice@example.com", root + "z"),
            (("profile",), None, "alice@example.com", root + "a"),
            (("profile",), "Éva", "alice@example.com", root + quote("É")),
            (("profile",), "日本", "alice@example.com", root + quote("日")),
            (("profile",), "7 of 9", "alice@example.com", root + "7"),
            (("profile",), "ßeta", "alice@example.com", root + quote("ß")),
            (("profile",), "<b>", "alice@example.com", root + "a"),
            (("profile",), "🦊", "_@example.com", plain),
            (("profile",), None, None, plain),
            ((avatar,), "zoë", "alice@example.com", plain),
            ((avatar, name), "zoë", "alice@example.com", root + "z"),
            ((avatar, name), None, "alice@example.com", plain),
            ((avatar, email), "zoë", "alice@example.com", root + "a"),
            ((avatar, "email"), "zoë", "bob@example.com", root + "b"),
        ):
            url = await self.avatar(*scopes, name=has_name, email=has_email)
            self.assertEqual(url, expected, (scopes, has_name))

    async def test_same_monogram_for_every_token(self) -> None:
        """A token that sees only the avatar gets the letter that another token has shown."""
        root, writer, reader = f"{self.daemon.web_url}/v1/avatar/", *self.two_tokens()
        self.assertTrue((await self.profile(reader))["avatarDefault"])
        for name, letter in (("zoë", "z"), ("Bob", "B"), ("_", "a")):
            await self.set_name(writer, name)
            self.assertEqual((await self.profile(writer))["avatar"], root + letter)
            shown = {"avatar": root + letter, "avatarDefault": False}
            profile = await self.profile(reader)
            self.assertEqual({member: profile[member] for member in shown}, shown)
            self.assertEqual(
                (await self.ask("GET", "/v1/avatar", reader)).json["url"], root + letter
            )

    def two_tokens(self) -> tuple[Any, Any]:
        """Return two tokens of one user: for the whole profile, and for the avatar alone."""
        writer, reader = self.account(email="alice@example.com"), self.account("profile:avatar")
        reader.uid = writer.uid
        return writer, reader

    async def test_monogram_image(self) -> None:
        """A monogram is an image for any origin, cacheable for a week; longer paths are 404."""
        for letter in ("a", "Z", "7", "é", "e\u0301", "日", "ß", "ا", "<", "&", "🦊", "\0", " "):
            reply = await self.ask("GET", f"/v1/avatar/{quote(letter)}", None)
            self.assertEqual(reply.status, 200, letter)
            self.assertEqual(reply.header("Content-Type"), "image/svg+xml")
            self.assertEqual(reply.header("Cache-Control"), "public, max-age=604800")
            self.assertIn("sandbox", reply.header("Content-Security-Policy"))
            drawn = "".join(ElementTree.fromstring(reply.body).itertext())
            self.assertEqual(len(drawn), 1)
            headers = {"If-None-Match": reply.header("ETag")}
            again = await self.ask("GET", f"/v1/avatar/{quote(letter)}", None, headers=headers)
            self.assertEqual((again.status, again.body), (304, b""))
        for other in ("ab", "<b", "0" * 32, "a" + "\u0301" * 100):
            reply = await self.ask("GET", f"/v1/avatar/{quote(other)}", None)
            self.assertEqual(reply.error, (404, 101), repr(other))
            self.assertEqual(reply.header("Cache-Control"), NOT_KEPT)
