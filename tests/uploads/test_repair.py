"""
Tests of :mod:`fxprofile.uploads.repair`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Status
from fxprofile.model.errors import QueueError, StoreError
from fxprofile.model.messages import Job, Message, Op, Result, ResultStatus
from fxprofile.uploads.accept import IN_DOUBT_AGE
from fxprofile.uploads.repair import (
    AGES,
    CONCURRENCY,
    EXPIRE_AGE,
    FAILED_AGE,
    LEASE,
    LIMIT,
    OUTBOX_AGE,
    OUTBOX_PERIOD,
    PERIOD,
    REPLACED_AGE,
    STUCK_AGE,
    Repair,
)
from tests.support.core import ALICE, JPEG, CoreTestCase, make_id
from tests.support.fakes.flaky import Flaky


class RepairTestCase(CoreTestCase):
    """The repair loops of one web process, with dead-letter queues."""

    def setUp(self) -> None:
        super().setUp()
        self.dead_queue = MemoryQueue("jobs-dead", 60, None, self.clock)
        self.dead = Flaky(self.dead_queue)
        self.dead_results_queue = MemoryQueue("results-dead", 30, None, self.clock)
        self.dead_results = Flaky(self.dead_results_queue)
        self.repair = self.make("one")

    def make(self, owner: str, **options: Any) -> Repair:
        given = {
            "store": self.store,
            "outbox": self.outbox,
            "selection": self.selection,
            "intake": self.intake,
            "dead": self.dead,
            "dead_results": self.dead_results,
            "metrics": self.metrics,
            "clock": self.clock,
            "owner": owner,
            **options,
        }
        return Repair(**given)

    def repaired(self, loop: str) -> float:
        """Return how many rows or messages a step has repaired."""
        labels = {"loop": loop}
        return self.metrics.registry.get_sample_value("fxprofile_repairs_total", labels) or 0

    def leads(self) -> float | None:
        """Return the value of the gauge of leadership."""
        return self.metrics.registry.get_sample_value("fxprofile_repair_leader")

    def run_after(self, seconds: float, repair: Repair | None = None) -> None:
        """Let time pass, and run the loops once."""
        self.clock.advance(seconds)
        self.run_now((repair or self.repair).run())

    def unsent_upload(self) -> str:
        """Return the id of an upload whose job could not be sent."""
        self.jobs.fail("send", QueueError("down"))
        return self.upload().id


class StartTests(RepairTestCase):
    """The first run of a process whose queues are in its memory."""

    def setUp(self) -> None:
        super().setUp()
        self.repair = self.make("two", resend=True)

    def test_every_pending_job_is_sent_at_the_start(self) -> None:
        """The jobs of all pending rows are sent at once, newest first, although they were sent."""
        deleted, *uploads = [self.upload().id for _ in range(LIMIT + 5)]
        self.clock.advance(1)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=deleted))
        self.sent()
        self.run_after(0)
        sent = self.sent()
        self.assertEqual(
            sent[:CONCURRENCY],
            [("delete", deleted)]
            + [("crunch", avatar_id) for avatar_id in uploads[:-CONCURRENCY:-1]],
        )
        self.assertEqual(len(sent), LIMIT + 5)
        self.run_after(60)
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.repaired("start"), LIMIT + 5)

    def test_the_start_waits_for_no_lease(self) -> None:
        """A killed process that still holds the lease does not delay the jobs."""
        upload = self.upload()
        self.sent()
        self.run_now(self.store.leadership(owner="killed", now=self.clock.seconds(), seconds=LEASE))
        self.run_after(0)
        self.assertEqual(self.sent(), [("crunch", upload.id)])

    def test_the_start_is_repeated_after_an_error(self) -> None:
        """If the database is down at the start, the jobs are sent as soon as it works."""
        upload = self.upload()
        self.sent()
        self.store.fail("forget_jobs", StoreError("down"))
        self.failureResultOf(Deferred.fromCoroutine(self.repair.run()), StoreError)
        self.run_after(0)
        self.assertEqual(self.sent(), [("crunch", upload.id)])

    def test_originals_of_ready_avatars_are_deleted(self) -> None:
        """An original that a killed process left behind is deleted once its avatar is ready."""
        ready, pending = self.upload(), self.upload(uid="b" * 32)
        self.ready(ready.id)
        self.run_after(0)
        left = self.run_now(self.private.list(prefix="", after="", limit=9))
        self.assertEqual([info.key for info in left], [pending.id])


class UnsentTests(RepairTestCase):
    """Pending jobs."""

    def test_pending_job_is_sent_once(self) -> None:
        """A job that has been pending for a while is sent once."""
        avatar_id = self.unsent_upload()
        self.run_after(OUTBOX_AGE)
        self.assertEqual(self.sent(), [])
        self.run_after(0.1)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])
        self.run_after(60)
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.repaired("outbox"), 1)

    def test_pending_delete_jobs_are_sent(self) -> None:
        """Pending delete jobs of deleting and replaced rows are sent."""
        first, second = self.upload(), self.upload()
        self.sent()
        self.ready(first.id)
        self.jobs.fail("send", QueueError("down"), times=2)
        self.ready(second.id)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=second.id))
        self.run_after(60)
        self.assertEqual(sorted(self.sent()), [("delete", first.id), ("delete", second.id)])

    def test_run_sends_every_pending_job(self) -> None:
        """One run sends all pending jobs, a few at the same time."""
        for _ in range(2 * LIMIT + 5):
            self.unsent_upload()
        self.run_after(OUTBOX_AGE + 1)
        self.assertEqual(len(self.sent()), 2 * LIMIT + 5)
        self.assertEqual(self.repaired("outbox"), 2 * LIMIT + 5)

    def test_failing_run_ends(self) -> None:
        """A run ends when a job cannot be sent, and sends what it has begun to send."""
        for _ in range(2 * CONCURRENCY):
            self.unsent_upload()
        self.jobs.fail("send", QueueError("down"))
        self.run_after(OUTBOX_AGE + 1)
        self.assertEqual(len(self.sent()), CONCURRENCY - 1)
        self.assertEqual(self.repaired("outbox"), CONCURRENCY - 1)

    def test_run_ends_before_the_lease(self) -> None:
        """A run that takes as long as half the lease ends, and the next one follows at once."""
        for _ in range(3 * CONCURRENCY):
            self.unsent_upload()
        self.clock.advance(OUTBOX_AGE + 1)
        held = self.jobs.hold("send")
        self.repair.startService()
        self.clock.advance(LEASE / 2)
        held.callback(None)
        self.assertEqual(len(self.store.called("leadership")), 2)
        self.assertEqual(len(self.sent()), 3 * CONCURRENCY)
        self.successResultOf(self.repair.stopService())

    def test_jobs_stay_pending_while_the_queue_is_down(self) -> None:
        """Jobs stay pending until the queue accepts them."""
        avatar_id = self.unsent_upload()
        for _ in range(3):
            self.jobs.fail("send", QueueError("down"))
            self.run_after(60)
            self.assertEqual(self.sent(), [])
        self.run_after(10)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_in_doubt_uploads_are_resolved_by_every_process(self) -> None:
        """In-doubt uploads are resolved by the process that accepted them, leader or not."""
        self.run_after(0, self.make("other"))
        self.store.fail("accept", StoreError("down"))
        work = self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        self.fails_now(work, StoreError)
        self.run_after(IN_DOUBT_AGE)
        self.assertEqual(self.sent(), [("delete", make_id(1))])


class StuckTests(RepairTestCase):
    """Jobs that were sent and have no result."""

    def test_stuck_crunch_job_is_sent_again(self) -> None:
        """A crunch job without a result is sent again after ten minutes, repeatedly."""
        avatar = self.upload()
        self.sent()
        self.run_after(STUCK_AGE)
        self.assertEqual(self.sent(), [])
        self.run_after(PERIOD)
        self.assertEqual(self.sent(), [("crunch", avatar.id)])
        self.run_after(PERIOD)
        self.assertEqual(self.sent(), [])
        self.run_after(STUCK_AGE)
        self.assertEqual(self.sent(), [("crunch", avatar.id)])
        self.assertEqual(self.repaired("stuck"), 2)

    def test_stuck_delete_job_is_sent_again(self) -> None:
        """A delete job without a result is sent again after ten minutes."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.sent()
        self.run_after(STUCK_AGE + 1)
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_job_with_a_result_is_not_sent_again(self) -> None:
        """A job that has a result is not sent again."""
        avatar = self.upload()
        self.sent()
        self.ready(avatar.id)
        self.run_after(STUCK_AGE * 2)
        self.assertEqual(self.sent(), [])

    def test_jobs_on_the_queue_are_not_sent_again(self) -> None:
        """Of jobs without a result only as many are sent again as the queue lacks."""
        for _ in range(10):
            self.upload()
        lost = self.run_now(self.jobs_queue.receive(max_messages=3, wait=0))
        for message in lost[:2]:
            self.run_now(self.jobs_queue.delete(message=message))
        self.run_after(STUCK_AGE + 1)
        self.assertEqual(self.repaired("stuck"), 2)
        self.assertEqual(self.run_now(self.jobs_queue.depth()).visible, 10)
        self.run_after(PERIOD)
        self.assertEqual(self.repaired("stuck"), 2)

    def test_upload_without_result_expires(self) -> None:
        """An upload without a result fails as lost after a day; a later result still counts."""
        avatar = self.upload()
        self.run_after(EXPIRE_AGE)
        self.assertEqual(self.status(avatar.id), Status.PROCESSING)
        self.run_after(PERIOD)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.rows.rows[avatar.id].error, "lost")
        self.assertEqual(self.repaired("expire"), 1)
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)


class OldRowsTests(RepairTestCase):
    """Rows that have reached their age limit."""

    def test_failed_upload_is_deleted_after_two_weeks(self) -> None:
        """A failed upload and its original are deleted after two weeks."""
        avatar = self.upload()
        self.apply(avatar.id, ResultStatus.FAILED, "corrupt")
        self.sent()
        self.run_after(FAILED_AGE)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.run_after(PERIOD)
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.run_after(PERIOD)
        self.assertEqual(self.sent(), [("delete", avatar.id)])
        self.apply(avatar.id, ResultStatus.DELETED)
        self.assertEqual(self.rows.rows, {})

    def test_replaced_row_is_removed_after_a_day(self) -> None:
        """A replaced row is removed after a day, once its objects are removed."""
        first, second = self.upload(), self.upload()
        self.ready(first.id)
        self.ready(second.id)
        self.run_after(REPLACED_AGE + 1)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.apply(first.id, ResultStatus.DELETED)
        self.run_after(PERIOD)
        self.assertIsNone(self.status(first.id))
        self.assertEqual(self.selected(), second.id)


class IndependenceTests(RepairTestCase):
    """A step that fails does not prevent the others."""

    def test_uploads_expire_while_the_queue_is_down(self) -> None:
        """Uploads expire although no job can be sent."""
        avatar_id = self.unsent_upload()
        self.clock.advance(EXPIRE_AGE + 1)
        self.jobs.fail("send", QueueError("down"))
        self.run_after(0)
        self.assertEqual(self.status(avatar_id), Status.FAILED)

    def test_rows_are_counted_while_the_dead_queue_is_down(self) -> None:
        """Rows are counted although dead letters cannot be received."""
        self.upload()
        self.dead.fail("receive", QueueError("down"))
        self.run_after(0)
        value = self.metrics.registry.get_sample_value
        self.assertEqual(value("fxprofile_avatars", {"status": "processing"}), 1)


class AutoscalingTests(RepairTestCase):
    """The signal for autoscaling."""

    def signal(self) -> float | None:
        """Return the value of the gauge."""
        return self.metrics.registry.get_sample_value("fxprofile_autoscaling_signal")

    def result(self, avatar_id: str, seconds: float) -> Message:
        """Return a result whose job took so many seconds."""
        result = Result(avatar_id, ResultStatus.DELETED, timing={"get": 0, "crunch": seconds})
        return Message("1", result.encode(), "", 1, 0)

    def test_signal_is_the_age_of_the_oldest_upload_in_durations_of_a_job(self) -> None:
        """The signal is the age of the oldest pending upload over the mean duration of a job."""
        for _ in range(200):
            self.run_now(self.selection.handle(self.result(make_id(1), 2.0)))
        self.run_after(0)
        self.assertEqual(self.signal(), 0)
        self.upload()
        self.clock.advance(30)
        self.upload()
        self.run_after(10)
        self.assertAlmostEqual(self.signal() or 0, 20, places=2)

    def test_only_the_leader_has_a_signal(self) -> None:
        """A process that loses its lease sets the signal to 0."""
        self.upload()
        self.run_after(10)
        self.assertGreater(self.signal() or 0, 0)
        self.clock.advance(LEASE + 1)
        self.run_now(self.store.leadership(owner="other", now=self.clock.seconds(), seconds=LEASE))
        self.run_after(0)
        self.assertEqual(self.signal(), 0)


class CountTests(RepairTestCase):
    """The gauges of rows and messages."""

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"fxprofile_{name}", labels)

    def test_pending_rows_by_age(self) -> None:
        """The rows that wait for a job or its result are counted by age."""
        self.upload()
        self.clock.advance(100)
        self.upload()
        self.run_after(10)
        ages = {age: self.value("pending_avatars", older_than=str(age)) for age in AGES}
        self.assertEqual(ages, {0: 2, 10: 2, 60: 1, 600: 0, 3600: 0})

    def test_messages_on_queues(self) -> None:
        """The messages on each queue are counted, with the age of the oldest one."""
        repair = self.make("one", queues=(self.jobs,))
        self.run_after(0, repair)
        self.assertEqual(self.value("queue_oldest_seconds", queue="jobs"), 0)
        self.upload()
        self.run_after(30, repair)
        for name, value in (("visible", 1), ("in_flight", 0)):
            self.assertEqual(self.value("queue_depth", queue="jobs", state=name), value)
        self.assertEqual(self.value("queue_oldest_seconds", queue="jobs"), 30)

    def test_counts_of_a_former_leader(self) -> None:
        """A process that no longer leads has no counts, which would become wrong."""
        self.run_after(0)
        self.assertEqual(self.value("avatars", status="processing"), 0)
        self.store.fail("leadership", StoreError("down"))
        self.failureResultOf(Deferred.fromCoroutine(self.repair.run()), StoreError)
        self.assertIsNone(self.value("avatars", status="processing"))


class LeaderTests(RepairTestCase):
    """Of several processes only the leader repairs."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.make("other", store=Flaky(self.rows, "other", self.diary))

    def test_only_the_leader_repairs(self) -> None:
        """A second process does nothing while the first one is the leader."""
        self.run_after(0)
        avatar_id = self.unsent_upload()
        for _ in range(3):
            self.run_after(2 * OUTBOX_PERIOD, self.other)
            self.assertEqual(self.sent(), [])
            self.run_after(0)
            self.assertEqual(self.sent(), [("crunch", avatar_id)] if _ == 0 else [])
        self.assertNotIn("other unsent", self.diary)

    def test_takeover_after_the_lease(self) -> None:
        """Another process becomes the leader when the lease of the first one expires."""
        self.run_after(0)
        avatar_id = self.unsent_upload()
        self.run_after(LEASE - 0.1, self.other)
        self.assertEqual(self.sent(), [])
        self.run_after(0.1, self.other)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])


class ServiceTests(RepairTestCase):
    """The repair loops as a service."""

    def test_outbox_loop_runs_every_five_seconds(self) -> None:
        """The loops run at start and every five seconds."""
        self.repair.startService()
        avatar_id = self.unsent_upload()
        self.clock.pump([OUTBOX_PERIOD] * 2)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])
        self.successResultOf(self.repair.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_first_success_after_an_outage_starts_a_run(self) -> None:
        """Pending jobs are sent as soon as another job could be sent after a failure."""
        self.repair.startService()
        avatar_id = self.unsent_upload()
        self.clock.pump([OUTBOX_PERIOD, 1])
        self.assertEqual(self.sent(), [])
        self.upload()
        self.assertIn(("crunch", avatar_id), self.sent())
        self.successResultOf(self.repair.stopService())

    def test_other_loops_run_every_minute(self) -> None:
        """All steps except the outbox run once a minute."""
        self.repair.startService()
        self.clock.pump([1] * 179)
        self.assertEqual(len(self.store.called("stuck")), 3)
        self.assertEqual(len(self.store.called("unsent")), 36)
        self.successResultOf(self.repair.stopService())

    def test_loop_survives_any_error(self) -> None:
        """After a run that raised any error, the next run takes place."""
        self.store.fail("leadership", StoreError("down"))
        self.store.fail("leadership", ZeroDivisionError())
        self.repair.startService()
        self.clock.pump([OUTBOX_PERIOD] * 2)
        self.assertEqual(len(self.store.called("leadership")), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.successResultOf(self.repair.stopService())

    def test_unknown_leadership_is_not_reported(self) -> None:
        """A process that cannot renew its lease does not report itself as the leader."""
        self.repair.startService()
        self.assertEqual(self.leads(), 1)
        self.store.fail("leadership", StoreError("down"))
        self.clock.advance(OUTBOX_PERIOD)
        self.assertEqual(self.leads(), 0)
        self.clock.advance(OUTBOX_PERIOD)
        self.assertEqual(self.leads(), 1)
        self.successResultOf(self.repair.stopService())

    def test_stop_releases_the_lease(self) -> None:
        """A stopped leader releases its lease, so that another process takes over at once."""
        other = self.make("other")
        self.repair.startService()
        self.successResultOf(self.repair.stopService())
        avatar_id = self.unsent_upload()
        self.run_after(OUTBOX_AGE + 1, other)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_stop_during_a_run_releases_dead_letters(self) -> None:
        """A stop during a run releases the dead letters that were received."""
        self.upload()
        self.run_now(self.dead_queue.send(body=Job(Op.CRUNCH, make_id(1)).encode(0)))
        self.store.hold("failed")
        self.repair.startService()
        self.assertEqual(self.run_now(self.dead_queue.depth()).visible, 0)
        self.successResultOf(self.repair.stopService())
        self.assertEqual(self.run_now(self.dead_queue.depth()).visible, 1)

    def test_stop_without_database(self) -> None:
        """A stop succeeds although the lease cannot be released."""
        self.repair.startService()
        self.store.fail("resign", StoreError("down"))
        self.successResultOf(self.repair.stopService())

    def test_repeated_stop(self) -> None:
        """A stop without a start, and a second stop, have no effect."""
        self.successResultOf(self.repair.stopService())
        self.repair.startService()
        stopping: Deferred[None] = self.repair.stopService()
        self.successResultOf(stopping)
        self.successResultOf(self.repair.stopService())
