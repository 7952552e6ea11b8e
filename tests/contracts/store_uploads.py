"""
What every profile store does with uploads, results and names.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import StoreError
from fxprofile.model.keys import new_id
from fxprofile.model.ports import IProfileStore
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
    """From an accepted upload to a selected avatar; names; times of change."""

    async def test_interface(self) -> None:
        """It provides the interface."""
        verifyObject(IProfileStore, await self.make_store())

    async def test_accept(self) -> None:
        """An accepted upload is being processed, and owes its job."""
        store = await self.make_store()
        avatar = await store.accept(avatar_id="1" * 32, uid=UID, now=1763910000.123456)
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

    async def test_accept_twice(self) -> None:
        """An id is accepted once."""
        store = await self.make_store()
        avatar = await self.upload(store)
        with self.assertRaises(StoreError):
            await store.accept(avatar_id=avatar.id, uid=OTHER, now=2)
        self.assertEqual(await store.avatar(avatar_id=avatar.id), avatar)

    async def test_seq_rises(self) -> None:
        """Later uploads have greater numbers, also after the newest is gone."""
        store = await self.make_store()
        numbers = []
        for _ in range(3):
            avatar = await self.upload(store, status=Status.DELETING)
            numbers.append(avatar.seq)
            await store.deleted(avatar_id=avatar.id, now=2)
        self.assertEqual(numbers, sorted(set(numbers)))

    async def test_unknown(self) -> None:
        """Of what it does not know a store says nothing, and changes nothing."""
        store = await self.make_store()
        gone = new_id()
        self.assertIsNone(await store.avatar(avatar_id=gone))
        self.assertIsNone(await store.latest(uid=UID))
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID))
        await store.job_sent(avatar_id=gone, status=Status.PROCESSING, now=1)
        self.assertIsNone(await store.ready(avatar_id=gone, variants=PICTURES, now=1))
        self.assertIsNone(await store.failed(avatar_id=gone, reason="corrupt", now=1))
        self.assertIs(await store.delete(avatar_id=gone, uid=UID, now=1), False)
        self.assertEqual(await store.delete_current(uid=UID, now=1), [])
        self.assertEqual(await store.delete_user(uid=UID, now=1), [])
        self.assertIsNone(await store.deleted(avatar_id=gone, now=1))
        self.assertIs(await store.redelete(avatar_id=gone), False)
        await store.set_display_name(uid=UID, name=None, now=1)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID))

    async def test_ids_are_exact(self) -> None:
        """Ids differ by case and by blanks."""
        store = await self.make_store()
        avatar = await store.accept(avatar_id="a" * 32, uid="abc", now=1)
        for other in ("A" * 32, "a" * 31, "a" * 32 + " ", " " + "a" * 32, "á" * 32):
            self.assertIsNone(await store.avatar(avatar_id=other))
        for other in ("ABC", "abc ", "ábc"):
            self.assertIsNone(await store.latest(uid=other))
            self.assertIs(await store.delete(avatar_id=avatar.id, uid=other, now=2), False)
            await store.set_display_name(uid=other, name="x", now=2)
        self.assertIsNone((await store.profile(uid="abc")).display_name)

    async def test_ready_is_selected(self) -> None:
        """The first upload that is ready is the user's avatar, and owes nothing."""
        store = await self.make_store()
        avatar = await self.upload(store)
        self.assertIsNone(await self.selected(store))
        done = await store.ready(avatar_id=avatar.id, variants=PICTURES, now=5)
        self.assertEqual((done.status, done.error), (Status.READY, None))
        self.assertEqual(
            await store.profile(uid=UID), Profile(uid=UID, avatar_id=avatar.id, changed_at=5)
        )
        self.assertEqual(await self.unsent(store), [])

    async def test_placeholder(self) -> None:
        """A row has the placeholder of its pictures, if there is one, from when it is ready."""
        store = await self.make_store()
        avatar = await self.upload(store)
        self.assertIsNone(avatar.placeholder)
        text = "L%HV6nWB2yk8pyo0'd?*.7kCMd:j".replace("'", "#")
        done = await store.ready(avatar_id=avatar.id, variants=PICTURES, now=5, placeholder=text)
        self.assertEqual(done.placeholder, text)
        self.assertEqual((await store.avatar(avatar_id=avatar.id)).placeholder, text)
        self.assertEqual((await store.latest(uid=UID)).placeholder, text)
        other = await self.upload(store)
        done = await store.ready(avatar_id=other.id, variants=PICTURES, now=6)
        self.assertIsNone(done.placeholder)

    async def test_newer_replaces(self) -> None:
        """A newer upload that is ready replaces the avatar, which then owes a delete job."""
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        await store.job_sent(avatar_id=old.id, status=Status.READY, now=1)
        new = await self.upload(store, now=2)
        self.assertEqual(await self.selected(store), old.id)
        await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        self.assertEqual(await self.selected(store), new.id)
        replaced = await store.avatar(avatar_id=old.id)
        self.assertEqual((replaced.status, replaced.job_sent), (Status.REPLACED, None))
        self.assertEqual(await self.unsent(store), [old.id])

    async def test_older_loses(self) -> None:
        """An older upload that is ready after a newer one is replaced at once."""
        store = await self.make_store()
        old, new = await self.upload(store), await self.upload(store)
        await store.job_sent(avatar_id=old.id, status=Status.PROCESSING, now=2)
        await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        late = await store.ready(avatar_id=old.id, variants=PICTURES, now=4)
        self.assertEqual((late.status, late.job_sent), (Status.REPLACED, None))
        self.assertEqual(
            await store.profile(uid=UID), Profile(uid=UID, avatar_id=new.id, changed_at=3)
        )
        self.assertEqual(await self.unsent(store), [old.id])

    async def test_older_loses_after_deletion(self) -> None:
        """An older upload does not come up after the newer one was deleted."""
        store = await self.make_store()
        old = await self.upload(store)
        new = await self.upload(store, status=Status.READY)
        await store.delete(avatar_id=new.id, uid=UID, now=2)
        await store.deleted(avatar_id=new.id, now=2)
        await store.ready(avatar_id=old.id, variants=PICTURES, now=3)
        self.assertIsNone(await self.selected(store))
        self.assertEqual(await self.status(store, old), Status.REPLACED)

    async def test_newer_wins_after_deletion(self) -> None:
        """An upload that is in processing while the avatar is deleted becomes the next one."""
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        new = await self.upload(store)
        await store.delete(avatar_id=old.id, uid=UID, now=2)
        await store.ready(avatar_id=new.id, variants=PICTURES, now=3)
        self.assertEqual(await self.selected(store), new.id)

    async def test_users_are_apart(self) -> None:
        """The uploads of one user do not concern another."""
        store = await self.make_store()
        mine = await self.upload(store, status=Status.READY)
        theirs = await self.upload(store, uid=OTHER, status=Status.READY)
        await store.delete_user(uid=OTHER, now=2)
        self.assertEqual(await self.selected(store), mine.id)
        self.assertEqual(await self.status(store, theirs), Status.DELETING)

    async def test_ready_again(self) -> None:
        """A repeated result changes nothing."""
        store = await self.make_store()
        first = await self.upload(store, status=Status.READY)
        before = await store.profile(uid=UID)
        again = await store.ready(avatar_id=first.id, variants=PICTURES, now=9)
        self.assertEqual(again, first)
        self.assertEqual(await store.profile(uid=UID), before)
        await self.upload(store, now=10, status=Status.READY)
        again = await store.ready(avatar_id=first.id, variants=PICTURES, now=11)
        self.assertEqual(again.status, Status.REPLACED)
        self.assertNotEqual(await self.selected(store), first.id)

    async def test_ready_after_failed(self) -> None:
        """A failed upload whose job was sent again may yet be ready."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.FAILED)
        done = await store.ready(avatar_id=avatar.id, variants=PICTURES, now=2)
        self.assertEqual((done.status, done.error), (Status.READY, None))
        self.assertEqual(await self.selected(store), avatar.id)

    async def test_ready_while_deleting(self) -> None:
        """A late result of a row that is being deleted changes nothing."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.DELETING)
        self.assertEqual(await store.ready(avatar_id=avatar.id, variants=PICTURES, now=2), avatar)
        self.assertIsNone(await self.selected(store))

    async def test_failed(self) -> None:
        """A failed upload says why, owes nothing, and leaves the old avatar."""
        store = await self.make_store()
        old = await self.upload(store, status=Status.READY)
        before = await store.profile(uid=UID)
        avatar = await self.upload(store)
        done = await store.failed(avatar_id=avatar.id, reason="too_many_pixels", now=2)
        self.assertEqual((done.status, done.error), (Status.FAILED, "too_many_pixels"))
        self.assertEqual(await self.selected(store), old.id)
        self.assertEqual(await store.profile(uid=UID), before)
        self.assertEqual(await self.unsent(store), [])

    async def test_failed_comes_second(self) -> None:
        """Only an upload that is being processed fails; the first reason stays."""
        store = await self.make_store()
        for status in (Status.READY, Status.FAILED, Status.REPLACED, Status.DELETING):
            avatar = await self.upload(store, status=status)
            self.assertEqual(await store.failed(avatar_id=avatar.id, reason="dead", now=2), avatar)

    async def test_latest(self) -> None:
        """The latest upload is the newest that is not being deleted, whatever came of it."""
        store = await self.make_store()
        await self.upload(store, status=Status.READY)
        failed = await self.upload(store, status=Status.FAILED)
        await self.upload(store, uid=OTHER)
        await self.upload(store, status=Status.DELETING)
        self.assertEqual(await store.latest(uid=UID), failed)

    async def test_unset_name_is_remembered(self) -> None:
        """That a user who was not deleted took back their name is a change."""
        store = await self.make_store()
        await store.set_display_name(uid=UID, name="Alice", now=1)
        await store.set_display_name(uid=UID, name=None, now=2)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID, changed_at=2))

    async def test_display_name(self) -> None:
        """Display names come out as they went in."""
        store = await self.make_store()
        for now, name in enumerate(NAMES, 1):
            await store.set_display_name(uid=UID, name=name, now=now)
            self.assertEqual(
                await store.profile(uid=UID), Profile(uid=UID, display_name=name, changed_at=now)
            )

    async def test_changed_at_rises(self) -> None:
        """Each visible change is later than the one before, even if the clock is not."""
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

    async def test_changed_at_stays(self) -> None:
        """What nobody sees does not count as a change."""
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
        """Whatever order results come in, one avatar is selected: the newest."""
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
        """Uploads of one new user at the same time are all accepted, in some order."""
        store = await self.make_store()
        avatars = await gatherResults(
            [
                Deferred.fromCoroutine(store.accept(avatar_id=new_id(), uid=UID, now=2))
                for _ in range(8)
            ]
        )
        self.assertEqual(len({avatar.seq for avatar in avatars}), 8)
