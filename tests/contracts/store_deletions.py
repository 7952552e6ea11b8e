"""
The contract of profile stores: deletion of avatars and users.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, DeferredList, gatherResults

from fxprofile.model.avatars import Status
from fxprofile.model.errors import AccountUnknown
from fxprofile.model.keys import new_id
from fxprofile.model.profiles import Profile
from tests.contracts.store_case import OTHER, PICTURES, UID, StoreCase


class DeletionsContract(StoreCase):
    """From the start of a deletion to the removal of the row."""

    async def test_deleted_avatar_is_deselected(self) -> None:
        """A deleted avatar is deselected and has a pending delete job."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.READY)
        await store.job_sent(avatar_id=avatar.id, status=Status.READY, now=1)
        self.assertIs(await store.delete(avatar_id=avatar.id, uid=UID, now=4), True)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID, changed_at=4))
        row = await store.avatar(avatar_id=avatar.id)
        self.assertEqual((row.status, row.job_sent), (Status.DELETING, None))
        self.assertEqual(await self.unsent(store), [avatar.id])

    async def test_repeated_delete(self) -> None:
        """An avatar that is being deleted cannot be deleted again."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.DELETING)
        await store.job_sent(avatar_id=avatar.id, status=Status.DELETING, now=2)
        self.assertIs(await store.delete(avatar_id=avatar.id, uid=UID, now=3), False)
        self.assertEqual(await self.unsent(store), [])

    async def test_delete_in_any_status(self) -> None:
        """An upload can be deleted in any status."""
        store = await self.make_store()
        for status in (Status.PROCESSING, Status.READY, Status.FAILED, Status.REPLACED):
            avatar = await self.upload(store, status=status)
            self.assertIs(await store.delete(avatar_id=avatar.id, uid=UID, now=3), True)
            self.assertEqual(await self.status(store, avatar), Status.DELETING)

    async def test_delete_of_another_users_avatar(self) -> None:
        """The avatar of another user cannot be deleted."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.READY)
        self.assertIs(await store.delete(avatar_id=avatar.id, uid=OTHER, now=3), False)
        self.assertEqual(await self.status(store, avatar), Status.READY)
        self.assertEqual(await self.selected(store), avatar.id)

    async def test_delete_of_an_unselected_upload(self) -> None:
        """Deleting an upload that is not selected keeps the selected avatar."""
        store = await self.make_store()
        selected = await self.upload(store, status=Status.READY)
        before = await store.profile(uid=UID)
        other = await self.upload(store)
        await store.delete(avatar_id=other.id, uid=UID, now=3)
        self.assertEqual(await self.selected(store), selected.id)
        self.assertEqual(await store.profile(uid=UID), before)

    async def test_delete_current(self) -> None:
        """
        The selected avatar and uploads in processing are deleted; replaced and failed ones are
        kept.
        """
        store = await self.make_store()
        replaced = await self.upload(store, status=Status.REPLACED)
        selected = await self.selected(store)
        failed = await self.upload(store, status=Status.FAILED)
        first, second = await self.upload(store), await self.upload(store)
        ids = await store.delete_current(uid=UID, now=5)
        self.assertEqual(list(ids), [selected, first.id, second.id])
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID, changed_at=5))
        self.assertEqual(await self.status(store, replaced), Status.REPLACED)
        self.assertEqual(await self.status(store, failed), Status.FAILED)
        self.assertEqual(await store.delete_current(uid=UID, now=6), [])
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID, changed_at=5))

    async def test_delete_current_excludes_earlier_uploads(self) -> None:
        """After delete_current no earlier upload becomes selected; a later one does."""
        store = await self.make_store()
        failed = await self.upload(store, status=Status.FAILED)
        await store.delete_current(uid=UID, now=5)
        late = (await store.ready(avatar_id=failed.id, variants=PICTURES, now=6)).avatar
        self.assertEqual(late.status, Status.REPLACED)
        self.assertIsNone(await self.selected(store))
        new = await self.upload(store, now=7, status=Status.READY)
        self.assertEqual(await self.selected(store), new.id)

    async def test_delete_user(self) -> None:
        """A deleted user loses name, letter and avatar at once, and every avatar is deleted."""
        store = await self.make_store()
        await store.set_display_name(uid=UID, name="Alice", now=1)
        await store.set_monogram(profile=await store.profile(uid=UID), letter="A")
        statuses = (Status.REPLACED, Status.FAILED, Status.PROCESSING, Status.READY)
        uploads = [await self.upload(store, now=2, status=status) for status in statuses]
        ids = await store.delete_user(uid=UID, now=5)
        self.assertEqual(len(ids), 5)
        self.assertLessEqual({avatar.id for avatar in uploads}, set(ids))
        profile = await store.profile(uid=UID)
        self.assertEqual((profile.display_name, profile.avatar_id), (None, None))
        self.assertIsNone(profile.monogram)
        self.assertFalse(await store.set_monogram(profile=profile, letter="A"))
        for avatar in uploads:
            self.assertEqual(await self.status(store, avatar), Status.DELETING)
        self.assertEqual(set(await self.unsent(store)), set(ids))
        self.assertEqual(await store.delete_user(uid=UID, now=6), [])

    async def test_deleted_user_stays_deleted(self) -> None:
        """After the deletion of an account every write of the user's data is refused."""
        store = await self.make_store()
        for uid, name in ((UID, "Alice"), (OTHER, None)):
            await store.set_display_name(uid=uid, name=name, now=1)
            await store.delete_user(uid=uid, now=5)
            before = await store.profile(uid=uid)
            with self.assertRaises(AccountUnknown):
                await store.set_display_name(uid=uid, name="again", now=6)
            with self.assertRaises(AccountUnknown):
                await store.set_display_name(uid=uid, name=None, now=6)
            with self.assertRaises(AccountUnknown):
                await self.upload(store, now=6, uid=uid)
            self.assertFalse(await store.set_monogram(profile=before, letter="A"))
            self.assertFalse(await store.set_monogram(profile=Profile(uid), letter="A"))
            self.assertEqual(await store.delete_current(uid=uid, now=7), [])
            self.assertEqual(await store.delete_user(uid=uid, now=8), [])
            self.assertEqual(await store.profile(uid=uid), before)
            self.assertIsNone((await store.current_avatar(uid=uid)).pending)

    async def test_late_result_of_a_deleted_user(self) -> None:
        """A result that arrives after the deletion of the account selects nothing."""
        store = await self.make_store()
        avatar = await self.upload(store)
        await store.delete_user(uid=UID, now=5)
        late = (await store.ready(avatar_id=avatar.id, variants=PICTURES, now=6)).avatar
        self.assertEqual(late.status, Status.DELETING)
        await store.deleted(avatar_id=avatar.id, now=7)
        self.assertIsNone((await store.ready(avatar_id=avatar.id, variants=PICTURES, now=8)).avatar)
        self.assertIsNone(await self.selected(store))

    async def test_writes_concurrent_with_delete_user(self) -> None:
        """Writes that are concurrent with the deletion of the account leave nothing behind."""
        store = await self.make_store()
        for number in range(5):
            uid = f"{number:032}"
            writes = [
                store.set_display_name(uid=uid, name="Alice", now=1),
                store.accept(avatar_id=new_id(), uid=uid, now=1),
                store.delete_user(uid=uid, now=2),
                store.accept(avatar_id=new_id(), uid=uid, now=3),
                store.set_display_name(uid=uid, name="Bob", now=3),
            ]
            running = [Deferred.fromCoroutine(write) for write in writes]
            await DeferredList(running, consumeErrors=True)
            profile = await store.profile(uid=uid)
            self.assertEqual((profile.display_name, profile.avatar_id), (None, None))
            self.assertIsNone((await store.current_avatar(uid=uid)).pending)

    async def test_deleted_removes_the_row(self) -> None:
        """When the objects of a deleted avatar are removed, so is its row."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.DELETING)
        self.assertIsNone(await store.deleted(avatar_id=avatar.id, now=2))
        self.assertIsNone(await store.avatar(avatar_id=avatar.id))
        self.assertIsNone(await store.deleted(avatar_id=avatar.id, now=3))
        self.assertIsNone((await store.ready(avatar_id=avatar.id, variants=PICTURES, now=4)).avatar)
        self.assertIs(await store.redelete(avatar_id=avatar.id), False)

    async def test_deleted_keeps_a_replaced_row(self) -> None:
        """
        When the objects of a replaced avatar are removed, its row stays without a pending job.
        """
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.REPLACED)
        await store.job_sent(avatar_id=avatar.id, status=Status.REPLACED, now=2)
        row = await store.deleted(avatar_id=avatar.id, now=3)
        self.assertEqual(row.status, Status.REPLACED)
        self.assertEqual(await self.stuck(store), [])
        self.assertEqual(await self.unsent(store), [])

    async def test_deleted_before_job_sent(self) -> None:
        """A job may be recorded as sent after its result was applied."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.REPLACED)
        await store.deleted(avatar_id=avatar.id, now=2)
        self.assertEqual(await self.unsent(store), [])
        await store.job_sent(avatar_id=avatar.id, status=Status.REPLACED, now=3)
        self.assertEqual(await self.stuck(store), [])

    async def test_deleted_of_another_status(self) -> None:
        """A deleted result of an avatar that is not being deleted has no effect."""
        store = await self.make_store()
        for status in (Status.READY, Status.FAILED, Status.PROCESSING):
            avatar = await self.upload(store, status=status)
            self.assertEqual(await store.deleted(avatar_id=avatar.id, now=2), avatar)

    async def test_redelete_makes_the_job_pending(self) -> None:
        """The delete job of a deleting or replaced row can be made pending again."""
        store = await self.make_store()
        deleting = await self.upload(store, status=Status.DELETING)
        replaced = await self.upload(store, status=Status.REPLACED)
        for avatar in (deleting, replaced):
            await store.job_sent(avatar_id=avatar.id, status=avatar.status, now=2)
        await store.deleted(avatar_id=replaced.id, now=3)
        self.assertEqual(await self.unsent(store), [])
        self.assertIs(await store.redelete(avatar_id=deleting.id), True)
        self.assertIs(await store.redelete(avatar_id=replaced.id), True)
        self.assertEqual(set(await self.unsent(store)), {deleting.id, replaced.id})

    async def test_redelete_of_another_status(self) -> None:
        """A row that is not being deleted gets no pending delete job."""
        store = await self.make_store()
        for status in (Status.READY, Status.FAILED):
            avatar = await self.upload(store, status=status)
            self.assertIs(await store.redelete(avatar_id=avatar.id), False)
        self.assertEqual(await self.unsent(store), [])

    async def test_concurrent_delete(self) -> None:
        """Of several concurrent deletions of one avatar exactly one succeeds."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.READY)
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(store.delete(avatar_id=avatar.id, uid=UID, now=2))
                for _ in range(8)
            ]
        )
        self.assertEqual(sum(answers), 1)
