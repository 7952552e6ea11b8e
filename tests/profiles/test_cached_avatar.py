"""Cached avatars: what is served without reading, and what each change of an avatar invalidates."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.avatars import Avatar
from fxprofile.model.errors import CacheError
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import ResultStatus
from fxprofile.model.profiles import Account, Credentials
from fxprofile.profiles.read import AVATAR_AGE, Profiles, avatar_variant
from fxprofile.settings.model import Settings
from tests.contracts.cache import put
from tests.profiles.test_read import ProfilesTestCase
from tests.support.core import ALICE, BOB, JPEG

SCOPE = "profile:avatar"


class CachedAvatarCase(ProfilesTestCase):
    """Base of tests that read the avatar of one user."""

    def showing(self, *scopes: str, uid: str = ALICE, profiles: Profiles | None = None) -> Any:
        credentials = Credentials(uid, scopes or (SCOPE,))
        reading = (profiles or self.profiles).avatar(token="t", credentials=credentials)
        return Deferred.fromCoroutine(reading)

    def show(self, *scopes: str, uid: str = ALICE, profiles: Profiles | None = None) -> Any:
        """Return the id of the avatar, and that of the pending upload."""
        shown, pending = self.successResultOf(self.showing(*scopes, uid=uid, profiles=profiles))
        return shown["id"], pending

    def selects(self) -> int:
        """Return how often the store was read for the avatar."""
        return len(self.store.called("current_avatar"))

    def select(self) -> str:
        """Upload an avatar, which becomes the selected one, and cache it."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertEqual(self.show(), (avatar.id, None))
        return avatar.id

    def assert_cached(self, avatar_id: str) -> None:
        before = self.selects()
        self.assertEqual(self.show(), (avatar_id, None))
        self.assertEqual(self.selects(), before)


class CachedAvatarTests(CachedAvatarCase):
    """An avatar is read once, and served from the cache until it changes."""

    def test_second_read_is_served_from_the_cache(self) -> None:
        """A cached avatar costs one cache lookup, and neither a store nor an auth call."""
        self.select()
        for driver in (self.cache, self.store, self.identity):
            driver.calls.clear()
        first = self.successResultOf(self.showing())
        self.assertEqual(self.successResultOf(self.showing()), first)
        self.assertEqual([name for name, _ in self.cache.calls], ["lookup"] * 2)
        self.assertEqual((self.store.calls, self.identity.calls), ([], []))

    def test_read_is_one_call_of_the_store(self) -> None:
        """An avatar that is not cached costs one call of the store."""
        self.select()
        self.run_now(self.invalidator.invalidate(ALICE))
        self.store.calls.clear()
        self.show()
        self.assertEqual([name for name, _ in self.store.calls], ["current_avatar"])

    def test_monogram_is_cached(self) -> None:
        """A monogram that needs the address costs one call of the auth server."""
        self.name(None)
        for _ in range(3):
            shown, _ = self.successResultOf(self.showing("profile"))
            self.assertEqual(shown["avatar"], "http://api.example/v1/avatar/a")
        self.assertEqual(self.reads(), 1)
        self.servers.accounts[ALICE] = Account(email="zoe@example.com")
        self.run_now(self.invalidator.invalidate(ALICE))
        shown, _ = self.successResultOf(self.showing("profile"))
        self.assertEqual(shown["avatar"], "http://api.example/v1/avatar/z")

    def test_tokens_share_what_they_see_alike(self) -> None:
        """Tokens share an entry unless one sees more of what a monogram is made of."""
        self.name("zoe")
        letters = {}
        for scopes in ((SCOPE, "profile:email"), (SCOPE, "profile:display_name"), ("profile",)):
            shown, _ = self.successResultOf(self.showing(*scopes))
            letters[scopes] = shown["avatar"][-1]
        self.assertEqual(list(letters.values()), ["a", "z", "z"])
        # The first letter was replaced, and what was cached with it.
        self.show(SCOPE, "profile:email")
        before = self.selects()
        self.show(SCOPE, "profile:email", "profile:uid")
        self.show("profile", "profile:write")
        self.assertEqual(self.selects(), before)

    def test_default_avatar_that_may_become_a_monogram(self) -> None:
        """A default avatar is not cached if another token may store a letter."""
        self.name(None)
        self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None))
        self.show("profile")
        shown, _ = self.successResultOf(self.showing())
        self.assertEqual(shown["avatar"], "http://api.example/v1/avatar/a")

    def test_users_do_not_share(self) -> None:
        """The avatar of one user is never that of another."""
        avatar_id = self.select()
        self.assertEqual(self.show(uid=BOB), (DEFAULT_AVATAR_ID, None))
        self.assert_cached(avatar_id)

    def test_profile_and_avatar_are_separate_entries(self) -> None:
        """The profile and the avatar of one token do not overwrite each other."""
        avatar_id = self.select()
        for _ in range(2):
            self.assertEqual(self.view(SCOPE).fields["avatarId"], avatar_id)
            self.assertEqual(self.show(), (avatar_id, None))

    def test_old_entry_is_read_again(self) -> None:
        """An entry is served for a minute, in case a change did not invalidate it."""
        avatar_id = self.select()
        self.clock.advance(AVATAR_AGE - 1)
        self.assert_cached(avatar_id)
        self.run_now(self.rows.delete_current(uid=ALICE, now=self.clock.seconds()))
        self.assert_cached(avatar_id)
        self.clock.advance(1)
        self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None))

    def test_entries_of_other_versions_are_ignored(self) -> None:
        """An entry of an unknown form, or from the future, is read again."""
        now = self.clock.seconds()
        texts = [
            "",
            "{",
            "[]",
            "{}",
            "null",
            '"x"',
            '{"avatar": {}}',
            '{"avatar": {}, "read": "x"}',
        ]
        texts += [json.dumps({"avatar": avatar, "read": now}) for avatar in (None, [], "x")]
        texts.append(json.dumps({"avatar": {}, "read": now + 1}))
        for text in texts:
            self.run_now(put(self.cache.inner, ALICE, avatar_variant(()), text))
            self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None), text)

    def test_unreachable_cache(self) -> None:
        """While the cache fails, avatars are read without it and the failures are counted."""
        avatar_id = self.select()
        self.run_now(self.invalidator.invalidate(ALICE))
        for method in ("lookup", "store"):
            self.cache.fail(method, CacheError("down"))
            self.assertEqual(self.show(), (avatar_id, None))
        self.assertEqual(self.upstream_errors("cache"), 2)

    def test_processes_that_share_no_cache(self) -> None:
        """Without a shared cache, several web processes read avatars each time."""
        for settings, caches in (
            (Settings(), False),
            (Settings(queue={"driver": "memory"}), True),
            (Settings(queue={"driver": "database"}), False),
            (Settings(queue={"driver": "database"}, cache={"driver": "redis"}), True),
        ):
            services = self.make_services(settings, identity=self.identity)
            self.show("profile", profiles=services.profiles)
            before = self.selects()
            for _ in range(3):
                self.show("profile", profiles=services.profiles)
            self.assertEqual(self.selects() - before, 0 if caches else 3)


class TransitionTests(CachedAvatarCase):
    """Each change of an avatar is seen at once, and nothing is cached while one is pending."""

    def assert_pending(self, avatar_id: str, pending: str) -> None:
        """The pending upload is shown, however often, and is not cached."""
        for _ in range(2):
            before = self.selects()
            self.assertEqual(self.show(), (avatar_id, pending))
            self.assertEqual(self.selects(), before + 1)

    def test_accepted_upload_is_pending_at_once(self) -> None:
        """An accepted upload is shown as pending, though the avatar was cached."""
        first = self.select()
        second = self.upload()
        self.assert_pending(first, second.id)

    def test_first_upload_is_pending_at_once(self) -> None:
        """The first upload of a user is shown as pending, though the monogram was cached."""
        self.show("profile")
        upload = self.upload()
        shown = self.show("profile")
        self.assertEqual(shown, (DEFAULT_AVATAR_ID, upload.id))

    def test_ready_upload_is_shown_at_once(self) -> None:
        """A ready upload is the avatar at once, and cached from then on."""
        self.select()
        second = self.upload()
        self.show()
        self.ready(second.id)
        self.assertEqual(self.show(), (second.id, None))
        self.assert_cached(second.id)

    def test_failed_upload_is_not_pending(self) -> None:
        """After an upload failed the avatar is the one before, and cached again."""
        first = self.select()
        for fail in (
            lambda upload: self.apply(upload, ResultStatus.FAILED, "corrupt"),
            lambda upload: self.run_now(self.selection.fail(upload, "dead")),
        ):
            upload = self.upload()
            self.assert_pending(first, upload.id)
            fail(upload.id)
            self.assertEqual(self.show(), (first, None))
            self.assert_cached(first)

    def test_deleted_avatar_is_gone_at_once(self) -> None:
        """A deleted avatar is not shown again, whether it is deleted by its id or not."""
        for by_id in (True, False):
            avatar_id = self.select()
            named = avatar_id if by_id else None
            self.run_now(self.selection.delete(uid=ALICE, avatar_id=named))
            self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None))

    def test_deleted_pending_upload(self) -> None:
        """A pending upload that is deleted is no longer shown as pending."""
        first = self.select()
        second = self.upload()
        self.assert_pending(first, second.id)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=second.id))
        self.assertEqual(self.show(), (first, None))

    def test_deleted_account(self) -> None:
        """The avatar of a deleted account is not shown again."""
        self.select()
        self.run_now(self.selection.delete_user(ALICE))
        self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None))

    def test_display_name_changes_the_monogram(self) -> None:
        """A new display name shows its letter at once."""
        for name in ("zoe", "mia"):
            self.name(name)
            shown, _ = self.successResultOf(self.showing("profile"))
            self.assertEqual(shown["avatar"][-1], name[0])

    def test_read_that_a_change_overtakes(self) -> None:
        """What was read before a change is not cached after it."""
        first = self.select()
        self.run_now(self.invalidator.invalidate(ALICE))
        held = self.store.hold("current_avatar", after=True)
        reading = self.showing()
        second = self.upload()
        held.callback(None)
        self.assertEqual(self.successResultOf(reading)[1], None)
        self.assert_pending(first, second.id)

        held = self.store.hold("current_avatar", after=True)
        reading = self.showing()
        self.ready(second.id)
        held.callback(None)
        self.assertEqual(self.successResultOf(reading)[1], second.id)
        self.assertEqual(self.show(), (second.id, None))

    def test_store_that_a_change_overtakes(self) -> None:
        """An entry that reaches the cache after a change is not served."""
        first = self.select()
        self.run_now(self.invalidator.invalidate(ALICE))
        held = self.cache.hold("store")
        reading = self.showing()
        second = self.upload()
        held.callback(None)
        self.successResultOf(reading)
        self.assert_pending(first, second.id)

    def test_cache_that_misses_a_change(self) -> None:
        """While the cache cannot be told of an upload, this process reads without it."""
        first = self.select()
        self.cache.fail("invalidate", CacheError("down"))
        second = self.upload()
        self.assert_pending(first, second.id)
        self.run_now(self.invalidator.flush_pending())
        self.assert_pending(first, second.id)

    def test_slow_cache_does_not_hold_up_an_upload(self) -> None:
        """An upload is accepted though the cache hangs, and this process reads without it."""
        first = self.select()
        self.cache.hold("invalidate")
        uploading = Deferred.fromCoroutine(self.accepting())
        self.assertNoResult(uploading)
        self.clock.advance(2)
        second = self.successResultOf(uploading)
        self.assertEqual(self.sent()[-1], ("crunch", second.id))
        self.assert_pending(first, second.id)

    async def accepting(self) -> Avatar:
        return await self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))


class TwoProcessesTests(CachedAvatarCase):
    """Two web processes with one cache, such as Redis, and one database."""

    def setUp(self) -> None:
        super().setUp()
        self.others = self.make_services(Settings(cache={"driver": "redis"}), first_id=1000)

    def test_other_process_sees_each_change(self) -> None:
        """Whichever process accepts, applies or deletes, the other one shows it at once."""
        first = self.select()
        for accepts, applies in ((self.services, self.others), (self.others, self.services)):
            self.intake, self.selection = accepts.intake, applies.selection
            upload = self.upload()
            self.assertEqual(self.show(), (first, upload.id))
            self.ready(upload.id)
            self.assertEqual(self.show(), (upload.id, None))
            self.assert_cached(upload.id)
            first = upload.id
        self.run_now(self.others.selection.delete(uid=ALICE, avatar_id=None))
        self.assertEqual(self.show(), (DEFAULT_AVATAR_ID, None))
