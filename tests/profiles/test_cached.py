"""Cached profiles: what is served, what is stored, and what a change invalidates."""

from __future__ import annotations

import json
from traceback import walk_tb

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.errors import (
    AccountUnknown,
    AuthUnavailable,
    CacheError,
    StoreError,
    UpstreamRefused,
)
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.read import profile_variant, visible_fields
from tests.contracts.cache import put
from tests.profiles.test_read import BASIC, SCOPES, ProfilesTestCase
from tests.support.core import ALICE, BOB


class CachedProfileTests(ProfilesTestCase):
    """A profile is read once and served from the cache until it changes."""

    def test_second_view_is_served_from_the_cache(self) -> None:
        """The first view reads the profile; later views take it from the cache."""
        for scopes in (("profile",), BASIC, ("profile", "profile:write"), ("email",)):
            before = self.reads()
            first = self.view(*scopes)
            self.assertEqual(self.view(*reversed(scopes)), first)
            self.assertLessEqual(self.reads(), before + 1, scopes)

    def test_cached_view_costs_one_round_trip(self) -> None:
        """A cached profile costs one cache lookup, and neither a store nor an auth call."""
        self.view("profile")
        self.cache.calls.clear()
        self.store.calls.clear()
        self.identity.calls.clear()
        self.view("profile")
        self.assertEqual([name for name, _ in self.cache.calls], ["lookup"])
        self.assertEqual((self.store.calls, self.identity.calls), ([], []))

    def test_tokens_that_see_the_same_fields_share_an_entry(self) -> None:
        """Tokens with different scopes share an entry if the same fields are visible."""
        view = self.view("profile")
        self.assertEqual(self.view("profile", "profile:write"), view)
        self.assertEqual(self.view("profile", "profile:email", "basket"), view)
        self.assertEqual(self.reads(), 1)

    def test_each_set_of_fields_has_its_own_entry(self) -> None:
        """A token never sees a field of an entry that a token with other scopes has cached."""
        for scope in SCOPES:
            self.view("profile", "openid", scope)
            self.view(scope)
        for scope in SCOPES:
            view = self.view(scope)
            self.assertLessEqual(set(view.fields) if view else set(), set(visible_fields((scope,))))
        self.assertEqual(set(self.view(*BASIC).fields), {"displayName", "email", "uid"})

    def test_subscriptions_are_cached_by_client(self) -> None:
        """A token never sees the subscriptions that were cached for another client."""
        for client in ("vpn", "relay", None):
            self.servers.accounts[ALICE] = Account(subscriptions=[f"of {client}"])
            for _ in range(2):
                credentials = self.credentials("profile", client=client)
                view = self.run_now(self.profiles.view(token="t", credentials=credentials))
                self.assertEqual(view.fields["subscriptions"], [f"of {client}"])
        self.assertEqual(self.reads(), 3)

    def test_other_fields_are_cached_for_all_clients(self) -> None:
        """Clients that see no subscriptions share an entry."""
        for client in ("vpn", "relay", None):
            credentials = self.credentials(*BASIC, client=client)
            self.run_now(self.profiles.view(token="t", credentials=credentials))
        self.assertEqual(self.reads(), 1)

    def test_token_that_sees_nothing(self) -> None:
        """A token that may see no field costs no lookup."""
        self.assertIsNone(self.view("basket"))
        self.assertEqual(self.cache.called("lookup"), [])

    def test_user_sees_the_own_write(self) -> None:
        """After a write the profile has the written value."""
        self.view("profile")
        self.name("Alicia")
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_later_account_change(self) -> None:
        """A token that reports a later account change than any before causes a new read."""
        self.view("profile", changed_at=1000)
        for changed_at in (1000, None, 500):
            self.view("profile", changed_at=changed_at)
        self.assertEqual(self.reads(), 1)
        self.view("profile", changed_at=1001)
        self.view("profile", changed_at=1001)
        self.assertEqual(self.reads(), 2)

    def test_unreachable_cache(self) -> None:
        """While the cache fails, profiles are read without it and the failures are counted."""
        for method in ("lookup", "store"):
            self.cache.fail(method, CacheError("down"))
            before = self.reads()
            self.assertEqual(self.view("profile").fields["displayName"], "Alice")
            self.assertEqual(self.reads(), before + 1)
        self.assertEqual(self.upstream_errors("cache"), 2)

    def test_entries_of_other_versions_are_ignored(self) -> None:
        """An entry that another version of the program has stored is read again."""
        variant = profile_variant(self.credentials("profile"))
        for text in ("", "{", "[]", "{}", "null", '{"fields": {}}', "9" * 5000):
            self.run_now(put(self.cache.inner, ALICE, variant, text))
            self.assertEqual(self.view("profile").fields["displayName"], "Alice")
        odd = {"fields": {}, "etag": "", "modified": 0, "token_changed_at": 1}
        self.run_now(put(self.cache.inner, ALICE, variant, json.dumps(odd)))
        self.assertEqual(self.view("profile").fields["displayName"], "Alice")

    def test_failures_are_not_cached(self) -> None:
        """After a failed read the next view reads again."""
        self.identity.fail("account", AuthUnavailable("down"))
        self.failureResultOf(self.viewing("profile"), AuthUnavailable)
        self.store.fail("profile", StoreError("down"))
        self.failureResultOf(self.viewing("profile"), StoreError)
        self.assertEqual(self.view("profile").fields["displayName"], "Alice")


class SharedReadTests(ProfilesTestCase):
    """Concurrent views of one profile share a read."""

    def test_concurrent_views_share_one_read(self) -> None:
        """Views that start while the profile is being read wait for that read."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(20)]
        for viewing in views:
            self.assertNoResult(viewing)
        held.callback(None)
        results = [self.successResultOf(viewing) for viewing in views]
        self.assertEqual([result == results[0] for result in results], [True] * 20)
        self.assertEqual(self.reads(), 1)

    def test_each_user_and_set_of_fields_has_its_own_read(self) -> None:
        """Views of another user or other fields do not share the read."""
        self.servers.accounts[BOB] = Account(email="bob@example.com")
        held = self.identity.hold("account")
        first = self.viewing("profile")
        self.assertEqual(self.view(*BASIC).fields["uid"], ALICE)
        other = self.profiles.view(token="t", credentials=Credentials(BOB, ("profile",)))
        self.assertEqual(self.run_now(other).fields["email"], "bob@example.com")
        held.callback(None)
        self.successResultOf(first)

    def test_failure_is_shared(self) -> None:
        """If the read fails, all waiting views fail, and none of them reads again."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(5)]
        held.errback(AuthUnavailable("down"))
        for viewing in views:
            self.failureResultOf(viewing, AuthUnavailable)
        self.assertEqual(self.reads(), 1)
        self.view("profile")

    def test_shared_error_does_not_grow(self) -> None:
        """The traceback of a shared error does not grow with the number of waiting views."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(50)]
        held.errback(AuthUnavailable("down"))
        depths = {
            len(list(walk_tb(self.failureResultOf(viewing).value.__traceback__)))
            for viewing in views
        }
        self.assertLess(max(depths), 30)

    def test_abandoned_read_is_cancelled(self) -> None:
        """When the only waiting view is cancelled, the read is cancelled and nothing is stored."""
        self.identity.hold("account")
        viewing = self.viewing("profile")
        viewing.cancel()
        self.failureResultOf(viewing, CancelledError)
        self.assertEqual(self.cache.called("store"), [])
        self.assertEqual(self.flushLoggedErrors(), [])
        self.view("profile")
        self.assertEqual(self.reads(), 2)

    def test_cancelled_view_does_not_disturb_the_others(self) -> None:
        """When some waiting views are cancelled, the others still get the profile."""
        held = self.identity.hold("account")
        first, second, third = (self.viewing("profile") for _ in range(3))
        for gone in (first, third):
            gone.cancel()
            self.failureResultOf(gone, CancelledError)
        held.callback(None)
        self.assertEqual(self.successResultOf(second).fields["displayName"], "Alice")
        self.assertEqual(self.reads(), 1)

    def test_refused_token_does_not_affect_other_tokens(self) -> None:
        """If the token of the shared read is refused, the other views use their own tokens."""
        for error in (AccountUnknown("revoked"), UpstreamRefused("odd")):
            held = self.identity.hold("account")
            first = self.viewing("profile", token="revoked")
            second = self.viewing("profile", token="good")
            held.errback(error)
            self.failureResultOf(first, type(error))
            self.assertEqual(self.successResultOf(second).fields["displayName"], "Alice")
            self.assertEqual(
                [call["token"] for call in self.identity.called("account")][-2:],
                ["revoked", "good"],
            )
            self.run_now(self.cache.inner.invalidate(uid=ALICE))


class ConcurrentChangeTests(ProfilesTestCase):
    """A profile that changes while it is read is neither stored nor shared afterwards."""

    def test_write_during_a_read(self) -> None:
        """A view after a write does not join a read from before it, which is not stored."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.name("Alicia")
        second = self.viewing("profile")
        self.assertEqual(self.successResultOf(second).fields["displayName"], "Alicia")
        held.callback(None)
        self.assertEqual(self.successResultOf(first).fields["displayName"], "Alice")
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_write_during_a_store(self) -> None:
        """A write during the store leaves no earlier profile in the cache."""
        for after in (False, True):
            self.name("Alice")
            held = self.cache.hold("store", after=after)
            first = self.viewing("profile")
            self.name("Alicia")
            held.callback(None)
            self.successResultOf(first)
            self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_write_of_another_user(self) -> None:
        """A change of one user does not keep the profile of another from being stored."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.run_now(self.invalidator.invalidate(BOB))
        held.callback(None)
        self.successResultOf(first)
        self.view("profile")
        self.assertEqual(self.reads(), 1)

    def test_write_in_another_process(self) -> None:
        """A profile that another process changed while it was read is not stored."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.run_now(self.rows.set_display_name(uid=ALICE, name="Alicia", now=self.clock.seconds()))
        self.run_now(self.cache.inner.invalidate(uid=ALICE))
        second = self.viewing("profile")
        self.assertEqual(self.successResultOf(second).fields["displayName"], "Alicia")
        held.callback(None)
        self.successResultOf(first)
        before = self.reads()
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
        self.assertEqual(self.reads(), before)

    def test_later_account_change_during_a_read(self) -> None:
        """A token with a later account change does not join an earlier read."""
        held = self.identity.hold("account", after=True)
        first = self.viewing("profile", changed_at=1000)
        self.servers.accounts[ALICE] = Account(email="new@example.com")
        second = self.viewing("profile", changed_at=2000)
        self.assertEqual(self.successResultOf(second).fields["email"], "new@example.com")
        held.callback(None)
        self.assertEqual(self.successResultOf(first).fields["email"], "alice@example.com")
        for changed_at in (None, 1000, 2000):
            view = self.view("profile", changed_at=changed_at)
            self.assertEqual(view.fields["email"], "new@example.com")
        self.assertEqual(self.reads(), 2)

    def test_failed_invalidation_during_a_read(self) -> None:
        """A read that a change overtook is not stored if the cache does not know of the change."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.cache.fail("invalidate", CacheError("down"))
        self.name("Alicia")
        held.callback(None)
        self.assertEqual(self.successResultOf(first).fields["displayName"], "Alice")
        self.assertEqual(self.cache.called("store"), [])
        self.run_now(self.invalidator.flush_pending())
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_views_during_an_invalidation(self) -> None:
        """While an invalidation is under way, the user is not served from the cache."""
        self.view("profile")
        held = self.cache.hold("invalidate")
        writing = Deferred.fromCoroutine(self.profiles.set_display_name(ALICE, "Alicia"))
        self.assertNoResult(writing)
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
        held.callback(None)
        self.successResultOf(writing)
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
