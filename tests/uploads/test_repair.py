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
from fxprofile.model.messages import Job, Op, ResultStatus
from fxprofile.uploads.accept import IN_DOUBT_AGE
from fxprofile.uploads.repair import (
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
    """A web head that repairs, and a dead-letter queue."""

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
        """How often a loop had something to do."""
        labels = {"loop": loop}
        return self.metrics.registry.get_sample_value("fxprofile_repairs_total", labels) or 0

    def leads(self) -> float | None:
        """What the gauge says of who leads."""
        return self.metrics.registry.get_sample_value("fxprofile_repair_leader")

    def turn(self, seconds: float, repair: Repair | None = None) -> None:
        """Let time pass, and have one run of the loops."""
        self.clock.advance(seconds)
        self.run_now((repair or self.repair).run())

    def unsent_upload(self) -> str:
        """An upload whose job could not be sent."""
        self.jobs.fail("send", QueueError("down"))
        return self.upload().id


class UnsentTests(RepairTestCase):
    """Jobs that rows owe."""

    def test_sent(self) -> None:
        """A job that was owed for a while is sent, once."""
        avatar_id = self.unsent_upload()
        self.turn(OUTBOX_AGE)
        self.assertEqual(self.sent(), [])
        self.turn(0.1)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])
        self.turn(60)
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.repaired("outbox"), 1)

    def test_deletions(self) -> None:
        """So are the delete jobs of rows that are being deleted, or were replaced."""
        first, second = self.upload(), self.upload()
        self.sent()
        self.ready(first.id)
        self.jobs.fail("send", QueueError("down"), times=2)
        self.ready(second.id)
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=second.id))
        self.turn(60)
        self.assertEqual(sorted(self.sent()), [("delete", first.id), ("delete", second.id)])

    def test_bounded(self) -> None:
        """One run sends so many; the rest is for the next."""
        for _ in range(LIMIT + 5):
            self.unsent_upload()
        self.turn(OUTBOX_AGE + 1)
        self.assertEqual(len(self.sent()), LIMIT)
        self.turn(OUTBOX_PERIOD)
        self.assertEqual(len(self.sent()), 5)

    def test_queue_is_down(self) -> None:
        """As long as the queue is down the rows keep owing."""
        avatar_id = self.unsent_upload()
        for _ in range(3):
            self.jobs.fail("send", QueueError("down"))
            self.turn(60)
            self.assertEqual(self.sent(), [])
        self.turn(10)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_doubts(self) -> None:
        """Uploads in doubt are settled, by whoever has the doubt, leader or not."""
        self.turn(0, self.make("other"))
        self.store.fail("accept", StoreError("down"))
        work = self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        self.fails_now(work, StoreError)
        self.turn(IN_DOUBT_AGE)
        self.assertEqual(self.sent(), [("delete", make_id(1))])


class StuckTests(RepairTestCase):
    """Jobs that were sent and have no result."""

    def test_crunch(self) -> None:
        """The job of an upload that has waited for long is sent again, and again."""
        avatar = self.upload()
        self.sent()
        self.turn(STUCK_AGE)
        self.assertEqual(self.sent(), [])
        self.turn(PERIOD)
        self.assertEqual(self.sent(), [("crunch", avatar.id)])
        self.turn(PERIOD)
        self.assertEqual(self.sent(), [])
        self.turn(STUCK_AGE)
        self.assertEqual(self.sent(), [("crunch", avatar.id)])
        self.assertEqual(self.repaired("stuck"), 2)

    def test_delete(self) -> None:
        """So is a delete job that was never done."""
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.sent()
        self.turn(STUCK_AGE + 1)
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_done(self) -> None:
        """What has its result is left alone."""
        avatar = self.upload()
        self.sent()
        self.ready(avatar.id)
        self.turn(STUCK_AGE * 2)
        self.assertEqual(self.sent(), [])

    def test_expire(self) -> None:
        """An upload that nobody could process in a day has failed, and says so."""
        avatar = self.upload()
        self.turn(EXPIRE_AGE)
        self.assertEqual(self.status(avatar.id), Status.PROCESSING)
        self.turn(PERIOD)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.rows.rows[avatar.id].error, "lost")
        self.assertEqual(self.repaired("expire"), 1)
        self.ready(avatar.id)
        self.assertEqual(self.selected(), avatar.id)


class OldRowsTests(RepairTestCase):
    """Rows that nobody asks for any more."""

    def test_failed(self) -> None:
        """A failed upload is kept for two weeks, and is then deleted with its original."""
        avatar = self.upload()
        self.apply(avatar.id, ResultStatus.FAILED, "corrupt")
        self.sent()
        self.turn(FAILED_AGE)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.turn(PERIOD)
        self.assertEqual(self.status(avatar.id), Status.DELETING)
        self.turn(PERIOD)
        self.assertEqual(self.sent(), [("delete", avatar.id)])
        self.apply(avatar.id, ResultStatus.DELETED)
        self.assertEqual(self.rows.rows, {})

    def test_replaced(self) -> None:
        """A replaced upload is kept for a day, and longer if its objects are not gone."""
        first, second = self.upload(), self.upload()
        self.ready(first.id)
        self.ready(second.id)
        self.turn(REPLACED_AGE + 1)
        self.assertEqual(self.status(first.id), Status.REPLACED)
        self.apply(first.id, ResultStatus.DELETED)
        self.turn(PERIOD)
        self.assertIsNone(self.status(first.id))
        self.assertEqual(self.selected(), second.id)


class IndependenceTests(RepairTestCase):
    """What fails does not keep the others from their turn."""

    def test_jobs_queue_is_down(self) -> None:
        """Uploads are given up, and rows counted, although no job can be sent."""
        avatar_id = self.unsent_upload()
        self.clock.advance(EXPIRE_AGE + 1)
        self.jobs.fail("send", QueueError("down"))
        self.turn(0)
        self.assertEqual(self.status(avatar_id), Status.FAILED)

    def test_dead_queue_is_down(self) -> None:
        """Rows are counted although the dead letters cannot be read."""
        self.upload()
        self.dead.fail("receive", QueueError("down"))
        self.turn(0)
        value = self.metrics.registry.get_sample_value
        self.assertEqual(value("fxprofile_avatars", {"status": "processing"}), 1)


class LeaderTests(RepairTestCase):
    """Of several processes only one repairs."""

    def setUp(self) -> None:
        super().setUp()
        self.other = self.make("other", store=Flaky(self.rows, "other", self.diary))

    def test_one_acts(self) -> None:
        """The second does nothing as long as the first one leads."""
        self.turn(0)
        avatar_id = self.unsent_upload()
        for _ in range(3):
            self.turn(OUTBOX_PERIOD, self.other)
            self.assertEqual(self.sent(), [])
            self.turn(0)
            self.assertEqual(self.sent(), [("crunch", avatar_id)] if _ == 0 else [])
        self.assertNotIn("other unsent", self.diary)

    def test_takeover(self) -> None:
        """When the first one dies, the other one takes over, as soon as its lease ran out."""
        self.turn(0)
        avatar_id = self.unsent_upload()
        self.turn(LEASE - 0.1, self.other)
        self.assertEqual(self.sent(), [])
        self.turn(0.1, self.other)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_owners(self) -> None:
        """Unless told otherwise, each process has a name of its own."""
        owners = {self.make("")._owner for _ in range(10)}
        self.assertEqual(len(owners), 10)


class ServiceTests(RepairTestCase):
    """The loops as a service."""

    def test_runs(self) -> None:
        """It runs at its start, and every ten seconds from then on."""
        self.repair.startService()
        avatar_id = self.unsent_upload()
        self.clock.pump([OUTBOX_PERIOD] * 2)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])
        self.successResultOf(self.repair.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slower_loops(self) -> None:
        """The other loops run every minute."""
        self.repair.startService()
        self.clock.pump([1] * 179)
        self.assertEqual(len(self.store.called("stuck")), 3)
        self.assertEqual(len(self.store.called("unsent")), 18)
        self.successResultOf(self.repair.stopService())

    def test_survives(self) -> None:
        """Whatever a run raises, the next one comes."""
        self.store.fail("leadership", StoreError("down"))
        self.store.fail("leadership", ZeroDivisionError())
        self.repair.startService()
        self.clock.pump([OUTBOX_PERIOD] * 2)
        self.assertEqual(len(self.store.called("leadership")), 3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.successResultOf(self.repair.stopService())

    def test_lost_sight_of_the_lease(self) -> None:
        """Who cannot ask whether it leads does not say that it does."""
        self.repair.startService()
        self.assertEqual(self.leads(), 1)
        self.store.fail("leadership", StoreError("down"))
        self.clock.advance(OUTBOX_PERIOD)
        self.assertEqual(self.leads(), 0)
        self.clock.advance(OUTBOX_PERIOD)
        self.assertEqual(self.leads(), 1)
        self.successResultOf(self.repair.stopService())

    def test_stop_resigns(self) -> None:
        """A leader that is stopped makes room at once."""
        other = self.make("other")
        self.repair.startService()
        self.successResultOf(self.repair.stopService())
        avatar_id = self.unsent_upload()
        self.turn(OUTBOX_AGE + 1, other)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_stop_in_mid_run(self) -> None:
        """A stop in the middle of a run puts back what it holds."""
        self.upload()
        self.run_now(self.dead_queue.send(body=Job(Op.CRUNCH, make_id(1)).encode(0)))
        self.store.hold("failed")
        self.repair.startService()
        self.assertEqual(self.run_now(self.dead_queue.depth()).visible, 0)
        self.successResultOf(self.repair.stopService())
        self.assertEqual(self.run_now(self.dead_queue.depth()).visible, 1)

    def test_stop_without_database(self) -> None:
        """If the lease cannot be given back, the stop goes on."""
        self.repair.startService()
        self.store.fail("resign", StoreError("down"))
        self.successResultOf(self.repair.stopService())

    def test_stop_twice(self) -> None:
        """A second stop, or one without a start, is harmless."""
        self.successResultOf(self.repair.stopService())
        self.repair.startService()
        stopping: Deferred[None] = self.repair.stopService()
        self.successResultOf(stopping)
        self.successResultOf(self.repair.stopService())
