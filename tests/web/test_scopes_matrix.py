"""Every combination of scopes, and what a token with it sees and may do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.profiles import Account
from tests.profiles.test_read import ProfilesTestCase
from tests.support.core import ALICE, make_id
from tests.web.service import ApiCase, account

#: What a user has who has everything, by field; the address and the name differ in
#: their first letter.
WHOLE = {
    "uid": ALICE,
    "email": "zora@example.com",
    "locale": "en-US",
    "amrValues": ["pwd", "otp"],
    "twoFactorAuthentication": True,
    "displayName": "Alice",
    "avatarDefault": True,
    "sub": ALICE,
}

_ALL_OF_PROFILE = frozenset({*WHOLE, "avatar"}) - {"sub"}

#: What each scope shows, as ``docs/api.md`` has it.
SHOWN: dict[str, frozenset[str]] = {
    "profile": _ALL_OF_PROFILE,
    "profile:uid": frozenset({"uid"}),
    "profile:email": frozenset({"email"}),
    "email": frozenset({"email"}),
    "profile:locale": frozenset({"locale"}),
    "profile:amr": frozenset({"amrValues", "twoFactorAuthentication"}),
    "profile:display_name": frozenset({"displayName"}),
    "profile:avatar": frozenset({"avatar", "avatarDefault"}),
    "profile:avatar:write": frozenset({"avatar", "avatarDefault"}),
    "openid": frozenset({"sub"}),
    "profile:uid:more": frozenset(),
    "basket": frozenset(),
}

#: Texts that look like scopes that show something, and show nothing.
LOOK_ALIKES = (
    *("", " ", "*", "profiles", "Profile", "PROFILE", "profile ", "profile:", ":profile", "prof"),
    *("write", ":write", "profile::email", "profile:emai", "profile:emails", "profile:email:"),
    *("emails", "email:", "openid:", "open_id", "uid", "display_name", "avatar", "locale", "amr"),
    *("profile,email", "profile email", "profile\temail", "profile\n", "profile\0", "pröfile"),
    *("https://identity.mozilla.com/apps/profile", "https://profile", "//profile", "profile/x"),
    *("profile.email", "profile%3Aemail", "profile:*", "oldprofile:email", "x" * 10_000),
)


def every_set() -> Iterator[tuple[str, ...]]:
    """Every set of scopes, the small ones first."""
    for size in range(len(SHOWN) + 1):
        yield from combinations(SHOWN, size)


class ViewTests(ProfilesTestCase):
    """:meth:`fxprofile.profiles.read.Profiles.view`, which asks a server that says too much."""

    def setUp(self) -> None:
        super().setUp()
        self.servers.accounts[ALICE] = Account(
            email="zora@example.com", locale="en-US", amr_values=("pwd", "otp"), two_factor=True
        )

    def expected(self, scopes: tuple[str, ...]) -> dict[str, Any] | None:
        shown = frozenset().union(*(SHOWN[scope] for scope in scopes))
        if not shown:
            return None
        fields = {name: value for name, value in WHOLE.items() if name in shown}
        if "avatar" in shown:
            fields["avatar"] = self.picture(shown)
        return fields

    def picture(self, shown: frozenset[str]) -> str:
        for name in ("displayName", "email"):
            if name in shown:
                return f"http://api.example/v1/avatar/{WHOLE[name][0].upper()}"
        return f"http://images.example/a/{DEFAULT_AVATAR_ID}"

    def seen(self, scopes: tuple[str, ...]) -> dict[str, Any] | None:
        view = self.view(*scopes)
        return None if view is None else view.fields

    def test_every_set(self) -> None:
        """A token sees the fields of its scopes, whatever was kept for those before it."""
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

    def test_auth_server_is_asked_only_for_visible_fields(self) -> None:
        """The auth server is asked only if the token may see a field that it knows."""
        needed = {"email", "locale", "amrValues", "twoFactorAuthentication"}
        for scopes in every_set():
            self.run_now(self.invalidator.invalidate(ALICE))
            before = self.reads()
            shown = frozenset().union(*(SHOWN[scope] for scope in scopes))
            self.seen(scopes)
            self.assertEqual(self.reads() - before, bool(shown & needed), scopes)

    def test_look_alikes(self) -> None:
        """What is no scope shows nothing, alone and beside one that is."""
        for text in LOOK_ALIKES:
            self.assertIsNone(self.seen((text,)), repr(text))
            self.assertEqual(self.seen((text, "profile:uid")), {"uid": ALICE}, repr(text))
        self.assertIsNone(self.seen(LOOK_ALIKES))

    def test_avatar(self) -> None:
        """The picture gives away no letter that the token may not see."""
        for scopes in every_set():
            shown = frozenset().union(*(SHOWN[scope] for scope in scopes))
            credentials = self.credentials(*scopes)
            answer, _ = self.run_now(self.profiles.avatar(token="token", credentials=credentials))
            self.assertEqual(answer["avatar"], self.picture(shown), scopes)

    def test_own_picture(self) -> None:
        """A user with an avatar has that one, for whoever may see it, and no letter."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertEqual(avatar.id, make_id(1))
        for scopes in every_set():
            seen = self.seen(scopes) or {}
            if "avatar" in seen:
                self.assertEqual(seen["avatar"], f"http://images.example/a/{avatar.id}")
                self.assertIs(seen["avatarDefault"], False)


#: Each endpoint that needs a token, with a body, what it answers to who may ask it, and
#: the scopes that are enough.
_READ, _WRITE = ("profile", "profile:write"), ("profile:write",)
ENDPOINTS: tuple[tuple[str, str, bytes | None, int, tuple[str, ...]], ...] = (
    ("GET", "/v1/email", None, 200, (*_READ, "profile:email", "email", "email:write")),
    ("GET", "/v1/uid", None, 200, (*_READ, "profile:uid", "profile:uid:write")),
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
    """Each endpoint, asked with a token of each scope."""

    def accounts(self) -> Any:
        return [
            account(f"token{number}", f"{number:032x}", scope) for number, scope in enumerate(TRIED)
        ]

    async def test_every_scope(self) -> None:
        """Who has one of the scopes of an endpoint may ask it, and nobody else."""
        for method, path, body, status, enough in ENDPOINTS:
            for number, scope in enumerate(TRIED):
                reply = await self.ask(method, path, token=f"token{number}", body=body)
                expected = status if scope in enough else 403
                self.assertEqual(reply.status, expected, (method, path, scope))
                if expected == 403:
                    self.assertEqual(reply.json["errno"], 100)

    def test_every_endpoint(self) -> None:
        """No endpoint with a scope is left out."""
        there = {
            (method, path.replace("<name>", make_id(5)).replace("<avatar_id>", make_id(5)))
            for method, path in ((op.method, op.path) for op in self.api.operations.values())
            if path.startswith("/v1/")
        }
        # Those without a scope, those of the auth server, and the one that any scope may ask.
        there -= {("GET", f"/v1/avatar/{make_id(5)}"), ("GET", "/v1/profile")}
        there = {(method, path) for method, path in there if "<uid>" not in path}
        self.assertEqual({(method, path) for method, path, *_ in ENDPOINTS}, there)
