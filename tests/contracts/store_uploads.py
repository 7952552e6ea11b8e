"""
The contract of profile stores: uploads, results and names.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import StoreError
from fxprofile.model.keys import new_id
from fxprofile.model.ports import Applied, CurrentAvatar, IProfileStore
from fxprofile.model.profiles import Profile
from tests.contracts.store_case import OTHER, PICTURES, UID, StoreCase

NAMES = [
    "Alice",
    " ",
    "trailing ",
    "Zoë Ångström",
    "Zoe\N{COMBINING DIAERESIS}",
    "漢字 かな 한글",
    "شادي",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}",
    "\N{MATHEMATICAL BOLD FRAKTUR CAPITAL A}" * 256,
    "Robert'); DROP TABLE avatars;--",
    "100% {name} :name ?1 \\ \" '",
]


class UploadsContract(StoreCase):
    """From an accepted upload to a selected avatar; display names; times of change."""

    async def test_store_provides_its_interface(self) -> None:
        """The store provides IProfileStore."""
        verifyObject(IProfileStore, await self.make_store())

    async def test_accepted_upload_has_a_pending_job(self) -> None:
        """An accepted upload is in processing and has a pending job."""
        store = await self.make_store()
        avatar = (await store.accept(avatar_id="1" * 32, uid=UID, now=1763910000.123456)).avatar
        self.assertEqual(
            avatar,
            Avatar(
                id="1" * 32,
                uid=UID,
                seq=avatar.seq,
                status=Status.PROCESSING,
                job_sent=None,
                created=1763910000.123456,
            ),
        )
        self.assertEqual(await store.avatar(avatar_id="1" * 32), avatar)
        self.assertEqual(await store.unsent(before=2e9, limit=10), [avatar])

    async def test_id_is_accepted_once(self) -> None:
        """An id that exists is not accepted again."""
        store = await self.make_store()
        avatar = await self.upload(store)
        with self.assertRaises(StoreError):
            await store.accept(avatar_id=avatar.id, uid=OTHER, now=2)
        self.assertEqual(await store.avatar(avatar_id=avatar.id), avatar)

    async def test_newer_upload_supersedes_older_ones(self) -> None:
        """
        An upload replaces the user's oldest uploads in processing, and only those; a job that was
        sent counts as their delete job.
        """
        store = await self.make_store()
        theirs, ready = await self.upload(store, uid=OTHER), await self.upload(store)
        await store.ready(avatar_id=ready.id, variants=PICTURES, now=1)
        sent, unsent, kept = [await self.upload(store) for _ in range(3)]
        await store.job_sent(avatar_id=sent.id, status=Status.PROCESSING, now=2)
        accepted = await store.accept(avatar_id=new_id(), uid=UID, now=3, keep=2)
        self.assertEqual(set(accepted.superseded), {sent.id, unsent.id})
        for avatar, status in (
            *((theirs, Status.PROCESSING), (ready, Status.READY), (sent, Status.REPLACED)),
            *((unsent, Status.REPLACED), (kept, Status.PROCESSING)),
        ):
            self.assertEqual(await self.status(store, avatar), status)
        self.assertEqual(await self.stuck(store), [sent.id])
        self.assertEqual(
            set(await self.unsent(store)), {theirs.id, unsent.id, kept.id, accepted.avatar.id}
        )
        again = await store.accept(avatar_id=new_id(), uid=UID, now=4, keep=3)
        self.assertEqual(again.superseded, [])

    async def test_superseded_upload_is_never_selected(self) -> None:
        """The results of a superseded upload change nothing until its objects are deleted."""
        store = await self.make_store()
        old = await self.upload(store)
        await store.accept(avatar_id=new_id(), uid=UID, now=2, keep=1)
        await store.failed(avatar_id=old.id, reason="corrupt", now=3)
        late = (await store.ready(avatar_id=old.id, variants=PICTURES, now=3)).avatar
        self.assertEqual(late.status, Status.REPLACED)
        self.assertIsNone(await self.selected(store))
        await store.deleted(avatar_id=old.id, now=4)
        self.assertNotIn(old.id, await self.unsent(store))
        self.assertEqual(await self.status(store, old), Status.REPLACED)

    async def test_seq_increases(self) -> None:
        """Later uploads have greater sequence numbers, even after the newest was removed."""
        store = await self.make_store()
        numbers = []
        for _ in range(3):
            avatar = await self.upload(store, status=Status.DELETING)
            numbers.append(avatar.seq)
            await store.deleted(avatar_id=avatar.id, now=2)
        self.assertEqual(numbers, sorted(set(numbers)))

    async def test_unknown_ids(self) -> None:
        """Methods on unknown ids and users return nothing and change nothing."""
        store = await self.make_store()
        gone = new_id()
        self.assertIsNone(await store.avatar(avatar_id=gone))
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID))
        self.assertEqual(await store.current_avatar(uid=UID), CurrentAvatar(Profile(uid=UID)))
        await store.job_sent(avatar_id=gone, status=Status.PROCESSING, now=1)
        self.assertIsNone((await store.ready(avatar_id=gone, variants=PICTURES, now=1)).avatar)
        self.assertIsNone(await store.failed(avatar_id=gone, reason="corrupt", now=1))
        self.assertIs(await store.delete(avatar_id=gone, uid=UID, now=1), False)
        self.assertEqual(await store.delete_current(uid=UID, now=1), [])
        self.assertEqual(await store.delete_user(uid=OTHER, now=1), [])
        self.assertIsNone(await store.deleted(avatar_id=gone, now=1))
        self.assertIs(await store.redelete(avatar_id=gone), False)
        await store.set_display_name(uid=UID, name=None, now=1)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID))

    async def test_ids_are_exact(self) -> None:
        """Ids that differ in case or trailing spaces are different."""
        store = await self.make_store()
        avatar = (await store.accept(avatar_id="a" * 32, uid="abc", now=1)).avatar
        for other in ("A" * 32, "a" * 31, "a" * 32 + " ", " " + "a" * 32, "á" * 32):
            self.assertIsNone(await store.avatar(avatar_id=other))
        for other in ("ABC", "abc ", "ábc"):
            self.assertIsNone((await store.current_avatar(uid=other)).pending)
            self.assertIs(await store.delete(avatar_id=avatar.id, uid=other, now=2), False)
            await store.set_display_name(uid=other, name="x", now=2)
        self.assertIsNone((await store.profile(uid="abc")).display_name)

    async def test_ready_is_selected(self) -> None:
        """The first ready upload is selected and has no pending job."""
        store = await self.make_store()
        avatar = await self.upload(store)
        self.assertIsNone(await self.selected(store))
        done = (await store.ready(avatar_id=avatar.id, variants=PICTURES, now=5)).avatar
        self.assertEqual((done.status, done.error), (Status.READY, None))
        self.assertEqual(
            await store.profile(uid=UID), Profile(uid=UID, avatar_id=avatar.id, changed_at=5)
        )
        self.assertEqual(await self.unsent(store), [])

    async def test_placeholder_of_a_ready_row(self) -> None:
        """A ready row has the placeholder of its result, if any."""
        store = await self.make_store()
        avatar = await self.upload(store)
        self.assertIsNone(avatar.placeholder)
        text = "L%HV6nWB2yk8pyo0'd?*.7kCMd:j".replace("'", "#")
        ready = {"avatar_id": avatar.id, "variants": PICTURES, "now": 5}
        done = (await store.ready(**ready, placeholder=text)).avatar
        self.assertEqual(done.placeholder, text)
        self.assertEqual((await store.avatar(avatar_id=avatar.id)).placeholder, text)
        self.assertEqual((await store.current_avatar(uid=UID)).placeholder, text)
        other = await self.upload(store)
        done = (await store.ready(avatar_id=other.id, variants=PICTURES, now=6)).avatar
        self.assertIsNone(done.placeholder)

    async def test_newer_upload_replaces_the_selected_avatar(self) -> None:
        """
        A newer ready upload replaces the selected avatar, which then has a pending delete job.
        """
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        await store.job_sent(avatar_id=old.id, status=Status.READY, now=1)
        new = await self.upload(store, now=2)
        self.assertEqual(await self.selected(store), old.id)
        applied = await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        self.assertEqual(await self.selected(store), new.id)
        replaced = await store.avatar(avatar_id=old.id)
        self.assertEqual(applied.replaced, replaced)
        again = await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        self.assertEqual(again, Applied(applied.avatar))
        self.assertEqual((replaced.status, replaced.job_sent), (Status.REPLACED, None))
        self.assertEqual(await self.unsent(store), [old.id])

    async def test_older_upload_is_replaced_at_once(self) -> None:
        """An older upload that becomes ready after a newer one is replaced at once."""
        store = await self.make_store()
        old, new = await self.upload(store), await self.upload(store)
        await store.job_sent(avatar_id=old.id, status=Status.PROCESSING, now=2)
        await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        late = (await store.ready(avatar_id=old.id, variants=PICTURES, now=4)).avatar
        self.assertEqual((late.status, late.job_sent), (Status.REPLACED, None))
        self.assertEqual(
            await store.profile(uid=UID), Profile(uid=UID, avatar_id=new.id, changed_at=3)
        )
        self.assertEqual(await self.unsent(store), [old.id])

    async def test_older_upload_is_replaced_after_a_deletion(self) -> None:
        """An older upload does not become selected after the newer one was deleted."""
        store = await self.make_store()
        old = await self.upload(store)
        new = await self.upload(store, status=Status.READY)
        await store.delete(avatar_id=new.id, uid=UID, now=2)
        await store.deleted(avatar_id=new.id, now=2)
        await store.ready(avatar_id=old.id, variants=PICTURES, now=3)
        self.assertIsNone(await self.selected(store))
        self.assertEqual(await self.status(store, old), Status.REPLACED)

    async def test_newer_upload_is_selected_after_a_deletion(self) -> None:
        """An upload in processing while the selected avatar is deleted becomes selected."""
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        new = await self.upload(store)
        await store.delete(avatar_id=old.id, uid=UID, now=2)
        await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        self.assertEqual(await self.selected(store), new.id)

    async def test_users_are_independent(self) -> None:
        """The uploads of one user do not affect another user."""
        store = await self.make_store()
        mine = await self.upload(store, status=Status.READY)
        theirs = await self.upload(store, uid=OTHER, status=Status.READY)
        await store.delete_user(uid=OTHER, now=2)
        self.assertEqual(await self.selected(store), mine.id)
        self.assertEqual(await self.status(store, theirs), Status.DELETING)

    async def test_repeated_ready_changes_nothing(self) -> None:
        """A repeated ready result changes nothing."""
        store = await self.make_store()
        first = await self.upload(store, status=Status.READY)
        before = await store.profile(uid=UID)
        again = (await store.ready(avatar_id=first.id, variants=PICTURES, now=9)).avatar
        self.assertEqual(again, first)
        self.assertEqual(await store.profile(uid=UID), before)
        await self.upload(store, now=10, status=Status.READY)
        again = (await store.ready(avatar_id=first.id, variants=PICTURES, now=11)).avatar
        self.assertEqual(again.status, Status.REPLACED)
        self.assertNotEqual(await self.selected(store), first.id)

    async def test_failed_upload_can_become_ready(self) -> None:
        """A failed upload whose job was sent again can become ready."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.FAILED)
        done = (await store.ready(avatar_id=avatar.id, variants=PICTURES, now=2)).avatar
        self.assertEqual((done.status, done.error), (Status.READY, None))
        self.assertEqual(await self.selected(store), avatar.id)

    async def test_ready_of_a_deleting_row(self) -> None:
        """A ready result of a row that is being deleted changes nothing."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.DELETING)
        applied = await store.ready(avatar_id=avatar.id, variants=PICTURES, now=2)
        self.assertEqual(applied, Applied(avatar))
        self.assertIsNone(await self.selected(store))

    async def test_failed_upload_has_its_reason(self) -> None:
        """A failed upload has its reason and no pending job, and keeps the old avatar."""
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        before = await store.profile(uid=UID)
        avatar = await self.upload(store)
        done = await store.failed(avatar_id=avatar.id, reason="too_many_pixels", now=2)
        self.assertEqual((done.status, done.error), (Status.FAILED, "too_many_pixels"))
        self.assertEqual(await self.selected(store), old.id)
        self.assertEqual(await store.profile(uid=UID), before)
        self.assertEqual(await self.unsent(store), [])

    async def test_only_processing_uploads_fail(self) -> None:
        """Only an upload in processing fails; the first reason is kept."""
        store = await self.make_store()
        for status in (Status.READY, Status.FAILED, Status.REPLACED, Status.DELETING):
            avatar = await self.upload(store, status=status)
            self.assertEqual(await store.failed(avatar_id=avatar.id, reason="dead", now=2), avatar)

    async def test_current_avatar(self) -> None:
        """The current avatar is the profile, the placeholder and the newest pending upload."""
        store = await self.make_store()
        text = "L" * 28

        async def current() -> CurrentAvatar:
            found = await store.current_avatar(uid=UID)
            self.assertEqual(found.profile, await store.profile(uid=UID))
            return found

        self.assertEqual(await current(), CurrentAvatar(Profile(uid=UID)))
        await store.set_display_name(uid=UID, name="Alice", now=1)
        self.assertEqual((await current()).profile.display_name, "Alice")
        await self.upload(store, uid=OTHER)
        first = await self.upload(store)
        self.assertEqual((await current()).pending, first.id)
        await store.ready(avatar_id=first.id, variants=PICTURES, placeholder=text, now=2)
        found = await current()
        self.assertEqual((found.profile.avatar_id, found.placeholder), (first.id, text))
        self.assertIsNone(found.pending)
        second, third = await self.upload(store), await self.upload(store)
        found = await current()
        self.assertEqual((found.placeholder, found.pending), (text, third.id))
        await store.delete(avatar_id=third.id, uid=UID, now=3)
        self.assertEqual((await current()).pending, second.id)
        await store.failed(avatar_id=second.id, reason="corrupt", now=4)
        found = await current()
        self.assertEqual((found.placeholder, found.pending), (text, None))
        await store.delete_current(uid=UID, now=5)
        found = await current()
        self.assertEqual((found.profile.avatar_id, found.placeholder), (None, None))

    async def test_unset_name_is_a_change(self) -> None:
        """Unsetting a display name is a change of the profile."""
        store = await self.make_store()
        await store.set_display_name(uid=UID, name="Alice", now=1)
        await store.set_display_name(uid=UID, name=None, now=2)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID, changed_at=2))

    async def test_display_names_are_unchanged(self) -> None:
        """Display names are returned as they were set."""
        store = await self.make_store()
        for now, name in enumerate(NAMES, 1):
            await store.set_display_name(uid=UID, name=name, now=now)
            self.assertEqual(
                await store.profile(uid=UID), Profile(uid=UID, display_name=name, changed_at=now)
            )

    async def test_changed_at_increases(self) -> None:
        """Each visible change has a later time than the one before, even if the clock does not."""
        store = await self.make_store()
        times = [0.0]

        async def changed() -> None:
            times.append((await store.profile(uid=UID)).changed_at)

        await store.set_display_name(uid=UID, name="a", now=1e6)
        await changed()
        await store.set_display_name(uid=UID, name="b", now=1e6)
        await changed()
        await store.set_display_name(uid=UID, name=None, now=1e6 - 5)
        await changed()
        avatar = await self.upload(store, now=1e6, status=Status.READY)
        await changed()
        await self.upload(store, now=1e6, status=Status.READY)
        await changed()
        await store.delete_current(uid=UID, now=1e6)
        await changed()
        avatar = await self.upload(store, now=1e6, status=Status.READY)
        await changed()
        await store.delete(avatar_id=avatar.id, uid=UID, now=1e6)
        await changed()
        await store.set_display_name(uid=UID, name="c", now=1e6)
        await changed()
        await store.delete_user(uid=UID, now=1e6)
        await changed()
        self.assertEqual(times, sorted(set(times)))

    async def test_changed_at_of_invisible_changes(self) -> None:
        """A change that is not visible in the profile keeps its time of change."""
        store = await self.make_store()
        await store.set_display_name(uid=UID, name="a", now=1)
        await store.set_display_name(uid=UID, name="a", now=2)
        avatar = await self.upload(store, now=3)
        await store.job_sent(avatar_id=avatar.id, status=Status.PROCESSING, now=4)
        await store.failed(avatar_id=avatar.id, reason="corrupt", now=5)
        await store.delete(avatar_id=avatar.id, uid=UID, now=6)
        await store.deleted(avatar_id=avatar.id, now=7)
        await store.delete_current(uid=UID, now=8)
        self.assertEqual((await store.profile(uid=UID)).changed_at, 1)

    async def test_concurrent_results(self) -> None:
        """After concurrent results the newest avatar is selected."""
        store = await self.make_store()
        uploads = [await self.upload(store) for _ in range(8)]
        order = [uploads[i] for i in (3, 7, 1, 5, 0, 6, 2, 4)]
        await gatherResults(
            [
                Deferred.fromCoroutine(store.ready(avatar_id=avatar.id, variants=PICTURES, now=2))
                for avatar in order
            ]
        )
        self.assertEqual(await self.selected(store), uploads[-1].id)
        statuses = [await self.status(store, avatar) for avatar in uploads]
        self.assertEqual(statuses, [Status.REPLACED] * 7 + [Status.READY])

    async def test_concurrent_uploads(self) -> None:
        """Concurrent uploads of a new user are all accepted, with distinct sequence numbers."""
        store = await self.make_store()
        accepted = await gatherResults(
            [
                Deferred.fromCoroutine(store.accept(avatar_id=new_id(), uid=UID, now=2))
                for _ in range(8)
            ]
        )
        self.assertEqual(len({each.avatar.seq for each in accepted}), 8)

    async def test_monogram_is_stored(self) -> None:
        """A stored letter is removed or replaced, and is no change of the profile."""
        store = await self.make_store()
        await store.set_display_name(uid=OTHER, name="Bob", now=5)
        for uid, changed_at in ((UID, 0.0), (OTHER, 5.0)):
            for letter in ("ä", "x\u0304\u0301\u0302\u0303\u0304\u0306\u0307", None, "𠮷"):
                profile = await store.profile(uid=uid)
                self.assertTrue(await store.set_monogram(profile=profile, letter=letter))
                profile = await store.profile(uid=uid)
                self.assertEqual((profile.monogram, profile.changed_at), (letter, changed_at))

    async def test_monogram_of_a_profile_that_has_changed(self) -> None:
        """A letter is not stored if the profile or its letter has changed since it was read."""
        store = await self.make_store()
        empty = await store.profile(uid=UID)
        await store.set_display_name(uid=UID, name="Alice", now=5)
        named = await store.profile(uid=UID)
        self.assertFalse(await store.set_monogram(profile=empty, letter="z"))
        self.assertTrue(await store.set_monogram(profile=named, letter="A"))
        self.assertFalse(await store.set_monogram(profile=named, letter="z"))
        self.assertEqual((await store.profile(uid=UID)).monogram, "A")

    async def test_stored_monogram_follows_the_name(self) -> None:
        """A stored letter becomes the initial of a new name; without one it is removed."""
        store = await self.make_store()
        await store.set_display_name(uid=UID, name="Alice", now=1)
        self.assertIsNone((await store.profile(uid=UID)).monogram)
        await store.set_monogram(profile=await store.profile(uid=UID), letter="A")
        for now, (name, letter) in enumerate((("bob", "b"), ("_", None), ("carol", None)), 2):
            await store.set_display_name(uid=UID, name=name, now=now)
            self.assertEqual((await store.profile(uid=UID)).monogram, letter, name)
