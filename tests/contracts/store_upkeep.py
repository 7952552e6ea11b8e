"""
The contract of profile stores: queries of the repair loops.
"""

from __future__ import annotations

import math
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from fxprofile.model.avatars import Status
from fxprofile.model.keys import new_id
from fxprofile.model.ports import Backlog
from fxprofile.model.profiles import Profile
from tests.contracts.store_case import OTHER, UID, StoreCase


class UpkeepContract(StoreCase):
    """Pending jobs, missing results, old rows, and leadership."""

    async def test_check_of_a_usable_store_succeeds(self) -> None:
        """The check of a usable store succeeds."""
        self.assertIsInstance(await (await self.make_store()).check(), float)

    async def test_job_sent_is_stuck_without_a_result(self) -> None:
        """A job that was sent is not pending, and is stuck if no result arrives."""
        store = await self.make_store()
        avatar = await self.upload(store)
        await store.job_sent(avatar_id=avatar.id, status=Status.PROCESSING, now=7)
        self.assertEqual((await store.avatar(avatar_id=avatar.id)).job_sent, 7)
        self.assertEqual(await self.unsent(store), [])
        self.assertEqual(await store.stuck(sent_before=7, limit=10), [])
        self.assertEqual(
            await store.stuck(sent_before=8, limit=10), [await store.avatar(avatar_id=avatar.id)]
        )

    async def test_backlog(self) -> None:
        """
        The backlog counts the rows that wait for a job or its result, up to the limit, and has the
        age of the oldest one that is not skipped.
        """
        store = await self.make_store()
        self.assertEqual(await store.backlog(limit=9, skip=0), Backlog(0, None, 0))
        for now, status in enumerate(Status, 1):
            newest = await self.upload(store, now=now, status=status)
        theirs = await self.upload(store, now=9, uid=OTHER)
        self.assertGreater(theirs.seq, newest.seq)
        # Of the first user one row is processing, two are replaced and one is deleting.
        for limit, rows in ((3, 3), (5, 5), (9, 5)):
            found = await store.backlog(limit=limit, skip=0)
            self.assertEqual(found, Backlog(rows, 1, theirs.seq))
        self.assertEqual((await store.backlog(limit=9, skip=4)).since, 9)
        self.assertIsNone((await store.backlog(limit=9, skip=5)).since)
        self.assertEqual(await store.pending_of(uid=UID), 4)
        self.assertEqual(await store.pending_of(uid=OTHER), 1)
        self.assertEqual(await store.pending_of(uid="unknown"), 0)

    async def test_job_sent_of_another_status(self) -> None:
        """Recording the job of an earlier status does not affect that of the current one."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.DELETING)
        await store.job_sent(avatar_id=avatar.id, status=Status.PROCESSING, now=2)
        self.assertIsNone((await store.avatar(avatar_id=avatar.id)).job_sent)
        self.assertEqual(await self.unsent(store), [avatar.id])

    async def test_unsent_are_sorted_and_limited(self) -> None:
        """Pending jobs are returned oldest first, up to the limit, and from an age on."""
        store = await self.make_store()
        rows = [(await self.upload(store, now=now)).id for now in (3, 1, 2)]
        found = await store.unsent(before=3, limit=10)
        self.assertEqual([avatar.id for avatar in found], [rows[1], rows[2]])
        found = await store.unsent(before=9, limit=2)
        self.assertEqual([avatar.id for avatar in found], [rows[1], rows[2]])

    async def test_unsent_newest_first(self) -> None:
        """Pending jobs of any age are returned newest first on request, up to the limit."""
        store = await self.make_store()
        rows = [(await self.upload(store, now=now)).id for now in (3, 1, 2, 2)]
        found = await store.unsent(before=math.inf, limit=3, newest_first=True)
        self.assertEqual([avatar.id for avatar in found], [rows[0], rows[3], rows[2]])

    async def test_forgotten_jobs_are_pending_again(self) -> None:
        """Jobs that were sent and have no result are pending again once they are forgotten."""
        store = await self.make_store()
        rows = {
            status: (await self.upload(store, uid=f"{number:032x}", status=status)).id
            for number, status in enumerate(Status, 1)
        }
        for status, avatar_id in rows.items():
            await store.job_sent(avatar_id=avatar_id, status=status, now=7)
        await store.forget_jobs()
        waiting = {rows[s] for s in (Status.PROCESSING, Status.REPLACED, Status.DELETING)}
        found = await store.unsent(before=math.inf, limit=10, newest_first=True)
        self.assertEqual({avatar.id for avatar in found} & set(rows.values()), waiting)
        ready = await store.avatar(avatar_id=rows[Status.READY])
        self.assertEqual(ready.job_sent, 7)

    async def test_unsent_since_the_transition(self) -> None:
        """A delete job is pending since the deletion, not since the upload."""
        store = await self.make_store()
        avatar = await self.upload(store, now=1, status=Status.READY)
        await store.delete(avatar_id=avatar.id, uid=UID, now=50)
        self.assertEqual(await store.unsent(before=50, limit=10), [])
        self.assertEqual(len(await store.unsent(before=51, limit=10)), 1)

    async def test_stuck_statuses(self) -> None:
        """Rows in processing, deleting, and replaced with objects are stuck without a result."""
        store = await self.make_store()
        waiting = {}
        numbers = count(1)
        for status in Status:
            uid = f"{next(numbers):032x}"
            avatar = await self.upload(store, uid=uid, status=status)
            await store.job_sent(avatar_id=avatar.id, status=status, now=2)
            waiting[status] = avatar.id
        expected = {waiting[s] for s in (Status.PROCESSING, Status.DELETING, Status.REPLACED)}
        self.assertEqual(set(await self.stuck(store)), expected)
        self.assertEqual(len(await store.stuck(sent_before=9, limit=2)), 2)

    async def test_superseded_upload_is_stuck_later(self) -> None:
        """An upload that was superseded after its job was sent is stuck from that time on."""
        store = await self.make_store()
        old = await self.upload(store, now=1)
        await store.job_sent(avatar_id=old.id, status=Status.PROCESSING, now=2)
        await store.accept(avatar_id=new_id(), uid=UID, now=20, keep=1)
        self.assertEqual(await store.stuck(sent_before=20, limit=10), [])
        (stuck,) = await store.stuck(sent_before=21, limit=10)
        self.assertEqual((stuck.id, stuck.status), (old.id, Status.REPLACED))

    async def test_expired_uploads_are_lost(self) -> None:
        """Uploads in processing for too long fail as lost, oldest first."""
        store = await self.make_store()
        ready = await self.upload(store, now=1, status=Status.READY)
        await self.upload(store, now=1, status=Status.DELETING)
        old = [await self.upload(store, now=now) for now in (2, 3, 4)]
        new = await self.upload(store, now=50)
        ids = await store.expire(processing_before=50, now=99, limit=2)
        self.assertEqual(list(ids), [old[0].id, old[1].id])
        ids = await store.expire(processing_before=50, now=99, limit=2)
        self.assertEqual(list(ids), [old[2].id])
        lost = await store.avatar(avatar_id=old[0].id)
        self.assertEqual((lost.status, lost.error), (Status.FAILED, "lost"))
        self.assertEqual(await self.status(store, new), Status.PROCESSING)
        self.assertEqual(await self.status(store, ready), Status.READY)

    async def purge(
        self,
        store: Any,
        *,
        failed_before: float = 0,
        replaced_before: float = 0,
        removed_before: float = 0,
        limit: int = 10,
    ) -> int:
        number: int = await store.purge(
            failed_before=failed_before,
            replaced_before=replaced_before,
            removed_before=removed_before,
            now=99,
            limit=limit,
        )
        return number

    async def test_purge_deletes_old_failed_rows(self) -> None:
        """Failed rows of a certain age start to be deleted."""
        store = await self.make_store()
        old = await self.upload(store, now=1, status=Status.FAILED)
        new = await self.upload(store, now=50, status=Status.FAILED)
        changed = await self.purge(store, failed_before=50)
        self.assertEqual(changed, 1)
        self.assertEqual(await self.status(store, old), Status.DELETING)
        self.assertEqual(await self.status(store, new), Status.FAILED)
        self.assertEqual(await self.unsent(store), [old.id])
        self.assertEqual(await store.unsent(before=99, limit=10), [])

    async def test_purge_removes_old_replaced_rows(self) -> None:
        """Replaced rows of a certain age are removed once their objects are."""
        store = await self.make_store()
        gone = await self.upload(store, now=1, status=Status.REPLACED)
        owing = await self.upload(store, now=1, status=Status.REPLACED)
        await store.deleted(avatar_id=gone.id, now=60)
        self.assertEqual(await self.purge(store, replaced_before=1), 0)
        self.assertGreaterEqual(await self.purge(store, replaced_before=50), 1)
        self.assertIsNone(await store.avatar(avatar_id=gone.id))
        self.assertEqual(await self.status(store, owing), Status.REPLACED)
        self.assertIsNotNone(await self.selected(store))

    async def test_purge_is_limited(self) -> None:
        """A purge changes at most the given number of rows, tombstones included."""
        store = await self.make_store()
        for _ in range(3):
            await self.upload(store, status=Status.FAILED)
            replaced = await self.upload(store, status=Status.REPLACED)
            await store.deleted(avatar_id=replaced.id, now=2)
        for number in range(3):
            await store.delete_user(uid=f"{number:032}", now=2)
        numbers = [
            await self.purge(store, failed_before=9, replaced_before=9, removed_before=9, limit=4)
            for _ in range(4)
        ]
        self.assertEqual(numbers, [4, 4, 1, 0])

    async def test_purge_removes_old_tombstones(self) -> None:
        """The tombstone of a deleted account is removed in time, but not before its avatars."""
        store = await self.make_store()
        avatar = await self.upload(store, status=Status.READY)
        await store.set_display_name(uid=OTHER, name="Bob", now=1)
        await store.delete_user(uid=UID, now=5)
        self.assertEqual(await self.purge(store, removed_before=6), 0)
        await store.deleted(avatar_id=avatar.id, now=6)
        self.assertEqual(await self.purge(store, removed_before=5), 0)
        self.assertNotEqual(await store.profile(uid=UID), Profile(uid=UID))
        self.assertEqual(await self.purge(store, removed_before=6), 1)
        self.assertEqual(await store.profile(uid=UID), Profile(uid=UID))
        self.assertEqual((await store.profile(uid=OTHER)).display_name, "Bob")

    async def test_counts_by_status(self) -> None:
        """Rows with a pending job or result are counted by status."""
        store = await self.make_store()
        self.assertEqual(
            dict(await store.counts()),
            {Status.PROCESSING: 0, Status.DELETING: 0, Status.REPLACED: 0},
        )
        for status in (*Status, Status.PROCESSING):
            await self.upload(store, status=status)
        gone = await self.upload(store, status=Status.REPLACED)
        await store.deleted(avatar_id=gone.id, now=2)
        counts = await store.counts()
        self.assertEqual((counts[Status.PROCESSING], counts[Status.DELETING]), (2, 1))

    async def test_pending_rows_by_age(self) -> None:
        """Rows with a pending job or result are counted by the time since which they wait."""
        store = await self.make_store()
        self.assertEqual(tuple(await store.pending_since(times=[1, 9])), (0, 0))
        for now in (1, 2, 2, 5):
            await self.upload(store, now=now)
        await self.upload(store, uid=OTHER, status=Status.READY)
        self.assertEqual(tuple(await store.pending_since(times=[0, 2, 9])), (0, 3, 4))

    async def test_lease_expires_or_is_released(self) -> None:
        """One process has the lease until it expires or is released."""
        store = await self.make_store()
        self.assertIs(await store.leadership(owner="a", now=10, seconds=30), True)
        self.assertIs(await store.leadership(owner="b", now=39, seconds=30), False)
        self.assertIs(await store.leadership(owner="a", now=39, seconds=30), True)
        self.assertIs(await store.leadership(owner="b", now=68, seconds=30), False)
        self.assertIs(await store.leadership(owner="b", now=69, seconds=30), True)
        self.assertIs(await store.leadership(owner="a", now=70, seconds=30), False)
        await store.resign(owner="a")
        self.assertIs(await store.leadership(owner="a", now=71, seconds=30), False)
        await store.resign(owner="b")
        self.assertIs(await store.leadership(owner="a", now=72, seconds=30), True)

    async def test_one_leader(self) -> None:
        """Of several concurrent processes exactly one gets the lease."""
        store = await self.make_store()
        answers = await gatherResults(
            [
                Deferred.fromCoroutine(store.leadership(owner=f"{i}", now=10, seconds=30))
                for i in range(8)
            ]
        )
        self.assertEqual(sum(answers), 1)
