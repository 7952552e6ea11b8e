"""
Tests of :mod:`fxprofile.uploads.selection`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.avatars import Status
from fxprofile.model.errors import QueueError, StoreError
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import ResultStatus
from fxprofile.uploads.selection import POLL, NotTheOwner
from tests.support.core import ALICE, BOB, CoreTestCase, make_id, result


class ResultTests(CoreTestCase):
    """What follows from the result of a worker."""

    def test_ready(self) -> None:
        """A ready avatar is selected, and whoever keeps the profile is told."""
        avatar = self.upload()
        self.sent()
        self.ready(avatar.id)
        self.assertEqual(self.status(avatar.id), Status.READY)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(len(self.received(self.updates_queue)), 1)
        self.assertEqual(self.sent(), [])

    def test_ready_again(self) -> None:
        """The same result once more changes nothing, and deletes nothing."""
        avatar = self.upload()
        self.sent()
        self.ready(avatar.id)
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.sent(), [])

    def test_failed(self) -> None:
        """A failed upload keeps its reason, and the avatar before it stays."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.sent()
        self.apply(second.id, ResultStatus.FAILED, "corrupt")
        self.assertEqual(self.rows.rows[second.id].error, "corrupt")
        self.assertEqual(self.selected(), first.id)
        self.assertEqual(self.sent(), [])

    def test_ready_after_failed(self) -> None:
        """A late success of an upload that was given up is believed."""
        avatar = self.upload()
        self.apply(avatar.id, ResultStatus.FAILED, "dead")
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)

    def test_failed_after_ready(self) -> None:
        """A late failure does not take away what is ready."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.apply(avatar.id, ResultStatus.FAILED, "lost")
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.status(avatar.id), Status.READY)

    def test_replaced(self) -> None:
        """The one before a newer one is replaced, and its objects are to be deleted."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.sent()
        self.ready(second.id)
        self.assertEqual(self.selected(), second.id)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.assertEqual(self.sent(), [("delete", first.id)])

    def test_older_comes_later(self) -> None:
        """An older upload whose result comes later is replaced at once."""
        first, second = self.upload(), self.upload()
        self.sent()
        self.ready(second.id)
        self.ready(first.id)
        self.assertEqual(self.selected(), second.id)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.assertEqual(self.sent(), [("delete", first.id)])

    def test_replaced_job_fails(self) -> None:
        """If the delete job of the one before cannot be sent, its row owes it."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.jobs.fail("send", QueueError("down"))
        self.ready(second.id)
        self.assertEqual(self.selected(), second.id)
        self.assertIsNone(self.rows.rows[first.id].job_sent)
        self.assertIsNotNone(self.rows.rows[first.id].owed_since)

    def test_deleted(self) -> None:
        """When the objects of a deleted avatar are gone, its row goes."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.apply(avatar.id, ResultStatus.DELETED)
        self.assertIsNone(self.status(avatar.id))

    def test_store_fails(self) -> None:
        """A result that cannot be applied has to come again, and is then applied."""
        for outcome in ResultStatus:
            for after in (False, True):
                avatar = self.upload()
                self.store.fail(outcome.value, StoreError("down"), after=after)
                reason = "corrupt" if outcome is ResultStatus.FAILED else None
                work = self.selection.apply(result(avatar.id, outcome, reason))
                self.fails_now(work, StoreError)
                self.apply(avatar.id, outcome, reason)

    def test_announced_again(self) -> None:
        """A result that comes again after a crash tells of the change once more."""
        avatar = self.upload()
        self.run_now(self.rows.ready(avatar_id=avatar.id, variants={}, now=1_000_000))
        self.ready(avatar.id)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])


class LateResultTests(CoreTestCase):
    """
    Results of avatars that were deleted in the meantime.

    The worker has put objects, all three or some of them, perhaps after a delete job was
    done: another one has to follow, and the result must not be forgotten before it is on
    the queue.
    """

    def late(self, outcome: ResultStatus) -> list[tuple[str, str]]:
        self.sent()
        reason = "lost" if outcome is ResultStatus.FAILED else None
        work = self.selection.apply(result(make_id(1), outcome, reason))
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(work, QueueError)
        self.assertEqual(self.sent(), [])
        self.apply(make_id(1), outcome, reason)
        return self.sent()

    def test_row_is_gone(self) -> None:
        """Without a row the objects are deleted."""
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", make_id(1))])

    def test_row_is_deleting(self) -> None:
        """The objects of a row that is being deleted are deleted once more."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", avatar.id)])
            self.assertEqual(self.status(avatar.id), Status.DELETING)

    def test_row_is_replaced(self) -> None:
        """Those of a replaced row as well, even if they had been deleted before."""
        first, second = self.upload(), self.upload()
        self.ready(second.id)
        self.ready(first.id)
        self.apply(first.id, ResultStatus.DELETED)
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", first.id)])
            self.assertEqual(self.status(first.id), Status.REPLACED)
            # Until that is done, the row owes it.
            self.assertIsNotNone(self.rows.rows[first.id].owed_since)
        self.apply(first.id, ResultStatus.DELETED)
        self.assertIsNone(self.rows.rows[first.id].owed_since)

    def test_it_ends(self) -> None:
        """That objects without a row are gone leads to nothing more."""
        self.apply(make_id(1), ResultStatus.DELETED)
        self.assertEqual(self.sent(), [])

    def test_clean_up(self) -> None:
        """The same can be asked for without a result."""
        avatar = self.upload()
        self.sent()
        self.assertFalse(self.run_now(self.selection.clean_up(avatar.id)))
        self.assertEqual(self.sent(), [])
        self.run_now(self.rows.delete(avatar_id=avatar.id, uid=ALICE, now=0))
        self.assertTrue(self.run_now(self.selection.clean_up(avatar.id)))
        self.assertTrue(self.run_now(self.selection.clean_up(make_id(9))))
        self.assertEqual(self.sent(), [("delete", avatar.id), ("delete", make_id(9))])


class DeleteTests(CoreTestCase):
    """What users delete."""

    def delete(self, avatar_id: str | None, uid: str = ALICE) -> bool:
        return self.run_now(self.selection.delete(uid=uid, avatar_id=avatar_id))

    def test_by_id(self) -> None:
        """An avatar is no longer selected, its profile is announced, its job is sent."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.sent()
        self.cache.calls.clear()
        self.assertTrue(self.delete(avatar.id))
        self.assertIsNone(self.selected())
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_twice(self) -> None:
        """What is being deleted, or never was, is not there."""
        avatar = self.upload()
        self.assertTrue(self.delete(avatar.id))
        self.assertFalse(self.delete(avatar.id))
        self.assertFalse(self.delete(make_id(9)))

    def test_again_after_a_crash(self) -> None:
        """Who deletes again what a process that died had deleted gets rid of the kept profile."""
        avatar = self.upload()
        self.run_now(self.rows.delete(avatar_id=avatar.id, uid=ALICE, now=0))
        for avatar_id in (avatar.id, None):
            self.cache.calls.clear()
            self.assertFalse(self.delete(avatar_id))
            self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])

    def test_not_the_owner(self) -> None:
        """Somebody else's avatar stays."""
        avatar = self.upload(BOB)
        work = self.selection.delete(uid=ALICE, avatar_id=avatar.id)
        self.fails_now(work, NotTheOwner)
        self.assertEqual(self.status(avatar.id), Status.PROCESSING)

    def test_default(self) -> None:
        """The default avatar belongs to nobody, and stays."""
        self.assertTrue(self.delete(DEFAULT_AVATAR_ID))
        self.assertEqual(self.sent(), [])

    def test_current(self) -> None:
        """The present avatar goes, and whatever is being processed, and nothing comes back."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        other = self.upload(BOB)
        self.sent()
        self.assertTrue(self.delete(None))
        self.assertEqual(sorted(self.sent()), [("delete", first.id), ("delete", second.id)])
        self.ready(second.id)
        self.assertIsNone(self.selected())
        self.assertEqual(self.status(other.id), Status.PROCESSING)

    def test_current_without_any(self) -> None:
        """Without an avatar there is nothing to delete."""
        self.assertFalse(self.delete(None))

    def test_queue_fails(self) -> None:
        """If the delete job cannot be sent, the avatar is deleted all the same, and owes it."""
        avatar = self.upload()
        self.jobs.fail("send", QueueError("down"))
        self.assertTrue(self.delete(avatar.id))
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)

    def test_user(self) -> None:
        """With an account goes everything of it, whatever state it is in."""
        ids = [self.upload().id for _ in range(4)]
        self.ready(ids[1])
        self.ready(ids[2])
        self.apply(ids[3], ResultStatus.FAILED, "corrupt")
        self.run_now(self.rows.set_display_name(uid=ALICE, name="Alice", now=0))
        self.sent()
        self.run_now(self.selection.delete_user(ALICE))
        self.assertEqual(sorted(self.sent()), sorted(("delete", i) for i in ids))
        self.assertIsNone(self.run_now(self.rows.profile(uid=ALICE)).display_name)
        for avatar_id in ids:
            self.apply(avatar_id, ResultStatus.DELETED)
        self.assertEqual(self.rows.rows, {})

    def test_user_without_avatars(self) -> None:
        """A kept profile of a deleted account goes, even if there is nothing else of it."""
        self.run_now(self.selection.delete_user(ALICE))
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(len(self.received(self.updates_queue)), 1)


class GiveUpTests(CoreTestCase):
    """Jobs that will never be done."""

    def test_processing(self) -> None:
        """An upload that waits for its result fails, and whoever waits for it hears of that."""
        avatar = self.upload()
        waiting = Deferred.fromCoroutine(self.selection.wait(avatar, 30))
        self.assertTrue(self.run_now(self.selection.fail(avatar.id, "dead")))
        row = self.successResultOf(waiting)
        self.assertEqual((row.status, row.error), (Status.FAILED, "dead"))

    def test_others(self) -> None:
        """Any other avatar stays as it is."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertFalse(self.run_now(self.selection.fail(avatar.id, "dead")))
        self.assertFalse(self.run_now(self.selection.fail(make_id(9), "dead")))
        self.assertEqual(self.status(avatar.id), Status.READY)


class WaitTests(CoreTestCase):
    """An upload that waits for its result."""

    def setUp(self) -> None:
        super().setUp()
        self.avatar = self.upload()

    def wait(self, seconds: float = 5) -> Deferred[object]:
        return Deferred.fromCoroutine(self.selection.wait(self.avatar, seconds))

    def assert_clean(self) -> None:
        """Nothing is left on the clock."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_result_here(self) -> None:
        """A result that this process applies ends the wait at once."""
        for outcome, status in (
            (ResultStatus.FAILED, Status.FAILED),
            (ResultStatus.READY, Status.READY),
        ):
            self.avatar = self.upload()
            waits = [self.wait(), self.wait()]
            self.apply(self.avatar.id, outcome, "corrupt")
            for waiting in waits:
                self.assertEqual(self.successResultOf(waiting).status, status)
        self.assert_clean()

    def test_result_elsewhere(self) -> None:
        """A result that another process applies is seen soon after."""
        waiting = self.wait()
        self.clock.advance(POLL / 2)
        self.run_now(self.rows.failed(avatar_id=self.avatar.id, reason="corrupt", now=0))
        self.assertNoResult(waiting)
        self.clock.advance(POLL / 2)
        self.assertEqual(self.successResultOf(waiting).status, Status.FAILED)
        self.assert_clean()

    def test_no_result(self) -> None:
        """At the end of the wait the upload is still processing."""
        waiting = self.wait(5)
        self.clock.pump([POLL] * 9 + [POLL * 0.9])
        self.assertNoResult(waiting)
        self.clock.advance(POLL * 0.2)
        self.assertEqual(self.successResultOf(waiting).status, Status.PROCESSING)
        self.assert_clean()

    def test_no_wait(self) -> None:
        """Who does not want to wait gets the row as it is, at once."""
        self.assertEqual(self.successResultOf(self.wait(0)).status, Status.PROCESSING)
        self.assert_clean()

    def test_deleted(self) -> None:
        """An upload that is deleted while it is waited for says so, row or no row."""
        waiting = self.wait()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=self.avatar.id))
        self.assertEqual(self.successResultOf(waiting).status, Status.DELETING)
        self.apply(self.avatar.id, ResultStatus.DELETED)
        self.assertEqual(self.successResultOf(self.wait()).status, Status.DELETING)
        self.assert_clean()

    def test_deletion_wakes_the_wait_before_its_job_is_sent(self) -> None:
        """A waiting upload is answered as soon as its row is deleted, even on a slow queue."""
        for avatar_id in (self.avatar.id, None):
            self.avatar = self.upload()
            waiting = self.wait()
            held = self.jobs.hold("send")
            deleting = Deferred.fromCoroutine(
                self.selection.delete(uid=ALICE, avatar_id=avatar_id and self.avatar.id)
            )
            self.assertEqual(self.successResultOf(waiting).status, Status.DELETING)
            self.assertNoResult(deleting)
            held.callback(None)
            self.assertTrue(self.successResultOf(deleting))
        self.assert_clean()

    def test_account_deletion_wakes_the_wait(self) -> None:
        """A waiting upload is answered as soon as its account is deleted."""
        waiting = self.wait()
        self.run_now(self.selection.delete_user(ALICE))
        self.assertEqual(self.successResultOf(waiting).status, Status.DELETING)
        self.assert_clean()

    def test_store_fails(self) -> None:
        """A database that fails in the meantime is not the client's affair."""
        self.store.fail("avatar", StoreError("down"), times=3)
        waiting = self.wait()
        self.clock.pump([POLL] * 2)
        self.ready(self.avatar.id)
        self.assertEqual(self.successResultOf(waiting).status, Status.READY)

    def test_given_up(self) -> None:
        """A wait that is cancelled leaves nothing."""
        waiting = self.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assert_clean()

    def test_between_looking_and_listening(self) -> None:
        """A result that comes while the row is being read is not missed."""
        held = self.store.hold("avatar", after=True)
        waiting = self.wait()
        self.ready(self.avatar.id)
        held.callback(None)
        self.assertEqual(self.successResultOf(waiting).status, Status.READY)
