"""Profiles and display names over HTTP."""

from __future__ import annotations

import json
import unicodedata
from email.utils import parsedate_to_datetime

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.errors import (
    AccountUnknown,
    AuthUnavailable,
    BadRequest,
    OAuthUnavailable,
    UpstreamRefused,
    UpstreamThrottled,
)
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.profiles import Account, Credentials
from fxprofile.web.limits import USERS_PER_ADDRESS
from fxprofile.web.models import SetDisplayName, SetDisplayNameOfUser, validated
from tests.web.service import ALICE, BOB, ApiCase, account


class ProfileTests(ApiCase):
    """``GET /v1/profile`` and the endpoints of single fields."""

    def accounts(self):
        return (
            *super().accounts(),
            account("uid", "1" * 32, "profile:uid"),
            account("mail", "2" * 32, "email"),
            account("openid", "3" * 32, "openid", "profile:uid"),
            account("amr", "4" * 32, "profile:amr", "profile:locale"),
            account("other", "5" * 32, "sync"),
            account("basic", "6" * 32, "profile:uid", "profile:email", "profile:display_name"),
        )

    async def fields(self, token: str) -> set[str]:
        return set((await self.ask("GET", "/v1/profile", token=token)).json)

    async def test_profile_scope_shows_all_fields(self) -> None:
        """A token with the scope profile gets every field."""
        reply = await self.ask("GET", "/v1/profile")
        self.assertEqual(
            reply.json,
            {
                "uid": ALICE,
                "email": "alice@example.com",
                "locale": "en",
                "amrValues": ["pwd", "otp"],
                "twoFactorAuthentication": True,
                "avatar": "http://api.example/v1/avatar/a",
                "avatarId": DEFAULT_AVATAR_ID,
                "avatarDefault": False,
            },
        )

    async def test_profile_has_the_display_name(self) -> None:
        """A display name that was set is in the profile."""
        await self.ask("POST", "/v1/display_name", body=b'{"displayName": "Alice"}')
        reply = await self.ask("GET", "/v1/profile")
        self.assertEqual(reply.json["displayName"], "Alice")

    async def test_scopes_select_fields(self) -> None:
        """A token gets only the fields of its scopes."""
        self.assertEqual(await self.fields("uid"), {"uid"})
        self.assertEqual(await self.fields("mail"), {"email"})
        self.assertEqual(await self.fields("openid"), {"uid", "sub"})
        self.assertEqual(
            await self.fields("amr"), {"amrValues", "twoFactorAuthentication", "locale"}
        )
        self.assertEqual(await self.fields("basic"), {"uid", "email"})

    async def test_no_field_is_403(self) -> None:
        """A token that may see no field gets 403."""
        reply = await self.ask("GET", "/v1/profile", token="other")
        self.assertEqual((reply.status, reply.json["errno"]), (403, 100))

    async def test_matching_etag_of_a_profile_gives_304(self) -> None:
        """A request with the current ETag gets 304, until the profile changes."""
        reply = await self.ask("GET", "/v1/profile")
        etag = reply.header("ETag")
        self.assertTrue(reply.header("Last-Modified").endswith(" GMT"))
        again = await self.ask("GET", "/v1/profile", headers={"If-None-Match": etag})
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(again.header("ETag"), etag)
        await self.ask("POST", "/v1/display_name", body=b'{"displayName": "Alice"}')
        changed = await self.ask("GET", "/v1/profile", headers={"If-None-Match": etag})
        self.assertEqual(changed.status, 200)
        self.assertNotEqual(changed.header("ETag"), etag)

    async def test_last_modified_is_not_in_the_future(self) -> None:
        """Last-Modified is the time that the token reports, and never in the future."""
        for changed_at, expected in (
            (None, 1_000_000_000),
            (1_234_567_890_500, 1_234_567_890),
            (4_000_000_000_000, None),
            (2**53, None),
        ):
            uid = ALICE if changed_at is None else BOB

            async def verify(*, token: str, uid=uid, changed_at=changed_at) -> Credentials:
                return Credentials(uid=uid, scopes=("profile:uid",), profile_changed_at=changed_at)

            async def nothing(*, token: str, credentials: object) -> Account:
                return Account()

            self.identity.verify, self.identity.account = verify, nothing
            before = int(reactor.seconds())
            reply = await self.ask("GET", "/v1/profile")
            self.assertEqual((reply.status, reply.json), (200, {"uid": uid}))
            modified = parsedate_to_datetime(reply.header("Last-Modified")).timestamp()
            if expected is None:
                self.assertTrue(before <= modified <= reactor.seconds(), changed_at)
            else:
                self.assertEqual(modified, expected)

    async def test_single_field_endpoints(self) -> None:
        """Email and uid have endpoints of their own, each with its scope."""
        self.assertEqual((await self.ask("GET", "/v1/email")).json, {"email": "alice@example.com"})
        self.assertEqual((await self.ask("GET", "/v1/uid")).json, {"uid": ALICE})
        self.assertEqual((await self.ask("GET", "/v1/email", token="mail")).status, 200)
        self.assertEqual((await self.ask("GET", "/v1/uid", token="mail")).status, 403)
        self.assertEqual((await self.ask("GET", "/v1/email", token="uid")).status, 403)

    async def test_head_matches_get(self) -> None:
        """HEAD returns the headers of GET."""
        reply = await self.ask("HEAD", "/v1/profile")
        self.assertEqual((reply.status, reply.body), (200, b""))
        self.assertIsNotNone(reply.header("ETag"))

    async def test_upstream_failures_have_errnos(self) -> None:
        """Each failure of an identity server has its own status and errno, without details."""
        for error, status, errno in (
            (OAuthUnavailable("secret"), 503, 104),
            (AuthUnavailable("secret"), 503, 105),
            (AccountUnknown("secret"), 401, 100),
            (UpstreamRefused("secret"), 400, 107),
            (UpstreamThrottled("secret", 17), 429, 114),
            (ZeroDivisionError("secret"), 500, 999),
        ):

            async def fail(*, token: str, credentials: object, error: Exception = error) -> None:
                raise error

            self.identity.account = fail
            reply = await self.ask("GET", "/v1/email")
            self.assertEqual((reply.status, reply.json["errno"]), (status, errno))
            self.assertNotIn("secret", reply.body.decode())
            retry_after = {429: "17", 503: "5"}.get(status)
            self.assertEqual(reply.header("Retry-After"), retry_after)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_subscriptions(self) -> None:
        """The subscriptions of an account are an endpoint and a field, which is absent without."""
        reply = await self.ask("GET", "/v1/subscriptions")
        self.assertEqual((reply.status, reply.json), (200, {"subscriptions": []}))
        self.assertNotIn("subscriptions", await self.fields("alice"))

        async def subscribed(*, token: str, credentials: object) -> Account:
            return Account(subscriptions=["relay", "vpn"], metricsEnabled=False)

        self.identity.account = subscribed
        reply = await self.ask("GET", "/v1/subscriptions")
        self.assertEqual(reply.json, {"subscriptions": ["relay", "vpn"]})
        await self.ask("POST", "/v1/display_name", body=b'{"displayName": "Alice"}')
        profile = (await self.ask("GET", "/v1/profile")).json
        self.assertEqual(profile["subscriptions"], ["relay", "vpn"])
        self.assertEqual((await self.ask("GET", "/v1/subscriptions", token="mail")).status, 403)
        self.assertEqual(
            (await self.ask("GET", "/v1/profile", token="mail")).json, {"metricsEnabled": False}
        )


class UserInfoTests(ApiCase):
    """``POST /v1/profile``."""

    FORM = "application/x-www-form-urlencoded"

    async def post(self, body: bytes | None, token: str | None = None, kind: str = FORM):
        headers = {"Content-Type": kind}
        return await self.ask("POST", "/v1/profile", token=token, headers=headers, body=body)

    async def test_post_equals_get(self) -> None:
        """POST returns what GET returns, whether the token is in the header or in a form."""
        expected = await self.ask("GET", "/v1/profile")
        for reply in (
            await self.ask("POST", "/v1/profile"),
            await self.post(b"", "alice"),
            await self.post(b"more=1", "alice"),
            await self.post(b"{}", "alice", "application/json"),
            await self.post(b"access_token=alice"),
            await self.post(b"a=b&access_token=alice", kind=f"{self.FORM.upper()}; charset=utf-8"),
        ):
            self.assertEqual((reply.status, reply.json), (200, expected.json))
            self.assertEqual(reply.header("ETag"), expected.header("ETag"))

    async def test_post_is_never_304(self) -> None:
        """A POST with the current ETag gets the profile."""
        etag = (await self.ask("GET", "/v1/profile")).header("ETag")
        reply = await self.ask("POST", "/v1/profile", headers={"If-None-Match": etag})
        self.assertEqual(reply.status, 200)

    async def test_one_token_only(self) -> None:
        """A token in header and form, or two in the form, is 400; none, or a bad one, is 401."""
        for body, token, status in (
            (b"access_token=alice", "alice", 400),
            (b"access_token=", "alice", 400),
            (b"access_token=alice&access_token=alice", None, 400),
            (b"access_token=\xff", None, 400),
            (b"access_token=alice" + b"&a" * 99, None, 200),
            (b"access_token=alice" + b"&a" * 100, None, 400),
            (b"access_token=%ff", None, 401),
            (b"access_token=", None, 401),
            (b"access_token=nobody", None, 401),
            (b"access_token=a+b", None, 401),
            (b"token=alice", None, 401),
            (b"", None, 401),
        ):
            reply = await self.post(body, token)
            self.assertEqual(reply.status, status, body)
        reply = await self.post(b"access_token=alice", kind="text/plain")
        self.assertEqual((reply.status, reply.header("WWW-Authenticate")), (401, "Bearer"))
        reply = await self.ask("POST", "/v1/profile", token="other")
        self.assertEqual((reply.status, reply.json["errno"]), (403, 100))

    async def test_long_forms_are_413(self) -> None:
        """A form of more than 8 KiB is 413, and the longest token fits."""
        for length, status in ((9000, 413), (4096, 401)):
            self.assertEqual((await self.post(b"access_token=" + b"a" * length)).status, status)

    async def test_other_endpoints_take_no_form_field(self) -> None:
        """Only the UserInfo endpoint takes a token from a form."""
        reply = await self.ask(
            "POST",
            "/v1/display_name",
            token=None,
            headers={"Content-Type": self.FORM},
            body=b"access_token=alice",
        )
        self.assertEqual(reply.status, 401)

    def accounts(self):
        return (*super().accounts(), account("other", "5" * 32, "sync"))


class DisplayNameTests(ApiCase):
    """``/v1/display_name``."""

    async def post(self, body: bytes, **headers: str):
        return await self.ask("POST", "/v1/display_name", body=body, headers=headers)

    async def test_unset_name_is_204(self) -> None:
        """Without a display name the answer is 204 without a body."""
        reply = await self.ask("GET", "/v1/display_name")
        self.assertEqual((reply.status, reply.body), (204, b""))

    async def test_name_is_set_and_unset(self) -> None:
        """A name can be set, read, and removed by an empty one."""
        reply = await self.post('{"displayName": "Zoë 🦊"}'.encode())
        self.assertEqual((reply.status, reply.json), (200, {}))
        reply = await self.ask("GET", "/v1/display_name")
        self.assertEqual(reply.json, {"displayName": "Zoë 🦊"})
        await self.post(b'{"displayName": ""}')
        self.assertEqual((await self.ask("GET", "/v1/display_name")).status, 204)

    async def test_name_has_an_etag(self) -> None:
        """A request with the ETag of the name gets 304 until the name changes."""
        await self.post(b'{"displayName": "A"}')
        etag = (await self.ask("GET", "/v1/display_name")).header("ETag")
        for sent in (etag, f"W/{etag}", f'"{etag}"', f'"W/{etag}"'):
            headers = {"If-None-Match": sent}
            again = await self.ask("GET", "/v1/display_name", headers=headers)
            self.assertEqual((again.status, again.body, again.header("ETag")), (304, b"", etag))
        await self.post(b'{"displayName": "B"}')
        reply = await self.ask("GET", "/v1/display_name", headers={"If-None-Match": etag})
        self.assertEqual((reply.status, reply.json), (200, {"displayName": "B"}))

    async def test_name_of_a_deleted_account(self) -> None:
        """A name of an account that was deleted meanwhile is refused with 401, and not stored."""
        await self.selection.delete_user(ALICE)
        reply = await self.post(b'{"displayName": "Alice"}')
        self.assertEqual((reply.status, reply.json["errno"]), (401, 100))
        self.assertIsNone((await self.store.profile(uid=ALICE)).display_name)

    async def test_name_belongs_to_one_user(self) -> None:
        """A name of one user is not that of another."""
        await self.post(b'{"displayName": "A"}')
        reply = await self.ask("GET", "/v1/display_name", token="bob")
        self.assertEqual(reply.status, 204)

    async def test_invalid_bodies_are_400(self) -> None:
        """A body that is not a JSON object with a valid name is 400."""
        for body in (
            b"",
            b"{",
            b"[]",
            b"{}",
            b'{"displayName": 1}',
            b'{"displayName": null}',
            b'{"displayName": "\\u0000"}',
            b'{"displayName": "\\ud800"}',
            b'{"displayName": "\xff"}',
            json.dumps({"displayName": "x" * 257}).encode(),
            b"[" * 60000,
        ):
            reply = await self.post(body)
            self.assertEqual((reply.status, reply.json["errno"]), (400, 101), body[:40])

    async def test_other_media_types_are_415(self) -> None:
        """A body that is not declared as plain JSON is 415, and is not read."""
        good = b'{"displayName": "Zo"}'
        for content_type in (
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/merge-patch+json",
        ):
            reply = await self.post(good, **{"Content-Type": content_type})
            self.assertEqual(reply.status, 200, content_type)
        for name, value in (
            ("Content-Type", "text/plain"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Type", "application/jsonx"),
            ("Content-Type", "json"),
            ("Content-Encoding", "gzip"),
        ):
            reply = await self.post(good, **{name: value})
            self.assertEqual((reply.status, reply.json["errno"]), (415, 101), value)
            self.assertIn(name, reply.json["message"])
        unsent = await self.raw(
            b"POST /v1/display_name HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 20\r\nExpect: 100-continue\r\n\r\n",
            hold=True,
        )
        self.assertTrue(unsent.startswith(b"HTTP/1.1 415 "), unsent)

    async def test_longest_name(self) -> None:
        """256 characters are accepted, of any plane of Unicode."""
        reply = await self.post(json.dumps({"displayName": "🦊" * 256}).encode())
        self.assertEqual(reply.status, 200)

    async def test_large_body_is_413(self) -> None:
        """A body of more than 64 KiB is 413, chunked or not."""
        body = b'{"displayName": "' + b"x" * 70000 + b'"}'
        self.assertEqual((await self.post(body)).status, 413)
        head = (
            b"POST /v1/display_name HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        reply = await self.raw(head, chunk, b"0\r\n\r\n", hold=True)
        self.assertTrue(reply.startswith(b"HTTP/1.1 413 "), reply)


def _is_ordinary(character: str) -> bool:
    """Return whether the rules allow a character; they are stated in Unicode's own terms."""
    if unicodedata.category(character) in ("Cc", "Co", "Cs", "Zl", "Zp"):
        return False
    return not (0xFFF9 <= ord(character) <= 0xFFFC or ord(character) in (0xFFFE, 0xFFFF))


class DisplayNameRuleTests(SynchronousTestCase):
    """The characters of a display name."""

    def check(self, name: str) -> str:
        return validated(SetDisplayName, {"displayName": name}).display_name

    def test_forbidden_characters(self) -> None:
        """Controls, separators, private use, annotation and noncharacters are refused."""
        for character in (
            *map(chr, range(0x20)),
            *map(chr, range(0x7F, 0xA0)),
            *"\u2028\u2029\ue000\uf8ff\ufff9\ufffa\ufffb\ufffc\ufffe\uffff\ud800\udfff",
            "\U000f0000",
            "\U0010fffd",
        ):
            with self.assertRaises(BadRequest, msg=repr(character)):
                self.check(f"a{character}b")

    @given(st.text(st.characters().filter(_is_ordinary), max_size=256))
    @example("👩\u200d👩\u200d👧")
    @example("\u200fאבג\u200e")
    @example("\ufeff\U0001fffe")
    @settings(deadline=None)
    def test_other_characters_are_kept(self, name: str) -> None:
        """Any other text is accepted unchanged, joiners and direction marks included."""
        self.assertEqual(self.check(name), name)

    @given(st.characters())
    @settings(deadline=None)
    def test_position_does_not_matter(self, character: str) -> None:
        """A forbidden character is refused at any position; another one is accepted at any."""
        for name in (character, f"{character}a", f"a{character}", f"a{character}b"):
            if _is_ordinary(character):
                self.assertEqual(self.check(name), name)
            else:
                self.assertRaises(BadRequest, self.check, name)

    def test_message_names_the_member_and_its_problem(self) -> None:
        """The message names the member as the client wrote it, and its problem."""
        for members, message in (
            ({}, "displayName must be a string."),
            ({"displayName": None}, "displayName must be a string."),
            ({"displayName": 1}, "displayName must be a string."),
            ({"displayName": b"bytes"}, "displayName must be a string."),
            ({"displayName": "x" * 257}, "displayName may have at most 256 characters."),
            (
                {"displayName": "\0"},
                "displayName has a control, private or invalid character.",
            ),
            (
                {"displayName": "\ud800"},
                "displayName has a control, private or invalid character.",
            ),
        ):
            with self.assertRaises(BadRequest) as caught:
                validated(SetDisplayName, members)
            self.assertEqual(caught.exception.text, message)
        with self.assertRaises(BadRequest) as caught:
            validated(SetDisplayNameOfUser, {"displayName": "Zo"})
        self.assertEqual(caught.exception.text, "name must be a string.")


class WriteLimitTests(ApiCase):
    """The limit on writes."""

    writes_per_minute = 2

    async def test_writes_per_user(self) -> None:
        """
        Writes of a user beyond the limit are 429 with Retry-After; reads and other users are not.
        """
        body = b'{"displayName": "A"}'
        replies = [
            await self.ask("POST", "/v1/display_name", body=body),
            await self.ask("DELETE", "/v1/avatar/default"),
            await self.ask("POST", "/v1/display_name", body=body),
            await self.ask("DELETE", "/v1/avatar"),
            await self.upload(),
            await self.ask("GET", "/v1/profile"),
            await self.ask("POST", "/v1/display_name", token="bob", body=body),
        ]
        self.assertEqual([reply.status for reply in replies], [200, 200, 429, 429, 429, 200, 200])
        self.assertEqual(replies[2].json["errno"], 114)
        self.assertIn(int(replies[2].header("Retry-After")), range(1, 61))
        self.assertEqual(self.private.objects, {})

    async def test_writes_per_address(self) -> None:
        """Writes from one address beyond ten times the limit are 429, whoever writes."""
        for number in range(USERS_PER_ADDRESS):
            uid = f"{number:032x}"
            for _ in range(2):
                await self.api._writes.count(uid=uid, address="127.0.0.1")
        reply = await self.ask("DELETE", "/v1/avatar")
        self.assertEqual(reply.status, 429)
        headers = {"X-Forwarded-For": "192.0.2.1"}
        self.assertEqual((await self.ask("DELETE", "/v1/avatar", headers=headers)).status, 404)
