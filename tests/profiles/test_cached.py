"""
Tests of :mod:`fxprofile.profiles.read`: what is kept, and what is read by many at one time.
"""

from __future__ import annotations

import json
from traceback import walk_tb

from fxprofile.model.errors import (
    AccountUnknown,
    AuthUnavailable,
    CacheError,
    QueueError,
    StoreError,
    UpstreamRefused,
)
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.invalidation import Changes
from fxprofile.profiles.read import CACHED_SCOPES
from tests.profiles.test_read import BASIC, ProfilesTestCase
from tests.support.core import ALICE, BOB


class KeptTests(ProfilesTestCase):
    """Profiles that are kept."""

    def test_kept(self) -> None:
        """The two common sets of scopes are read once, and from the cache after that."""
        for scopes in (("profile",), BASIC):
            before = self.reads()
            first = self.view(*scopes)
            self.assertEqual(self.view(*reversed(scopes)), first)
            self.assertEqual(self.reads(), before + 1)

    def test_each_set_apart(self) -> None:
        """What was kept for one set of scopes is not shown to the other."""
        self.view("profile")
        self.assertEqual(set(self.view(*BASIC).fields), {"displayName", "email", "uid"})

    def test_no_others(self) -> None:
        """Any other set is neither kept nor answered from what is."""
        self.view("profile")
        self.view(*BASIC)
        self.cache.calls.clear()
        for scopes in (("profile", "openid"), ("profile", "profile:write"), BASIC[:2], ("email",)):
            self.assertNotIn(frozenset(scopes), CACHED_SCOPES)
            before = self.reads()
            self.view(*scopes)
            self.assertEqual(self.reads(), before + 1)
        self.assertEqual(self.cache.calls, [])

    def test_write(self) -> None:
        """A user who writes sees what was written."""
        self.view("profile")
        self.name("Alicia")
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_newer_account(self) -> None:
        """A token that knows of a newer account makes the kept profile old."""
        self.view("profile", changed_at=1000)
        self.view("profile", changed_at=1000)
        self.view("profile", changed_at=None)
        self.view("profile", changed_at=500)
        self.assertEqual(self.reads(), 1)
        self.view("profile", changed_at=1001)
        self.assertEqual(self.reads(), 2)
        self.view("profile", changed_at=1001)
        self.assertEqual(self.reads(), 2)

    def test_cache_fails(self) -> None:
        """A cache that is down is worked without, and counted."""
        for method in ("get", "set"):
            self.cache.fail(method, CacheError("down"), times=2)
            before = self.reads()
            self.assertEqual(self.view("profile").fields["displayName"], "Alice")
            self.assertEqual(self.reads(), before + 1)
        self.cache.fail("drop", CacheError("down"))
        self.name("Alicia")
        labels = {"upstream": "cache"}
        value = self.metrics.registry.get_sample_value("fxprofile_upstream_errors_total", labels)
        self.assertEqual(value, 4)

    def test_odd_entries(self) -> None:
        """What another version of the program has kept is as good as nothing."""
        for text in ("", "{", "[]", "{}", "null", '{"fields": {}}', "9" * 5000):
            self.run_now(self.cache.inner.set(uid=ALICE, variant="profile", value=text))
            self.assertEqual(self.view("profile").fields["displayName"], "Alice")
        odd = {"fields": {}, "etag": "", "modified": 0, "token_changed_at": "x"}
        self.run_now(self.cache.inner.set(uid=ALICE, variant="profile", value=json.dumps(odd)))
        self.assertEqual(self.view("profile", changed_at=1).fields["displayName"], "Alice")

    def test_failures_are_not_kept(self) -> None:
        """A profile that could not be read is read again the next time."""
        self.identity.fail("account", AuthUnavailable("down"))
        self.failureResultOf(self.viewing("profile"), AuthUnavailable)
        self.store.fail("profile", StoreError("down"))
        self.failureResultOf(self.viewing("profile"), StoreError)
        self.assertEqual(self.view("profile").fields["displayName"], "Alice")


class TogetherTests(ProfilesTestCase):
    """Many who ask for the same profile at one time."""

    def test_one_read(self) -> None:
        """A profile that many ask for is read once."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(20)]
        for viewing in views:
            self.assertNoResult(viewing)
        held.callback(None)
        results = [self.successResultOf(viewing) for viewing in views]
        self.assertEqual([result == results[0] for result in results], [True] * 20)
        self.assertEqual(self.reads(), 1)

    def test_each_user_and_set_apart(self) -> None:
        """Another user, or another set of scopes, is another read."""
        self.servers.accounts[BOB] = Account(email="bob@example.com")
        held = self.identity.hold("account")
        first = self.viewing("profile")
        self.assertEqual(self.view(*BASIC).fields["uid"], ALICE)
        other = self.profiles.view(token="t", credentials=Credentials(BOB, ("profile",)))
        self.assertEqual(self.run_now(other).fields["email"], "bob@example.com")
        held.callback(None)
        self.successResultOf(first)

    def test_failure(self) -> None:
        """If the read fails, it does so for all of them, and is not tried by each."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(5)]
        held.errback(AuthUnavailable("down"))
        for viewing in views:
            self.failureResultOf(viewing, AuthUnavailable)
        self.assertEqual(self.reads(), 1)
        self.view("profile")

    def test_one_error_for_all(self) -> None:
        """The error that many get does not grow with each of them."""
        held = self.identity.hold("account")
        views = [self.viewing("profile") for _ in range(50)]
        held.errback(AuthUnavailable("down"))
        depths = {
            len(list(walk_tb(self.failureResultOf(viewing).value.__traceback__)))
            for viewing in views
        }
        self.assertLess(max(depths), 30)

    def test_nobody_left(self) -> None:
        """That a read fails which nobody waits for any longer is no failure of ours."""
        held = self.identity.hold("account")
        viewing = self.viewing("profile")
        viewing.addErrback(lambda failure: None)
        viewing.cancel()
        held.errback(AuthUnavailable("down"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_refused_token(self) -> None:
        """That the token of one of them is refused says nothing of the others'."""
        for error in (AccountUnknown("revoked"), UpstreamRefused("odd")):
            held = self.identity.hold("account")
            first = self.viewing("profile", token="revoked")
            second = self.viewing("profile", token="good")
            held.errback(error)
            self.failureResultOf(first, type(error))
            self.assertEqual(self.successResultOf(second).fields["displayName"], "Alice")
            self.assertEqual(self.identity.called("account")[-1]["token"], "good")
            self.run_now(self.cache.inner.drop(uid=ALICE))

    def test_first_one_gone(self) -> None:
        """If the one who asked first goes away, the others get their answer all the same."""
        held = self.identity.hold("account")
        first, second, third = (self.viewing("profile") for _ in range(3))
        for gone in (first, third):
            gone.addErrback(lambda failure: None)
            gone.cancel()
        held.callback(None)
        self.assertEqual(self.successResultOf(second).fields["displayName"], "Alice")

    def test_newer_token(self) -> None:
        """Who knows of a newer account does not wait for a read that began before."""
        held = self.identity.hold("account", after=True)
        first = self.viewing("profile", changed_at=1000)
        self.servers.accounts[ALICE] = Account(email="new@example.com")
        second = self.viewing("profile", changed_at=2000)
        self.assertEqual(self.successResultOf(second).fields["email"], "new@example.com")
        held.callback(None)
        self.assertEqual(self.successResultOf(first).fields["email"], "alice@example.com")
        self.assertEqual(self.view("profile").fields["email"], "new@example.com")
        self.assertEqual(self.reads(), 2)


class ChangesTests(ProfilesTestCase):
    """Profiles that change while they are read."""

    def test_write_during_a_read(self) -> None:
        """What was read before a write is not kept, and not shown to who comes after it."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.name("Alicia")
        second = self.viewing("profile")
        self.assertEqual(self.successResultOf(second).fields["displayName"], "Alicia")
        held.callback(None)
        self.assertEqual(self.successResultOf(first).fields["displayName"], "Alice")
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_write_while_keeping(self) -> None:
        """A write that comes while the profile is put into the cache leaves nothing old."""
        for after in (False, True):
            self.name("Alice")
            held = self.cache.hold("set", after=after)
            first = self.viewing("profile")
            self.name("Alicia")
            held.callback(None)
            self.successResultOf(first)
            self.assertEqual(self.view("profile").fields["displayName"], "Alicia")

    def test_write_of_another(self) -> None:
        """The write of one user does not concern the profile of another."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.run_now(self.changes.forget(BOB))
        held.callback(None)
        self.successResultOf(first)
        self.view("profile")
        self.assertEqual(self.reads(), 1)

    def test_write_in_another_process(self) -> None:
        """What was read while another process changed it is not kept."""
        held = self.store.hold("profile", after=True)
        first = self.viewing("profile")
        self.run_now(self.rows.set_display_name(uid=ALICE, name="Alicia", now=self.clock.seconds()))
        self.run_now(self.cache.inner.drop(uid=ALICE))
        held.callback(None)
        self.successResultOf(first)
        before = self.reads()
        self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
        self.assertEqual(self.reads(), before + 1)

    def test_unknown_generation(self) -> None:
        """A profile is not kept if the cache does not say which one it would replace."""
        self.cache.fail("generation", CacheError("down"))
        self.assertEqual(self.view("profile").fields["displayName"], "Alice")
        self.assertEqual(self.cache.called("set"), [])

    def test_drop_fails(self) -> None:
        """What the cache could not be told to drop is not shown, until it has heard of it."""
        self.view("profile")
        self.view(*BASIC)
        self.cache.fail("drop", CacheError("down"), times=5)
        self.name("Alicia")
        for _ in range(6):
            self.assertEqual(self.view("profile").fields["displayName"], "Alicia")
        self.assertEqual(self.view(*BASIC).fields["displayName"], "Alicia")
        before = self.reads()
        self.view("profile")
        self.view(*BASIC)
        self.assertEqual(self.reads(), before, "it is not kept again")

    def test_drop_fails_for_another(self) -> None:
        """The cache hears of what it missed also when somebody else is read."""
        self.servers.accounts[BOB] = Account()
        for uid in (ALICE, BOB):
            self.run_now(self.cache.inner.set(uid=uid, variant="profile", value="old"))
        self.cache.fail("drop", CacheError("down"))
        self.name("Alicia")
        bob = Credentials(uid=BOB, scopes=("profile",))
        self.run_now(self.profiles.view(token="bob", credentials=bob))
        self.assertIsNone(self.run_now(self.cache.inner.get(uid=ALICE, variant="profile")))
        self.assertEqual(self.changes._owed, {})

    def test_another_drop_fails(self) -> None:
        """A change that comes while the cache hears of the one before is not forgotten."""
        self.view("profile")
        self.cache.fail("drop", CacheError("down"))
        self.name("Alicia")
        held = self.cache.hold("drop", after=True)
        reading = self.viewing("profile")
        self.cache.fail("drop", CacheError("down"), times=2)
        self.name("Alix")
        self.run_now(self.cache.inner.set(uid=ALICE, variant="profile", value="old"))
        held.callback(None)
        self.successResultOf(reading)
        self.view("profile")
        self.assertEqual(self.view("profile").fields["displayName"], "Alix")
        self.assertEqual(self.changes._owed, {})

    def test_owed_is_bounded(self) -> None:
        """However long the cache is away, what is remembered of it does not grow for ever."""
        changes = Changes(cache=self.cache, updates=None, metrics=self.metrics, max_owed=3)
        self.cache.fail("drop", CacheError("down"), times=5)
        for number in range(5):
            self.run_now(changes.forget(f"{number}"))
        self.assertEqual(list(changes._owed), ["2", "3", "4"])

    def test_nothing_is_noted_for_ever(self) -> None:
        """When nobody reads, nothing is remembered of users."""
        self.view("profile")
        self.name("Alicia")
        self.assertEqual(self.changes._readings, {})
        self.assertEqual(self.profiles._fetching, {})

    def test_updates(self) -> None:
        """Each write is told to the updates queue, which nobody waits for."""
        self.received(self.updates_queue)
        held = self.updates.hold("send")
        self.name("Alicia")
        self.assertEqual(self.received(self.updates_queue), [])
        held.callback(None)
        (body,) = self.received(self.updates_queue)
        self.assertEqual(json.loads(json.loads(body)["Message"]), {"uid": ALICE})

    def test_updates_fail(self) -> None:
        """If the updates queue is down the write stands."""
        self.updates.fail("send", QueueError("down"))
        self.name("Alicia")
        self.assertEqual(self.run_now(self.profiles.display_name(ALICE)), "Alicia")
        labels = {"upstream": "updates"}
        value = self.metrics.registry.get_sample_value("fxprofile_upstream_errors_total", labels)
        self.assertEqual(value, 1)

    def test_write_fails(self) -> None:
        """A write that failed is told to nobody."""
        self.received(self.updates_queue)
        self.store.fail("set_display_name", StoreError("down"))
        self.fails_now(self.profiles.set_display_name(ALICE, "Alicia"), StoreError)
        self.assertEqual(self.received(self.updates_queue), [])
