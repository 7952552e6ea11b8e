"""Tests of :mod:`fxprofile.admin.sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fxprofile.admin.sweep import Sweep, SweepReport
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.errors import QueueError, StorageError, StoreError
from fxprofile.model.keys import private_key, public_key, public_keys
from fxprofile.model.messages import ResultStatus
from tests.support.core import ALICE, BOB, CoreTestCase, make_id
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.flaky import Flaky

GRACE = 48 * 3600


class SweepTests(CoreTestCase):
    """What no row needs is found, and what rows miss, and nothing else."""

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

    def orphans(self, page: int = 1000) -> list[str]:
        return [found.id for found in self.find(page).orphans]

    def broken(self) -> list[str]:
        return [found.id for found in self.find().broken]

    def test_row_is_gone(self) -> None:
        """Objects without a row are orphans, in either bucket, and however many there are."""
        self.put(*public_keys(make_id(1), ["png"]), public_key(make_id(2), "large"))
        self.put_original(make_id(2))
        self.put_original(make_id(3))
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual([len(found.objects) for found in findings.orphans], [3, 2, 1])
        self.assertEqual((findings.pictures, findings.originals, findings.avatars), (2, 2, 3))
        self.assertEqual((findings.rows, findings.broken), (0, []))

    def test_young(self) -> None:
        """What has come lately may yet get its row, or its delete job."""
        self.put(*public_keys(make_id(1), ["png"]))
        self.clock.advance(GRACE)
        self.assertEqual(self.orphans(), [])
        self.clock.advance(1)
        self.assertEqual(self.orphans(), [make_id(1)])
        self.put(public_key(make_id(1), "small"))
        self.assertEqual(self.orphans(), [])

    def test_needed(self) -> None:
        """Objects of a row that is ready, processing or failed are left alone."""
        ready, failed, processing = (self.upload(uid).id for uid in (ALICE, BOB, "c" * 32))
        for avatar_id in (ready, processing, failed):
            self.put(*public_keys(avatar_id, ["png"]))
        self.ready(ready)
        self.apply(failed, ResultStatus.FAILED, "dead")
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual((findings.orphans, findings.broken, findings.rows), ([], [], 3))

    def test_leaving(self) -> None:
        """Those of a row that owes its delete job are not orphans; when it is done they are."""
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

    def test_broken(self) -> None:
        """A ready avatar is broken if one of its pictures is missing, or all are."""
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

    def test_other_objects(self) -> None:
        """What is not an object of ours is not looked at."""
        self.put("robots.txt", "a/index.html", f"b/{make_id(1)}")
        self.put_original("probe")
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual((findings.avatars, findings.orphans), (0, []))

    def test_pages(self) -> None:
        """All is looked through, also where a page ends within an avatar."""
        for number in range(10):
            self.put(*public_keys(make_id(100 + number), ["png"]))
            self.put_original(make_id(105 + number))
        kept = self.upload().id
        self.put(*public_keys(kept, ["png"]))
        self.ready(kept)
        self.clock.advance(GRACE + 1)
        for page in (1, 2, 3, 7, 31):
            self.assertEqual(self.orphans(page), [make_id(100 + n) for n in range(15)], page)

    def test_deleted_meanwhile(self) -> None:
        """Whoever is deleted between two pages is neither an orphan nor broken."""
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

    def test_out_of_order(self) -> None:
        """A database that sorts in an order of its own is found out: nothing is concluded."""
        first, second = (self.upload(uid).id for uid in (ALICE, BOB))

        async def backwards(after: str, limit: int) -> Sequence[Any]:
            return [] if after else [self.rows.rows[second], self.rows.rows[first]]

        self.some_rows = backwards  # type: ignore[method-assign]
        self.assertIn("out of order", str(self.fails_now(self.sweep().find(), StoreError)))

    def test_remove(self) -> None:
        """Each orphan gets a delete job, which is noted in its row if it has one."""
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

    def test_needed_by_now(self) -> None:
        """What has become somebody's avatar in the meantime stays."""
        avatar_id = make_id(1)
        self.put(*public_keys(avatar_id, ["png"]))
        self.clock.advance(GRACE + 1)
        findings = self.find()
        self.assertEqual(self.upload().id, avatar_id)
        self.ready(avatar_id)
        self.sent()
        self.assertEqual(self.run_now(self.sweep().remove(findings)), 0)
        self.assertEqual(self.sent(), [])

    def test_failures(self) -> None:
        """What fails outside is raised, and nothing is called an orphan for it."""
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
