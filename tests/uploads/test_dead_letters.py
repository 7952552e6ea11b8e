"""
Tests of :mod:`fxprofile.uploads.repair`: dead-lettered jobs and results.
"""

from __future__ import annotations

from fxprofile.model.avatars import Status
from fxprofile.model.errors import LeaseLost, QueueError, StoreError
from fxprofile.model.messages import Job, Op, ResultStatus
from fxprofile.uploads.repair import LIMIT, PERIOD
from tests.support.core import ALICE, make_id, result
from tests.uploads.test_repair import RepairTestCase


class DeadJobTests(RepairTestCase):
    """Dead-lettered jobs."""

    def die(self, op: Op, avatar_id: str) -> None:
        body = Job(op, avatar_id).encode(0)
        self.run_now(self.dead_queue.send(body=body))

    def waiting(self) -> int:
        return self.run_now(self.dead_queue.depth()).visible

    def test_dead_crunch_job_fails_its_upload(self) -> None:
        """A dead crunch job fails its upload, and the message stays visible for operators."""
        avatar = self.upload()
        self.die(Op.CRUNCH, avatar.id)
        self.run_after(0)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.rows.rows[avatar.id].error, "dead")
        self.assertEqual(self.waiting(), 1)
        self.assertEqual(self.repaired("dead"), 1)

    def test_dead_crunch_job_is_applied_once(self) -> None:
        """A dead crunch job that stays on its queue has no further effect in later runs."""
        avatar = self.upload()
        self.die(Op.CRUNCH, avatar.id)
        self.sent()
        for _ in range(3):
            self.run_after(PERIOD)
        self.assertEqual(self.waiting(), 1)
        self.assertEqual(self.repaired("dead"), 1)
        self.assertEqual(self.sent(), [])

    def test_dead_job_of_a_ready_avatar(self) -> None:
        """An avatar that another job has made ready stays ready."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.die(Op.CRUNCH, avatar.id)
        self.run_after(0)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.waiting(), 1)

    def test_dead_job_of_a_deleted_avatar(self) -> None:
        """
        A dead job of an avatar that is being deleted or was removed is replaced by a delete job.
        """
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.sent()
        for op in Op:
            self.die(op, avatar.id)
            self.die(op, make_id(9))
            self.run_after(PERIOD)
            self.assertEqual(sorted(self.sent()), [("delete", avatar.id), ("delete", make_id(9))])
            self.assertEqual(self.waiting(), 0)

    def test_dead_delete_job_of_a_ready_avatar(self) -> None:
        """A dead delete job of an avatar that is not being deleted stays for operators."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.sent()
        self.die(Op.DELETE, avatar.id)
        self.run_after(0)
        self.assertEqual((self.sent(), self.waiting()), ([], 1))

    def test_dead_job_is_kept_until_its_replacement_is_sent(self) -> None:
        """A dead job is deleted only after the new delete job was sent."""
        self.die(Op.CRUNCH, make_id(9))
        self.jobs.fail("send", QueueError("down"))
        self.run_after(0)
        self.assertEqual(self.waiting(), 1)
        self.run_after(PERIOD)
        self.assertEqual((self.sent(), self.waiting()), ([("delete", make_id(9))], 0))

    def test_malformed_job_stays(self) -> None:
        """A malformed message stays on the dead-letter queue and blocks no other."""
        avatar = self.upload()
        self.run_now(self.dead_queue.send(body="junk"))
        self.die(Op.CRUNCH, avatar.id)
        self.run_after(0)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.waiting(), 2)

    def test_run_is_bounded(self) -> None:
        """One run handles a bounded number of dead letters; later runs handle the rest."""
        avatars = [self.upload() for _ in range(LIMIT + 20)]
        for avatar in avatars:
            self.die(Op.CRUNCH, avatar.id)
        self.run_after(1)
        self.assertLess(self.repaired("dead"), LIMIT + 20)
        self.run_after(PERIOD)
        self.assertEqual(self.repaired("dead"), LIMIT + 20)
        self.assertEqual(self.waiting(), LIMIT + 20)

    def test_dead_letters_are_released_if_the_store_fails(self) -> None:
        """If the database fails during a run, all dead letters received are released."""
        for number in (1, 2):
            self.upload()
            self.die(Op.CRUNCH, make_id(number))
        self.store.fail("failed", StoreError("down"))
        self.run_after(0)
        self.assertEqual(self.waiting(), 2)
        self.run_after(PERIOD)
        self.assertEqual(self.repaired("dead"), 2)

    def test_failed_release_hides_the_dead_letter(self) -> None:
        """A dead letter that cannot be released becomes visible after the visibility timeout."""
        self.upload()
        self.die(Op.CRUNCH, make_id(1))
        self.dead.fail("extend", LeaseLost("late"))
        self.run_after(0)
        self.assertEqual(self.waiting(), 0)
        self.clock.advance(60)
        self.assertEqual(self.waiting(), 1)

    def test_runs_without_dead_letter_queues(self) -> None:
        """Without known dead-letter queues the other steps run."""
        repair = self.make("one", dead=None, dead_results=None)
        avatar_id = self.unsent_upload()
        self.run_after(60, repair)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_dead_letters_are_counted(self) -> None:
        """The gauge has the number of dead letters of each queue."""
        self.run_now(self.dead_queue.send(body="junk"))
        self.run_after(0)
        gauge = self.metrics.registry.get_sample_value
        self.assertEqual(gauge("fxprofile_dead_letters", {"queue": "jobs"}), 1)
        self.assertEqual(gauge("fxprofile_dead_letters", {"queue": "results"}), 0)


class DeadResultTests(RepairTestCase):
    """Dead-lettered results, which failed while the database was down."""

    def die(self, avatar_id: str, status: ResultStatus, reason: str | None = None) -> None:
        body = result(avatar_id, status, reason).encode()
        self.run_now(self.dead_results_queue.send(body=body))

    def waiting(self) -> int:
        return self.run_now(self.dead_results_queue.depth()).visible

    def test_dead_results_are_applied(self) -> None:
        """Dead results are applied and deleted once the database is back."""
        good, bad = self.upload(), self.upload()
        self.die(good.id, ResultStatus.READY)
        self.die(bad.id, ResultStatus.FAILED, "corrupt")
        self.run_after(0)
        self.assertEqual(self.selected(), good.id)
        self.assertEqual(self.rows.rows[bad.id].error, "corrupt")
        self.assertEqual(self.waiting(), 0)
        self.assertEqual(self.repaired("dead results"), 2)

    def test_late_dead_result_changes_nothing(self) -> None:
        """A dead result of an avatar that is ready already changes nothing and is deleted."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.die(avatar.id, ResultStatus.FAILED, "corrupt")
        self.run_after(0)
        self.assertEqual((self.selected(), self.waiting()), (avatar.id, 0))

    def test_dead_results_stay_while_the_store_fails(self) -> None:
        """While the database fails, dead results stay visible on their queue."""
        avatar = self.upload()
        self.die(avatar.id, ResultStatus.READY)
        self.store.fail("ready", StoreError("down"))
        self.run_after(0)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.PROCESSING, 1))
        self.run_after(PERIOD)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.READY, 0))

    def test_malformed_result_stays(self) -> None:
        """A malformed result stays on the dead-letter queue and blocks no other."""
        avatar = self.upload()
        self.run_now(self.dead_results_queue.send(body="junk"))
        self.die(avatar.id, ResultStatus.READY)
        self.run_after(0)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.READY, 1))

    def test_dead_results_are_applied_while_the_job_queue_fails(self) -> None:
        """An unreachable dead-letter queue of the jobs does not delay dead results."""
        avatar = self.upload()
        self.die(avatar.id, ResultStatus.READY)
        self.dead.fail("receive", QueueError("down"))
        self.run_after(0)
        self.assertEqual(self.status(avatar.id), Status.READY)
