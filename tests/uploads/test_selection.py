"""
Tests of :mod:`fxprofile.uploads.selection`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.model.avatars import Status
from fxprofile.model.errors import QueueError, StoreError
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import ResultStatus
from fxprofile.uploads.selection import MAX_APPLIED, POLL, NotTheOwner
from tests.support.core import ALICE, BOB, CoreTestCase, make_id, result


class ResultTests(CoreTestCase):
    """The effects of a worker's result."""

    def test_ready_avatar_is_selected(self) -> None:
        """A ready avatar is selected, and the cached profile is invalidated."""
        avatar = self.upload()
        self.sent()
        self.cache.calls.clear()
        self.ready(avatar.id)
        self.assertEqual(self.status(avatar.id), Status.READY)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(len(self.received(self.updates_queue)), 1)
        self.assertEqual(self.sent(), [])

    def test_repeated_ready_result_changes_nothing(self) -> None:
        """A repeated ready result changes and deletes nothing."""
        avatar = self.upload()
        self.sent()
        self.ready(avatar.id)
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.sent(), [])

    def test_failed_upload_keeps_the_old_avatar(self) -> None:
        """A failed upload has its reason, and the earlier avatar stays selected."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.sent()
        self.apply(second.id, ResultStatus.FAILED, "corrupt")
        self.assertEqual(self.rows.rows[second.id].error, "corrupt")
        self.assertEqual(self.selected(), first.id)
        self.assertEqual(self.sent(), [])

    def test_late_success_of_a_failed_upload(self) -> None:
        """A ready result of a failed upload still selects it."""
        avatar = self.upload()
        self.apply(avatar.id, ResultStatus.FAILED, "dead")
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)

    def test_late_failure_of_a_ready_avatar(self) -> None:
        """A failed result of a ready avatar changes nothing."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.apply(avatar.id, ResultStatus.FAILED, "lost")
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.status(avatar.id), Status.READY)

    def test_newer_avatar_replaces_the_selected_one(self) -> None:
        """A newer ready upload replaces the selected avatar, whose objects are then deleted."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.sent()
        self.ready(second.id)
        self.assertEqual(self.selected(), second.id)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.assertEqual(self.sent(), [("delete", first.id)])

    def test_older_upload_is_replaced_at_once(self) -> None:
        """An older upload that becomes ready after a newer one is replaced at once."""
        first, second = self.upload(), self.upload()
        self.sent()
        self.ready(second.id)
        self.ready(first.id)
        self.assertEqual(self.selected(), second.id)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.assertEqual(self.sent(), [("delete", first.id)])

    def test_delete_job_of_the_replaced_avatar_stays_pending(self) -> None:
        """If the delete job of a replaced avatar cannot be sent, it stays pending."""
        first = self.upload()
        self.ready(first.id)
        second = self.upload()
        self.jobs.fail("send", QueueError("down"))
        self.ready(second.id)
        self.assertEqual(self.selected(), second.id)
        self.assertIsNone(self.rows.rows[first.id].job_sent)
        self.assertIsNotNone(self.rows.rows[first.id].owed_since)

    def test_row_is_removed_after_its_objects(self) -> None:
        """The row of a deleted avatar is removed when its objects are."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.apply(avatar.id, ResultStatus.DELETED)
        self.assertIsNone(self.status(avatar.id))

    def test_failed_result_can_be_applied_again(self) -> None:
        """A result whose transaction failed can be applied again."""
        for outcome in ResultStatus:
            for after in (False, True):
                avatar = self.upload()
                self.store.fail(outcome.value, StoreError("down"), after=after)
                reason = "corrupt" if outcome is ResultStatus.FAILED else None
                work = self.selection.apply(result(avatar.id, outcome, reason))
                self.fails_now(work, StoreError)
                self.apply(avatar.id, outcome, reason)

    def test_repeated_result_invalidates_the_cache_again(self) -> None:
        """A result repeated after a crash invalidates the cached profile again."""
        avatar = self.upload()
        self.run_now(self.rows.ready(avatar_id=avatar.id, variants={}, now=1_000_000))
        self.cache.calls.clear()
        self.ready(avatar.id)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])


class LateResultTests(CoreTestCase):
    """
    Results of avatars that were deleted meanwhile: objects that the worker put after the delete job
    need another one, which must be sent before the result is acknowledged.
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

    def test_late_result_of_a_removed_row(self) -> None:
        """A late result of a removed row sends a delete job."""
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", make_id(1))])

    def test_late_result_of_a_deleting_row(self) -> None:
        """A late result of a row that is being deleted sends another delete job."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", avatar.id)])
            self.assertEqual(self.status(avatar.id), Status.DELETING)

    def test_late_result_of_a_replaced_row(self) -> None:
        """
        A late result of a replaced row sends another delete job, even if its objects were removed.
        """
        first, second = self.upload(), self.upload()
        self.ready(second.id)
        self.ready(first.id)
        self.apply(first.id, ResultStatus.DELETED)
        for outcome in (ResultStatus.READY, ResultStatus.FAILED):
            self.assertEqual(self.late(outcome), [("delete", first.id)])
            self.assertEqual(self.status(first.id), Status.REPLACED)
            # The delete job is pending until its result arrives.
            self.assertIsNotNone(self.rows.rows[first.id].owed_since)
        self.apply(first.id, ResultStatus.DELETED)
        self.assertIsNone(self.rows.rows[first.id].owed_since)

    def test_deleted_result_of_a_removed_row(self) -> None:
        """A deleted result of a removed row sends no further job."""
        self.apply(make_id(1), ResultStatus.DELETED)
        self.assertEqual(self.sent(), [])

    def test_clean_up_sends_a_delete_job(self) -> None:
        """clean_up sends a delete job for deleting and removed rows, and for no others."""
        avatar = self.upload()
        self.sent()
        self.assertFalse(self.run_now(self.selection.clean_up(avatar.id)))
        self.assertEqual(self.sent(), [])
        self.run_now(self.rows.delete(avatar_id=avatar.id, uid=ALICE, now=0))
        self.assertTrue(self.run_now(self.selection.clean_up(avatar.id)))
        self.assertTrue(self.run_now(self.selection.clean_up(make_id(9))))
        self.assertEqual(self.sent(), [("delete", avatar.id), ("delete", make_id(9))])


class DeleteTests(CoreTestCase):
    """Deletions by the user."""

    def delete(self, avatar_id: str | None, uid: str = ALICE) -> bool:
        return self.run_now(self.selection.delete(uid=uid, avatar_id=avatar_id))

    def test_delete_by_id(self) -> None:
        """A deleted avatar is deselected, its profile is invalidated and its delete job is sent."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.sent()
        self.cache.calls.clear()
        self.assertTrue(self.delete(avatar.id))
        self.assertIsNone(self.selected())
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_delete_of_a_missing_avatar(self) -> None:
        """An avatar that is being deleted, or never existed, is not found."""
        avatar = self.upload()
        self.assertTrue(self.delete(avatar.id))
        self.assertFalse(self.delete(avatar.id))
        self.assertFalse(self.delete(make_id(9)))

    def test_repeated_delete_invalidates_the_cache(self) -> None:
        """A delete repeated after a crash invalidates the cached profile."""
        avatar = self.upload()
        self.run_now(self.rows.delete(avatar_id=avatar.id, uid=ALICE, now=0))
        for avatar_id in (avatar.id, None):
            self.cache.calls.clear()
            self.assertFalse(self.delete(avatar_id))
            self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])

    def test_delete_of_another_users_avatar(self) -> None:
        """Another user's avatar cannot be deleted."""
        avatar = self.upload(BOB)
        work = self.selection.delete(uid=ALICE, avatar_id=avatar.id)
        self.fails_now(work, NotTheOwner)
        self.assertEqual(self.status(avatar.id), Status.PROCESSING)

    def test_delete_of_the_default_avatar(self) -> None:
        """Deleting the default avatar has no effect."""
        self.assertTrue(self.delete(DEFAULT_AVATAR_ID))
        self.assertEqual(self.sent(), [])

    def test_delete_current(self) -> None:
        """
        The selected avatar and all uploads in processing are deleted, and no late result returns
        them.
        """
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

    def test_delete_current_without_an_avatar(self) -> None:
        """Deleting the current avatar of a user without one finds nothing."""
        self.assertFalse(self.delete(None))

    def test_delete_while_the_queue_is_down(self) -> None:
        """A delete succeeds while the queue is down, and its job stays pending."""
        avatar = self.upload()
        self.jobs.fail("send", QueueError("down"))
        self.assertTrue(self.delete(avatar.id))
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)

    def test_delete_user(self) -> None:
        """Deleting a user deletes the profile and every avatar in any status."""
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

    def test_delete_user_without_avatars(self) -> None:
        """
        Deleting a user without avatars invalidates the cached profile and notifies other services.
        """
        self.run_now(self.selection.delete_user(ALICE))
        self.assertEqual(self.cache.called("invalidate"), [{"uid": ALICE}])
        self.assertEqual(len(self.received(self.updates_queue)), 1)


class FailTests(CoreTestCase):
    """Uploads whose job was dead-lettered."""

    def test_fail_wakes_the_wait(self) -> None:
        """An upload that fails is answered at once if it waits for its result."""
        avatar = self.upload()
        waiting = Deferred.fromCoroutine(self.selection.wait(avatar, 30))
        self.assertTrue(self.run_now(self.selection.fail(avatar.id, "dead")))
        row = self.successResultOf(waiting)
        self.assertEqual((row.status, row.error), (Status.FAILED, "dead"))

    def test_fail_of_another_status(self) -> None:
        """Avatars that are not in processing do not change."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.assertFalse(self.run_now(self.selection.fail(avatar.id, "dead")))
        self.assertFalse(self.run_now(self.selection.fail(make_id(9), "dead")))
        self.assertEqual(self.status(avatar.id), Status.READY)


class WaitTests(CoreTestCase):
    """Waiting for a result."""

    def setUp(self) -> None:
        super().setUp()
        self.avatar = self.upload()

    def wait(self, seconds: float = 5) -> Deferred[object]:
        return Deferred.fromCoroutine(self.selection.wait(self.avatar, seconds))

    def assert_clean(self) -> None:
        """No timer is left."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_result_in_this_process_ends_the_wait(self) -> None:
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

    def test_result_before_the_wait_ends_it(self) -> None:
        """A result that this process applied before the wait ends it, without a lookup."""
        self.ready(self.avatar.id)
        self.store.calls.clear()
        self.assertEqual(self.successResultOf(self.wait()).status, Status.READY)
        self.assertEqual(self.store.calls, [])
        self.assert_clean()

    def test_rows_for_waits_are_bounded(self) -> None:
        """Only the latest rows are kept for waiting uploads; any other is looked up."""
        self.ready(self.avatar.id)
        for _ in range(MAX_APPLIED):
            self.ready(self.upload(uid=BOB).id)
        waiting = self.wait()
        self.assertNoResult(waiting)
        self.clock.advance(POLL)
        self.assertEqual(self.successResultOf(waiting).status, Status.READY)

    def test_result_in_another_process_is_polled(self) -> None:
        """A result that another process applies is found by polling."""
        waiting = self.wait()
        self.clock.advance(POLL / 2)
        self.run_now(self.rows.failed(avatar_id=self.avatar.id, reason="corrupt", now=0))
        self.assertNoResult(waiting)
        self.clock.advance(POLL / 2)
        self.assertEqual(self.successResultOf(waiting).status, Status.FAILED)
        self.assert_clean()

    def test_wait_times_out(self) -> None:
        """At the end of the wait without a result the status is still processing."""
        waiting = self.wait(5)
        self.clock.pump([POLL] * 9 + [POLL * 0.9])
        self.assertNoResult(waiting)
        self.clock.advance(POLL * 0.2)
        self.assertEqual(self.successResultOf(waiting).status, Status.PROCESSING)
        self.assert_clean()

    def test_wait_of_zero_seconds(self) -> None:
        """A wait of zero seconds returns the row at once."""
        self.assertEqual(self.successResultOf(self.wait(0)).status, Status.PROCESSING)
        self.assert_clean()

    def test_deletion_ends_the_wait(self) -> None:
        """A wait for a deleted upload returns deleting, whether its row exists or not."""
        waiting = self.wait()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=self.avatar.id))
        self.assertEqual(self.successResultOf(waiting).status, Status.DELETING)
        self.apply(self.avatar.id, ResultStatus.DELETED)
        waiting = self.wait()
        self.clock.advance(POLL)
        self.assertEqual(self.successResultOf(waiting).status, Status.DELETING)
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

    def test_wait_survives_a_failing_store(self) -> None:
        """A wait continues while the database fails."""
        self.store.fail("avatar", StoreError("down"), times=3)
        waiting = self.wait()
        self.clock.pump([POLL] * 2)
        self.ready(self.avatar.id)
        self.assertEqual(self.successResultOf(waiting).status, Status.READY)

    def test_cancelled_wait_leaves_no_timer(self) -> None:
        """A cancelled wait leaves no timer."""
        waiting = self.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assert_clean()

    def test_result_during_the_lookup(self) -> None:
        """A result that arrives while the row is being read is not missed."""
        held = self.store.hold("avatar", after=True)
        waiting = self.wait()
        self.clock.advance(POLL)
        self.ready(self.avatar.id)
        held.callback(None)
        self.assertEqual(self.successResultOf(waiting).status, Status.READY)
