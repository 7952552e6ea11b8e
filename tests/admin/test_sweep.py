"""Tests of :mod:`fxprofile.admin.orphans`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fxprofile.admin.orphans import Sweep, SweepReport
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.errors import QueueError, StorageError, StoreError
from fxprofile.model.keys import private_key, public_key, public_keys
from fxprofile.model.messages import ResultStatus
from tests.support.core import ALICE, BOB, CoreTestCase, make_id
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.flaky import Flaky

GRACE = 48 * 3600


class SweepTests(CoreTestCase):
    """
    A sweep finds objects that no row needs, and ready rows without pictures, and nothing else.
    """

    def setUp(self) -> None:
        super().setUp()
        self.pictures = MemoryBucket(self.clock)
        self.public = Flaky(self.pictures)

    def sweep(self, page: int = 1000) -> Sweep:
        return Sweep(
            private=self.private,
            public=self.public,
            rows=self.some_rows,
            store=self.store,
            selection=self.selection,
            clock=self.clock,
            grace=GRACE,
            page=page,
        )

    async def some_rows(self, after: str, limit: int) -> Sequence[Any]:
        return sorted(
            (row for row in self.rows.rows.values() if row.id > after), key=lambda row: row.id
        )[:limit]

    def put(self, *keys: str) -> None:
        for key in keys:
            body = BytesBody(b"x")
            self.run_now(self.pictures.put(key=key, body=body, length=1, content_type="image/png"))

    def put_original(self, avatar_id: str) -> None:
        body = BytesBody(b"x")
        self.run_now(self.originals.put(key=avatar_id, body=body, length=1, content_type="x/x"))

    def find(self, page: int = 1000) -> SweepReport:
        return self.run_now(self.sweep(page).find())

    def test_progress(self) -> None:
        """The progress of a sweep never falls, and ends at 1."""
        for number in (1, 2):
            self.put_original(f"{number}fff{'0' * 28}")
        shares: list[float] = []
        self.run_now(self.sweep().find(shares.append))
        self.assertEqual(shares, [0x1FFF / 0x10000, 0x2FFF / 0x10000, 1])

    def orphans(self, page: int = 1000) -> list[str]:
        return [found.id for found in self.find(page).orphans]

    def broken(self) -> list[str]:
        return [found.id for found in self.find().broken]

    def test_objects_without_a_row_are_orphans(self) -> None:
        """Objects without a row are orphans, in either bucket and in any number."""
        self.put(*public_keys(make_id(1), ["png"]), public_key(make_id(2), "large"))
        self.put_original(make_id(2))
        self.put_original(make_id(3))
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual([len(found.objects) for found in findings.orphans], [3, 2, 1])
        self.assertEqual((findings.pictures, findings.originals, findings.avatars), (2, 2, 3))
        self.assertEqual((findings.rows, findings.broken), (0, []))

    def test_recent_objects_are_not_orphans(self) -> None:
        """An avatar with an object younger than the grace period is not an orphan."""
        self.put(*public_keys(make_id(1), ["png"]))
        self.clock.advance(GRACE)
        self.assertEqual(self.orphans(), [])
        self.clock.advance(1)
        self.assertEqual(self.orphans(), [make_id(1)])
        self.put(public_key(make_id(1), "small"))
        self.assertEqual(self.orphans(), [])

    def test_objects_of_unfinished_rows_are_not_orphans(self) -> None:
        """Objects of a row that is ready, processing or failed are not orphans."""
        ready, failed, processing = (self.upload(uid).id for uid in (ALICE, BOB, "c" * 32))
        for avatar_id in (ready, processing, failed):
            self.put(*public_keys(avatar_id, ["png"]))
        self.ready(ready)
        self.apply(failed, ResultStatus.FAILED, "dead")
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual((findings.orphans, findings.broken, findings.rows), ([], [], 3))

    def test_objects_are_orphans_once_the_delete_job_is_done(self) -> None:
        """Objects of a row are orphans only when it has no pending delete job."""
        deleted, replaced, newest = (self.upload().id for _ in range(3))
        self.put(*(key for i in (deleted, replaced, newest) for key in public_keys(i, ["png"])))
        self.ready(newest)
        self.ready(replaced)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=deleted))
        self.clock.advance(GRACE + 1)
        self.assertEqual(self.orphans(), [])
        self.apply(replaced, ResultStatus.DELETED)
        self.assertEqual(self.orphans(), [replaced])
        self.apply(deleted, ResultStatus.DELETED)
        self.assertEqual(self.orphans(), [deleted, replaced])

    def test_a_ready_row_without_pictures_is_broken(self) -> None:
        """A ready avatar is broken if one of its pictures, or all, are missing."""
        whole, part, nothing = (self.upload(uid).id for uid in (ALICE, BOB, "c" * 32))
        self.put(*public_keys(whole, ["png"]), *public_keys(part, ["png"])[:2])
        for avatar_id in (whole, part, nothing):
            self.ready(avatar_id)
        findings = self.find()
        self.assertEqual(
            [(found.id, found.missing) for found in findings.broken],
            [(part, public_keys(part, ["png"])[2:]), (nothing, public_keys(nothing, ["png"]))],
        )
        self.assertEqual(findings.orphans, [])

    def test_foreign_objects_are_ignored(self) -> None:
        """Objects whose keys are not those of avatars are ignored."""
        self.put("robots.txt", "a/index.html", f"b/{make_id(1)}")
        self.put_original("probe")
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual((findings.avatars, findings.orphans), (0, []))

    def test_pages_may_end_within_an_avatar(self) -> None:
        """Everything is found with any page size, even if a page ends within an avatar."""
        for number in range(10):
            self.put(*public_keys(make_id(100 + number), ["png"]))
            self.put_original(make_id(105 + number))
        kept = self.upload().id
        self.put(*public_keys(kept, ["png"]))
        self.ready(kept)
        self.clock.advance(GRACE + 1)
        for page in (1, 2, 3, 7, 31):
            self.assertEqual(self.orphans(page), [make_id(100 + n) for n in range(15)], page)

    def test_an_avatar_deleted_during_the_sweep_is_not_reported(self) -> None:
        """An avatar that is deleted between two pages is neither an orphan nor broken."""
        orphan, broken = make_id(50), self.upload().id
        self.put(*public_keys(orphan, ["png"]))
        self.ready(broken)
        self.clock.advance(GRACE + 1)
        before = [replace(row) for row in self.rows.rows.values()]

        async def old_rows(after: str, limit: int) -> Sequence[Any]:
            await self.pictures.delete(keys=public_keys(orphan, ["png"]))
            await self.selection.delete(uid=ALICE, avatar_id=broken)
            return [row for row in before if row.id > after]

        self.some_rows = old_rows  # type: ignore[method-assign]
        findings = self.find()
        self.assertEqual((findings.orphans, findings.broken), ([], []))

    def test_rows_out_of_order_are_an_error(self) -> None:
        """If rows are not in the order of their ids, the sweep raises and reports nothing."""
        first, second = (self.upload(uid).id for uid in (ALICE, BOB))

        async def backwards(after: str, limit: int) -> Sequence[Any]:
            return [] if after else [self.rows.rows[second], self.rows.rows[first]]

        self.some_rows = backwards  # type: ignore[method-assign]
        self.assertIn("out of order", str(self.fails_now(self.sweep().find(), StoreError)))

    def test_each_orphan_gets_a_delete_job(self) -> None:
        """Removing sends a delete job for each orphan, and notes it in the row if there is one."""
        old, new = (self.upload().id for _ in range(2))
        self.ready(old)
        self.ready(new)
        self.apply(old, ResultStatus.DELETED)
        self.put(
            *public_keys(new, ["png"]),
            *public_keys(old, ["png"]),
            *public_keys(make_id(9), ["png"]),
        )
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.sent()
        self.assertEqual(self.run_now(self.sweep().remove(findings)), 2)
        self.assertEqual(self.sent(), [("delete", old), ("delete", make_id(9))])
        self.assertIsNotNone(self.rows.rows[old].job_sent)

    def test_an_orphan_that_is_needed_again_is_kept(self) -> None:
        """An orphan that has become an avatar since the sweep is not removed."""
        avatar_id = make_id(1)
        self.put(*public_keys(avatar_id, ["png"]))
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual(self.upload().id, avatar_id)
        self.ready(avatar_id)
        self.sent()
        self.assertEqual(self.run_now(self.sweep().remove(findings)), 0)
        self.assertEqual(self.sent(), [])

    def test_a_failure_of_a_driver_is_raised(self) -> None:
        """A failure of a bucket, the store or the queue is raised, and a retry works."""
        self.put(*public_keys(make_id(1), ["png"]))
        self.put_original(private_key(make_id(1)))
        self.clock.advance(GRACE + 1)
        self.public.fail("list", StorageError("down"))
        self.fails_now(self.sweep().find(), StorageError)
        self.private.fail("list", StorageError("down"))
        self.fails_now(self.sweep().find(), StorageError)
        self.store.fail("avatar", StoreError("down"))
        self.fails_now(self.sweep().find(), StoreError)
        findings = self.find()
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(self.sweep().remove(findings), QueueError)
        self.assertEqual(self.run_now(self.sweep().remove(findings)), 1)
