"""
Tests of :mod:`fxprofile.profiles.read`.
"""

from __future__ import annotations

import itertools
from typing import Any

from twisted.internet.defer import Deferred

from fxprofile.model.errors import StoreError
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.monogram import Monograms
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
    "profile:subscriptions",
    "profile:display_name",
    "profile:avatar",
    "openid",
    "profile:write",
    "basket",
)

#: The fields that each scope shows, beside ``metricsEnabled``.
SHOWN = {
    "profile": {
        *("uid", "email", "locale", "amrValues", "twoFactorAuthentication", "displayName"),
        *("avatar", "avatarId", "avatarDefault", "subscriptions"),
        *("accountDisabledAt", "accountLockedAt"),
    },
    "profile:uid": {"uid"},
    "profile:email": {"email"},
    "email": {"email"},
    "profile:locale": {"locale"},
    "profile:amr": {"amrValues", "twoFactorAuthentication"},
    "profile:subscriptions": {"subscriptions"},
    "profile:display_name": {"displayName"},
    "profile:avatar": {"avatar", "avatarId", "avatarDefault"},
    "openid": {"sub"},
    "basket": set(),
}
SHOWN["profile:write"] = SHOWN["profile"]

BASIC = ("profile:display_name", "profile:email", "profile:uid")


#: An account with every field.
WHOLE = Account(
    email="alice@example.com",
    locale="en-US",
    amrValues=["pwd"],
    twoFactorAuthentication=False,
    subscriptions=["vpn"],
    metricsEnabled=False,
    accountDisabledAt=1,
    accountLockedAt=2,
)


class ProfilesTestCase(CoreTestCase):
    """Base of tests with one user, who has an account and a display name."""

    has_monograms = True

    def setUp(self) -> None:
        super().setUp()
        self.servers = FakeIdentity()
        self.servers.accounts[ALICE] = Account(
            email="alice@example.com",
            locale="en-US",
            amrValues=["pwd"],
            twoFactorAuthentication=False,
        )
        self.identity = Flaky(self.servers)
        monograms = Monograms(
            store=self.store,
            invalidator=self.invalidator,
            metrics=self.metrics,
            url="http://api.example/v1/avatar/",
        )
        self.profiles = Profiles(
            identity=self.identity,
            store=self.store,
            cache=self.cache,
            invalidator=self.invalidator,
            metrics=self.metrics,
            clock=self.clock,
            image_template="http://images.example/a/{id}",
            monograms=monograms if self.has_monograms else None,
        )
        self.name("Alice")

    def name(self, name: str | None) -> None:
        self.run_now(self.profiles.set_display_name(ALICE, name))

    def credentials(
        self, *scopes: str, changed_at: int | None = None, client: str | None = None
    ) -> Credentials:
        return Credentials(ALICE, scopes, profile_changed_at=changed_at, client_id=client)

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
        self.servers.accounts[ALICE] = WHOLE
        for size in range(len(SCOPES) + 1):
            for scopes in itertools.combinations(SCOPES, size):
                expected = set().union(*(SHOWN[scope] for scope in scopes))
                expected |= {"metricsEnabled"} if expected else set()
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
                "avatarId": DEFAULT_AVATAR_ID,
                "avatarDefault": False,
            },
        )

    def test_unknown_values_are_left_out(self) -> None:
        """A field without a value is left out."""
        self.servers.accounts[ALICE] = Account()
        self.name(None)
        fields = self.view("profile").fields
        self.assertEqual(set(fields), {"uid", "avatar", "avatarId", "avatarDefault"})
        self.assertEqual(fields["avatar"], f"http://images.example/a/{DEFAULT_AVATAR_ID}")

    def test_metrics_flag_goes_to_every_token(self) -> None:
        """A token of any scope that shows a field sees the user's choice about metrics."""
        for enabled in (True, False):
            self.servers.accounts[ALICE] = Account(metricsEnabled=enabled)
            self.run_now(self.invalidator.invalidate(ALICE))
            for scope in ("profile:uid", "profile:email", "email", "openid", "profile:avatar"):
                self.assertIs(self.view(scope).fields["metricsEnabled"], enabled, scope)
        self.assertIsNone(self.view("basket"))

    def test_every_field_has_a_scope(self) -> None:
        """These tests cover every field."""
        self.assertEqual(set().union(*SHOWN.values()) | {"metricsEnabled"}, set(FIELD_SCOPES))

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
        """Return the URL in the profile."""
        fields = self.view(*scopes, "profile:avatar").fields
        is_default = fields["avatar"] == f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        self.assertEqual(fields["avatarDefault"], is_default)
        return str(fields["avatar"])

    def avatar_url(self, *scopes: str) -> str:
        """Return the URL of the avatar alone."""
        credentials = self.credentials(*scopes)
        answer, _ = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        is_default = answer["avatar"] == f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        self.assertEqual(answer["avatarDefault"], is_default)
        self.assertEqual(answer["id"], DEFAULT_AVATAR_ID)
        return str(answer["avatar"])

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
            ("zoë", "profile:display_name", monogram + "z"),
            ("ärger", "profile:display_name", monogram + "%C3%A4"),
            ("ßtraße", "profile:display_name", monogram + "%C3%9F"),
            ("7", "profile:display_name", monogram + "7"),
            ("/../x", "profile:display_name", default),
            (" ", "profile:display_name", default),
            ("zoë", "profile:email", monogram + "a"),
            ("zoë", "profile", monogram + "z"),
            (None, "profile", monogram + "a"),
            ("_zoë", "profile", monogram + "a"),
            ("🦊", "profile:email", monogram + "a"),
            (None, "profile:display_name", default),
            # The initial reveals a part of the name.
            ("zoë", "profile:uid", default),
            (None, "profile:uid", default),
        ):
            for url in (self.url, self.avatar_url):
                # Forget the letter, which is stored when it is shown.
                self.rows.users.clear()
                self.name(name)
                self.assertEqual(url("profile:avatar", scope), expected, (name, scope))

    def test_pending_upload_is_returned_too(self) -> None:
        """The id of a pending upload is returned besides the selected avatar."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        credentials = self.credentials("profile:avatar")
        answer, pending = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        self.assertEqual((answer["id"], pending), (first.id, second.id))
        self.assertEqual(answer["url"], answer["avatar"])
        self.assertEqual(self.reads(), 0)


class StoredMonogramTests(ProfilesTestCase):
    """The letter of a monogram that is stored, for tokens that see neither name nor address."""

    def seen(self, *scopes: str) -> str:
        """Return the end of the URL of the avatar, in the profile and alone."""
        credentials = self.credentials("profile:avatar", *scopes)
        answer, _ = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        fields = self.view("profile:avatar", *scopes).fields
        self.assertEqual(fields, fields | {name: answer[name] for name in fields.keys() & answer})
        return str(answer["avatar"]).rpartition("/")[2]

    def writes(self) -> int:
        """Return how often a letter was stored."""
        return len(self.store.called("set_monogram"))

    def invalidate(self) -> None:
        self.run_now(self.invalidator.invalidate(ALICE))

    def test_letter_is_stored_once(self) -> None:
        """A letter is written when it is first shown, and not by any later read."""
        self.assertEqual((self.seen(), self.writes()), (DEFAULT_AVATAR_ID, 0))
        self.view("profile")
        self.assertEqual(self.writes(), 1)
        for _ in range(2):
            for scopes in ((), ("profile",), ("profile:email",), ("profile:display_name",)):
                self.assertEqual(self.seen(*scopes), "A", scopes)
            self.invalidate()
        self.assertEqual(self.writes(), 1)

    def test_token_that_sees_no_avatar_stores_nothing(self) -> None:
        """A token that may not see the avatar stores no letter."""
        self.view(*BASIC)
        self.assertEqual(self.writes(), 0)

    def test_user_without_a_row(self) -> None:
        """The letter of a user who has neither name nor upload is stored, too."""
        self.rows.users.clear()
        self.assertEqual((self.seen("profile"), self.seen()), ("a", "a"))

    def test_letter_follows_the_name(self) -> None:
        """After a change of the name the stored letter is that of the new one."""
        self.seen("profile")
        for name, alone, whole in (("bob", "b", "b"), ("_", DEFAULT_AVATAR_ID, "a")):
            self.name(name)
            self.assertEqual(
                (self.seen(), self.seen("profile"), self.seen()), (alone, whole, whole)
            )

    def test_letter_follows_the_address(self) -> None:
        """After a change of the address the stored letter, also a cached one, is the new one."""
        self.name(None)
        self.assertEqual((self.seen("profile"), self.seen()), ("a", "a"))
        self.servers.accounts[ALICE] = Account(email="zora@example.com")
        self.invalidate()
        self.assertEqual((self.seen(), self.seen("profile"), self.seen()), ("a", "z", "z"))
        self.servers.accounts[ALICE] = Account(email="_@example.com")
        self.invalidate()
        none = DEFAULT_AVATAR_ID
        self.assertEqual((self.seen(), self.seen("profile"), self.seen()), ("z", none, none))

    def test_letter_of_a_hidden_name_is_kept(self) -> None:
        """A token that sees only the address does not replace the letter of the name."""
        self.name("Zoë")
        self.assertEqual((self.seen("profile:email"), self.seen()), ("a", "a"))
        for scopes in (("profile",), ("profile:email",), ()):
            self.assertEqual(self.seen(*scopes), "Z")
        self.assertEqual(self.writes(), 2)

    def test_letter_of_an_old_name_is_not_stored(self) -> None:
        """A read that began before the name was changed does not store the old letter."""
        release = self.store.hold("set_monogram")
        reading = self.viewing("profile")
        self.name("Bob")
        release.callback(None)
        self.successResultOf(reading)
        self.assertEqual(self.seen(), DEFAULT_AVATAR_ID)
        self.assertEqual((self.seen("profile"), self.seen()), ("B", "B"))

    def test_letter_is_removed_with_the_account(self) -> None:
        """The letter of a deleted account is removed, and a read in progress restores none."""
        self.seen("profile")
        self.servers.accounts[ALICE] = Account(email="zora@example.com")
        self.name(None)
        release = self.store.hold("set_monogram")
        reading = self.viewing("profile")
        self.run_now(self.selection.delete_user(ALICE))
        release.callback(None)
        self.successResultOf(reading)
        self.assertEqual(self.seen(), DEFAULT_AVATAR_ID)
        self.assertIsNone(self.rows.users[ALICE].monogram)

    def test_letter_that_cannot_be_stored(self) -> None:
        """A letter that cannot be stored is shown all the same, logged and counted."""
        self.store.fail("set_monogram", StoreError("read-only"))
        self.assertEqual(self.view("profile").fields["avatar"][-2:], "/A")
        self.assertEqual(self.upstream_errors("database"), 1)
        self.assertIn("read-only", self.logged[-1])


class WithoutMonogramTests(ProfilesTestCase):
    """Profiles with monograms disabled."""

    has_monograms = False

    def test_default_avatar_without_monograms(self) -> None:
        """Without monograms the default avatar is shown, and no address is requested."""
        default = f"http://images.example/a/{DEFAULT_AVATAR_ID}"
        self.assertEqual(self.view("profile:avatar").fields["avatar"], default)
        before = self.reads()
        credentials = self.credentials("profile")
        answer, _ = self.run_now(self.profiles.avatar(token="t", credentials=credentials))
        self.assertEqual((answer["avatar"], answer["avatarDefault"]), (default, True))
        self.assertEqual(self.reads(), before)
        self.assertIs(self.view("profile").fields["avatarDefault"], True)
        self.assertEqual(self.store.called("set_monogram"), [])
