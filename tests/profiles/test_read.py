"""
Tests of :mod:`fxprofile.profiles.read`.
"""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import Deferred

from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.read import FIELD_SCOPES, Profiles, ProfileView
from tests.support.core import ALICE, CoreTestCase
from tests.support.fakes.flaky import Flaky
from tests.support.fakes.identity import FakeIdentity

#: Every scope that a field needs, and some that no field needs.
SCOPES = (
    "profile",
    "profile:uid",
    "profile:email",
    "email",
    "profile:locale",
    "profile:amr",
    "profile:display_name",
    "profile:avatar",
    "openid",
    "profile:write",
    "basket",
)

#: The fields that each scope shows.
SHOWN = {
    "profile": {
        *("uid", "email", "locale", "amrValues", "twoFactorAuthentication", "displayName"),
        *("avatar", "avatarDefault"),
    },
    "profile:uid": {"uid"},
    "profile:email": {"email"},
    "email": {"email"},
    "profile:locale": {"locale"},
    "profile:amr": {"amrValues", "twoFactorAuthentication"},
    "profile:display_name": {"displayName"},
    "profile:avatar": {"avatar", "avatarDefault"},
    "openid": {"sub"},
    "basket": set(),
}
SHOWN["profile:write"] = SHOWN["profile"]

BASIC = ("profile:display_name", "profile:email", "profile:uid")


class ProfilesTestCase(CoreTestCase):
    """Base of tests with one user, who has an account and a display name."""

    monogram_url: str | None = "http://api.example/v1/avatar/"

    def setUp(self) -> None:
        super().setUp()
        self.servers = FakeIdentity()
        self.servers.accounts[ALICE] = Account(
            email="alice@example.com", locale="en-US", amr_values=("pwd",), two_factor=False
        )
        self.identity = Flaky(self.servers)
        self.profiles = Profiles(
            identity=self.identity,
            store=self.store,
            cache=self.cache,
            invalidator=self.invalidator,
            metrics=self.metrics,
            clock=self.clock,
            image_template="http://images.example/a/{id}",
            monogram_url=self.monogram_url,
        )
        self.name("Alice")

    def name(self, name: str | None) -> None:
        self.run_now(self.profiles.set_display_name(ALICE, name))

    def credentials(self, *scopes: str, changed_at: int | None = None) -> Credentials:
        return Credentials(uid=ALICE, scopes=scopes, profile_changed_at=changed_at)

    def viewing(
        self, *scopes: str, changed_at: int | None = None, token: str = "token"
    ) -> Deferred[ProfileView]:
        credentials = self.credentials(*scopes, changed_at=changed_at)
        view = self.profiles.view(token=token, credentials=credentials)
        return Deferred.fromCoroutine(view)

    def view(self, *scopes: str, changed_at: int | None = None) -> Any:
        return self.successResultOf(self.viewing(*scopes, changed_at=changed_at))

    def reads(self) -> int:
        """Return how often the auth server was asked."""
        return len(self.identity.called("account"))

    def upstream_errors(self, upstream: str) -> float | None:
        """Return the value of the counter of failed calls."""
        return self.metrics.registry.get_sample_value(
            "fxprofile_upstream_errors_total", {"upstream": upstream}
        )


class FieldTests(ProfilesTestCase):
    """A token sees the fields that its scopes allow, and no others."""

    def test_every_combination(self) -> None:
        """The fields of a combination of scopes are those of each scope together."""
        for size in range(len(SCOPES) + 1):
            for scopes in itertools.combinations(SCOPES, size):
                expected = set().union(*(SHOWN[scope] for scope in scopes))
                view = self.view(*scopes)
                self.assertEqual(set(view.fields) if view else set(), expected, scopes)
                self.assertEqual(view is None, not expected, scopes)

    def test_values_of_all_fields(self) -> None:
        """The fields have the values of the account and the database."""
        self.assertEqual(
            self.view("profile", "openid").fields,
            {
                "uid": ALICE,
                "sub": ALICE,
                "email": "alice@example.com",
                "locale": "en-US",
                "amrValues": ["pwd"],
                "twoFactorAuthentication": False,
                "displayName": "Alice",
                "avatar": "http://api.example/v1/avatar/A",
                "avatarDefault": True,
            },
        )

    def test_unknown_values_are_left_out(self) -> None:
        """A field without a value is left out."""
        self.servers.accounts[ALICE] = Account()
        self.name(None)
        fields = self.view("profile").fields
        self.assertEqual(set(fields), {"uid", "avatar", "avatarDefault"})
        self.assertEqual(fields["avatar"], f"http://images.example/a/{DEFAULT_AVATAR_ID}")

    def test_auth_server_is_not_asked_needlessly(self) -> None:
        """A token that sees no field of the account causes no request to the auth server."""
        self.view("profile:avatar", "profile:display_name", "profile:uid", "openid")
        self.assertEqual(self.reads(), 0)

    def test_every_field_has_a_scope(self) -> None:
        """These tests cover every field."""
        self.assertEqual(set().union(*SHOWN.values()), set(FIELD_SCOPES))

    def test_etag_changes_with_visible_fields(self) -> None:
        """The ETag changes if and only if a visible field changes."""
        first = self.view("profile:display_name", "openid")
        self.assertEqual(self.view("profile:display_name", "openid").etag, first.etag)
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertEqual(self.view("profile:display_name", "openid").etag, first.etag)
        self.name("Alicia")
        self.assertNotEqual(self.view("profile:display_name", "openid").etag, first.etag)

    def test_modified_is_the_latest_change(self) -> None:
        """The modification time is the later of the account's and the profile's last change."""
        self.assertEqual(self.view("openid").modified, 1_000_000)
        self.assertEqual(self.view("openid", changed_at=999_000_000_000).modified, 999_000_000)
        self.name("Alicia")
        modified = self.view("openid", changed_at=1_000).modified
        self.assertEqual(int(modified), 1_000_000)


class AvatarUrlTests(ProfilesTestCase):
    """The URL of a user's avatar, monogram or default avatar."""

    def url(self, *scopes: str) -> str:
        url: str = self.view(*scopes, "profile:avatar").fields["avatar"]
        return url

    def test_selected_avatar_takes_precedence(self) -> None:
        """A selected avatar takes precedence over a monogram."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertEqual(self.url("profile"), f"http://images.example/a/{avatar.id}")
        self.assertFalse(self.view("profile").fields["avatarDefault"])

    def test_monogram_is_the_initial_of_a_visible_name(self) -> None:
        """Without an avatar, the monogram is the initial of the name or address that is visible."""
        default = f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        monogram = "http://api.example/v1/avatar/"
        for name, scope, expected in (
            ("zoë", "profile:display_name", monogram + "Z"),
            ("ärger", "profile:display_name", monogram + "%C3%84"),
            ("ßtraße", "profile:display_name", monogram + "S"),
            ("7", "profile:display_name", monogram + "7"),
            ("/../x", "profile:display_name", default),
            (" ", "profile:display_name", default),
            ("zoë", "profile:email", monogram + "A"),
            ("zoë", "profile", monogram + "Z"),
            (None, "profile", monogram + "A"),
            (None, "profile:display_name", default),
            # The initial reveals a part of the name.
            ("zoë", "profile:uid", default),
            (None, "profile:uid", default),
        ):
            self.name(name)
            self.assertEqual(self.url(scope), expected, (name, scope))
            credentials = self.credentials("profile:avatar", scope)
            answer, _ = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
            self.assertEqual(answer["avatar"], expected, (name, scope))
            self.assertEqual(answer["id"], DEFAULT_AVATAR_ID)
            self.assertTrue(answer["avatarDefault"])

    def test_latest_upload_is_returned_too(self) -> None:
        """The latest upload is returned besides the selected avatar."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        credentials = self.credentials("profile:avatar")
        answer, latest = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        self.assertEqual((answer["id"], latest.id), (first.id, second.id))
        self.assertEqual(answer["url"], answer["avatar"])
        self.assertEqual(self.reads(), 0)


class WithoutMonogramTests(ProfilesTestCase):
    """Profiles with monograms disabled."""

    monogram_url = None

    def test_default_avatar_without_monograms(self) -> None:
        """Without monograms the default avatar is shown, and no address is requested."""
        default = f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        self.assertEqual(self.view("profile:avatar").fields["avatar"], default)
        credentials = self.credentials("profile")
        answer, _ = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        self.assertEqual(answer["avatar"], default)
        self.assertEqual(self.reads(), 0)
