"""
Tests of :mod:`fxprofile.sweep`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from fxprofile.aio import BytesBody
from fxprofile.errors import QueueError, StorageError, StoreError
from fxprofile.keys import public_key, public_keys
from fxprofile.model import Outcome
from fxprofile.sweep import AGE, Found, Sweep
from tests.core import ALICE, CoreTestCase, make_id
from tests.fakes.bucket import MemoryBucket
from tests.fakes.flaky import Flaky


class SweepTests(CoreTestCase):
    """Pictures that nobody needs are found, and no others."""

    def setUp(self) -> None:
        super().setUp()
        self.pictures = MemoryBucket(self.clock)
        self.public = Flaky(self.pictures)
        self.sweep = Sweep(
            public=self.public, store=self.store, selection=self.selection, clock=self.clock
        )

    def put(self, *keys: str) -> None:
        for key in keys:
            body = BytesBody(b"x")
            self.run_now(self.pictures.put(key=key, body=body, length=1, content_type="image/png"))

    def find(self) -> Found:
        return self.run_now(self.sweep.find())

    def test_row_is_gone(self) -> None:
        """Pictures without a row are orphans, whether all of them are there or not."""
        self.put(*public_keys(make_id(1)), public_key(make_id(2), "large"))
        self.clock.advance(AGE + 1)
        self.assertEqual(self.find(), Found(looked_at=2, orphans=(make_id(1), make_id(2))))

    def test_young(self) -> None:
        """What has come lately may yet get its row, or its delete job."""
        self.put(*public_keys(make_id(1)))
        self.clock.advance(AGE)
        self.assertEqual(self.find(), Found(looked_at=1, orphans=()))
        self.clock.advance(1)
        self.put(public_key(make_id(1), "small"))
        self.assertEqual(self.find(), Found(looked_at=1, orphans=()))

    def test_needed(self) -> None:
        """Pictures of a row that is ready, processing or failed are left alone."""
        ready, processing, failed = (self.upload().id for _ in range(3))
        self.ready(ready)
        self.apply(failed, Outcome.FAILED, "dead")
        for avatar_id in (ready, processing, failed):
            self.put(*public_keys(avatar_id))
        self.clock.advance(AGE + 1)
        self.assertEqual(self.find(), Found(looked_at=3, orphans=()))

    def test_leaving(self) -> None:
        """Those of a row that was deleted or replaced long ago are not."""
        deleted, replaced, newest = (self.upload().id for _ in range(3))
        self.ready(newest)
        self.ready(replaced)
        self.apply(replaced, Outcome.DELETED)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=deleted))
        self.put(*public_keys(deleted), *public_keys(replaced))
        self.clock.advance(AGE + 1)
        self.assertEqual(self.find().orphans, (deleted, replaced))

    def test_other_objects(self) -> None:
        """What is not a picture of ours is not looked at."""
        self.put("robots.txt", "a/index.html", f"b/{make_id(1)}")
        self.clock.advance(AGE + 1)
        self.assertEqual(self.find(), Found(looked_at=0, orphans=()))

    def test_pages(self) -> None:
        """A bucket of any size is looked through, also where a page ends within an avatar."""
        self.put(*(key for number in range(10) for key in public_keys(make_id(number))))
        self.clock.advance(AGE + 1)
        for page in (1, 2, 7, 30):
            sweep = Sweep(
                public=self.public,
                store=self.store,
                selection=self.selection,
                clock=self.clock,
                page=page,
            )
            found = self.run_now(sweep.find())
            self.assertEqual(found.orphans, tuple(make_id(number) for number in range(10)))

    def test_remove(self) -> None:
        """Each orphan gets a delete job, which is noted in its row if it has one."""
        deleted = self.upload().id
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=deleted))
        self.sent()
        found = Found(looked_at=9, orphans=(deleted, make_id(9)))
        self.assertEqual(self.run_now(self.sweep.remove(found)), 2)
        self.assertEqual(self.sent(), [("delete", deleted), ("delete", make_id(9))])

    def test_needed_by_now(self) -> None:
        """Whoever has become the avatar of somebody in the meantime stays."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.sent()
        found = Found(looked_at=1, orphans=(avatar.id,))
        self.assertEqual(self.run_now(self.sweep.remove(found)), 0)
        self.assertEqual(self.sent(), [])

    def test_failures(self) -> None:
        """What fails outside is raised, and nothing is called an orphan for it."""
        self.put(*public_keys(make_id(1)))
        self.clock.advance(AGE + 1)
        self.public.fail("list", StorageError("down"))
        self.fails_now(self.sweep.find(), StorageError)
        self.store.fail("avatar", StoreError("down"))
        self.fails_now(self.sweep.find(), StoreError)
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(self.sweep.remove(self.find()), QueueError)
        removing = Deferred.fromCoroutine(self.sweep.remove(self.find()))
        self.assertEqual(self.successResultOf(removing), 1)
