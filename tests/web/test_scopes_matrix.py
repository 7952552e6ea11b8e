"""Every combination of scopes: the fields that a token sees, and the endpoints that it may use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.profiles import Account
from tests.profiles.test_read import ProfilesTestCase
from tests.support.core import ALICE, make_id
from tests.web.service import ApiCase, account

#: Every field of a user that has a value; address and name differ in their first letter.
WHOLE = {
    "uid": ALICE,
    "email": "zora@example.com",
    "locale": "en-US",
    "amrValues": ["pwd", "otp"],
    "twoFactorAuthentication": True,
    "displayName": "Alice",
    "avatar": "http://api.example/v1/avatar/A",
    "avatarId": DEFAULT_AVATAR_ID,
    "avatarDefault": False,
    "subscriptions": ["vpn"],
    "metricsEnabled": False,
    "accountDisabledAt": 1,
    "accountLockedAt": 2,
    "sub": ALICE,
}

_PICTURE = frozenset({"avatar", "avatarId", "avatarDefault"})
_ALL_OF_PROFILE = frozenset(WHOLE) - {"sub", "metricsEnabled"}

#: The fields that each scope shows beside ``metricsEnabled``, as in ``docs/api.md``.
SHOWN: dict[str, frozenset[str]] = {
    "profile": _ALL_OF_PROFILE,
    "profile:uid": frozenset({"uid"}),
    "profile:email": frozenset({"email"}),
    "email": frozenset({"email"}),
    "profile:locale": frozenset({"locale"}),
    "profile:amr": frozenset({"amrValues", "twoFactorAuthentication"}),
    "profile:display_name": frozenset({"displayName"}),
    "profile:avatar": _PICTURE,
    "profile:avatar:write": _PICTURE,
    "profile:subscriptions": frozenset({"subscriptions"}),
    "openid": frozenset({"sub"}),
    "basket": frozenset(),
}

#: Invalid or unrelated scopes that resemble valid ones; they show nothing.
LOOK_ALIKES = (
    *("", " ", "*", "profiles", "Profile", "PROFILE", "profile ", "profile:", ":profile", "prof"),
    *("write", ":write", "profile::email", "profile:emai", "profile:emails", "profile:email:"),
    *("emails", "email:", "openid:", "open_id", "uid", "display_name", "avatar", "locale", "amr"),
    *("profile,email", "profile email", "profile\temail", "profile\n", "profile\0", "pröfile"),
    *("https://identity.mozilla.com/apps/profile", "https://profile", "//profile", "profile/x"),
    *(
        "profile:uid:more",
        "profile.email",
        "profile%3Aemail",
        "profile:*",
        "oldprofile:email",
        "x" * 10_000,
    ),
)


def every_set() -> Iterator[tuple[str, ...]]:
    """Return every set of scopes, small ones first."""
    for size in range(len(SHOWN) + 1):
        yield from combinations(SHOWN, size)


class ViewTests(ProfilesTestCase):
    """:meth:`fxprofile.profiles.read.Profiles.view`, with an auth server that sends every field."""

    def setUp(self) -> None:
        super().setUp()
        self.servers.accounts[ALICE] = Account(
            email="zora@example.com",
            locale="en-US",
            amrValues=["pwd", "otp"],
            twoFactorAuthentication=True,
            subscriptions=["vpn"],
            metricsEnabled=False,
            accountDisabledAt=1,
            accountLockedAt=2,
        )

    def expected(self, scopes: tuple[str, ...]) -> dict[str, Any] | None:
        shown = frozenset().union(*(SHOWN[scope] for scope in scopes))
        if not shown:
            return None
        shown |= {"metricsEnabled"}
        return {name: value for name, value in WHOLE.items() if name in shown}

    def seen(self, scopes: tuple[str, ...]) -> dict[str, Any] | None:
        view = self.view(*scopes)
        return None if view is None else view.fields

    def test_scopes_select_fields(self) -> None:
        """A token sees exactly the fields of its scopes, not those cached for other tokens."""
        sets = list(every_set())
        for scopes in (*sets, *reversed(sets)):
            self.assertEqual(self.seen(scopes), self.expected(scopes), scopes)

    def test_each_set_of_fields_is_cached_once(self) -> None:
        """Tokens that may see the same fields share a cache entry; there are no other entries."""
        views = {frozenset(fields) for scopes in every_set() if (fields := self.seen(scopes))}
        self.assertEqual(len(self.cache.inner), len(views))
        self.cache.calls.clear()
        for scopes in every_set():
            self.seen(scopes)
        self.assertEqual({name for name, _ in self.cache.calls}, {"lookup"})

    def test_invalid_scopes_show_nothing(self) -> None:
        """An invalid scope shows nothing, alone or beside a valid one."""
        for text in LOOK_ALIKES:
            self.assertIsNone(self.seen((text,)), repr(text))
            expected = {"uid": ALICE, "metricsEnabled": False}
            self.assertEqual(self.seen((text, "profile:uid")), expected, repr(text))
        self.assertIsNone(self.seen(LOOK_ALIKES))

    def test_monogram_reveals_no_hidden_letter(self) -> None:
        """The monogram shows no hidden letter that no other token has shown."""
        default = f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        for scopes in every_set():
            self.rows.users[ALICE].monogram = None
            shown = frozenset().union(*(SHOWN[scope] for scope in scopes))
            credentials = self.credentials(*scopes)
            answer, _ = self.run_now(self.profiles.avatar(token="token", credentials=credentials))
            visible = [WHOLE[name] for name in ("displayName", "email") if name in shown]
            letter = f"http://api.example/v1/avatar/{visible[0][0]}" if visible else default
            self.assertEqual(answer["avatar"], letter, scopes)

    def test_selected_avatar_has_no_monogram(self) -> None:
        """A user with an avatar gets its picture and no monogram."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertEqual(avatar.id, make_id(1))
        for scopes in every_set():
            seen = self.seen(scopes) or {}
            if "avatar" in seen:
                self.assertEqual(seen["avatar"], f"http://images.example/a/{avatar.id}")
                self.assertIs(seen["avatarDefault"], False)


#: Each endpoint that needs a token: method, path, body, the status with a sufficient scope, and
#: the scopes that are sufficient.
_READ, _WRITE = ("profile", "profile:write"), ("profile:write",)
ENDPOINTS: tuple[tuple[str, str, bytes | None, int, tuple[str, ...]], ...] = (
    ("GET", "/v1/email", None, 200, (*_READ, "profile:email", "email", "email:write")),
    ("GET", "/v1/uid", None, 200, (*_READ, "profile:uid", "profile:uid:write")),
    ("GET", "/v1/subscriptions", None, 200, (*_READ, "profile:subscriptions")),
    (
        *("GET", "/v1/display_name", None, 204),
        (*_READ, "profile:display_name", "profile:display_name:write"),
    ),
    ("POST", "/v1/display_name", b"[]", 400, (*_WRITE, "profile:display_name:write")),
    ("GET", "/v1/avatar", None, 200, (*_READ, "profile:avatar", "profile:avatar:write")),
    (
        *("GET", f"/v1/avatar/upload/{make_id(5)}", None, 404),
        (*_READ, "profile:avatar", "profile:avatar:write"),
    ),
    ("DELETE", "/v1/avatar", None, 404, (*_WRITE, "profile:avatar:write")),
    ("DELETE", f"/v1/avatar/{make_id(5)}", None, 404, (*_WRITE, "profile:avatar:write")),
    ("POST", "/v1/avatar/upload", b"?", 415, (*_WRITE, "profile:avatar:write")),
)

TRIED = sorted(
    {
        *SHOWN,
        *(scope for *_, enough in ENDPOINTS for scope in enough),
        *("profile:locale:write", "profile:amr:write", "openid:write", "basket:write", "write"),
    }
)


class EndpointTests(ApiCase):
    """Each endpoint, with a token of each scope."""

    def accounts(self) -> Any:
        return [
            account(f"token{number}", f"{number:032x}", scope) for number, scope in enumerate(TRIED)
        ]

    async def test_endpoints_accept_sufficient_scopes_only(self) -> None:
        """An endpoint accepts a token with one of its scopes, and answers 403 to any other."""
        for method, path, body, status, enough in ENDPOINTS:
            for number, scope in enumerate(TRIED):
                reply = await self.ask(method, path, token=f"token{number}", body=body)
                expected = status if scope in enough else 403
                self.assertEqual(reply.status, expected, (method, path, scope))
                if expected == 403:
                    self.assertEqual(reply.json["errno"], 100)
                    self.assertEqual(
                        reply.header("WWW-Authenticate"), 'Bearer error="insufficient_scope"'
                    )

    def test_matrix_covers_every_endpoint(self) -> None:
        """The matrix covers every endpoint that needs a scope."""
        there = {
            (method, path.replace("<name>", make_id(5)).replace("<avatar_id>", make_id(5)))
            for method, path in ((op.method, op.path) for op in self.api.operations.values())
            if path.startswith("/v1/")
        }
        # Not the monogram, the endpoint for any scope, and those of the auth server.
        there -= {("GET", f"/v1/avatar/{make_id(5)}")}
        there -= {("GET", "/v1/profile"), ("POST", "/v1/profile")}
        there = {(method, path) for method, path in there if "<uid>" not in path}
        self.assertEqual({(method, path) for method, path, *_ in ENDPOINTS}, there)
