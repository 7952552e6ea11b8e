"""
Tests of :mod:`fxprofile.uploads.repair`: dead letters.
"""

from __future__ import annotations

from fxprofile.model.avatars import Status
from fxprofile.model.errors import LeaseLost, QueueError, StoreError
from fxprofile.model.messages import Job, Op, ResultStatus
from fxprofile.uploads.repair import LIMIT, PERIOD
from tests.support.core import ALICE, make_id, result
from tests.uploads.test_repair import RepairTestCase


class DeadLetterTests(RepairTestCase):
    """Jobs that no worker could do."""

    def die(self, op: Op, avatar_id: str) -> None:
        body = Job(op, avatar_id).encode(0)
        self.run_now(self.dead_queue.send(body=body))

    def waiting(self) -> int:
        return self.run_now(self.dead_queue.depth()).visible

    def test_crunch(self) -> None:
        """Its upload fails, and the message stays for operators, visible to all."""
        avatar = self.upload()
        self.die(Op.CRUNCH, avatar.id)
        self.turn(0)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.rows.rows[avatar.id].error, "dead")
        self.assertEqual(self.waiting(), 1)
        self.assertEqual(self.repaired("dead"), 1)

    def test_stays(self) -> None:
        """Each run sees it again, and does nothing more with it."""
        avatar = self.upload()
        self.die(Op.CRUNCH, avatar.id)
        self.sent()
        for _ in range(3):
            self.turn(PERIOD)
        self.assertEqual(self.waiting(), 1)
        self.assertEqual(self.repaired("dead"), 1)
        self.assertEqual(self.sent(), [])

    def test_ready_in_the_meantime(self) -> None:
        """An upload that another job has made ready stays ready."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.die(Op.CRUNCH, avatar.id)
        self.turn(0)
        self.assertEqual(self.selected(), avatar.id)
        self.assertEqual(self.waiting(), 1)

    def test_deleted_in_the_meantime(self) -> None:
        """
        What a dead job may have put for an avatar that is being deleted, or gone, is
        deleted by a new job, and the message goes.
        """
        avatar = self.upload()
        self.run_now(self.selection.delete(uid=ALICE, avatar_id=avatar.id))
        self.sent()
        for op in Op:
            self.die(op, avatar.id)
            self.die(op, make_id(9))
            self.turn(PERIOD)
            self.assertEqual(sorted(self.sent()), [("delete", avatar.id), ("delete", make_id(9))])
            self.assertEqual(self.waiting(), 0)

    def test_delete_of_what_is_there(self) -> None:
        """A dead delete job of an avatar that nobody deletes is left to operators."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.sent()
        self.die(Op.DELETE, avatar.id)
        self.turn(0)
        self.assertEqual((self.sent(), self.waiting()), ([], 1))

    def test_clean_up_fails(self) -> None:
        """The message goes only when the new job is on its queue."""
        self.die(Op.CRUNCH, make_id(9))
        self.jobs.fail("send", QueueError("down"))
        self.turn(0)
        self.assertEqual(self.waiting(), 1)
        self.turn(PERIOD)
        self.assertEqual((self.sent(), self.waiting()), ([("delete", make_id(9))], 0))

    def test_junk(self) -> None:
        """What is no job at all stays too, and keeps nothing else from its turn."""
        avatar = self.upload()
        self.run_now(self.dead_queue.send(body="junk"))
        self.die(Op.CRUNCH, avatar.id)
        self.turn(0)
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.assertEqual(self.waiting(), 2)

    def test_many(self) -> None:
        """One run looks at so many, and the next ones at the others."""
        avatars = [self.upload() for _ in range(LIMIT + 20)]
        for avatar in avatars:
            self.die(Op.CRUNCH, avatar.id)
        self.turn(1)
        self.assertLess(self.repaired("dead"), LIMIT + 20)
        self.turn(PERIOD)
        self.assertEqual(self.repaired("dead"), LIMIT + 20)
        self.assertEqual(self.waiting(), LIMIT + 20)

    def test_store_fails(self) -> None:
        """If the database fails in between, the messages are put back all the same."""
        for number in (1, 2):
            self.upload()
            self.die(Op.CRUNCH, make_id(number))
        self.store.fail("failed", StoreError("down"))
        self.turn(0)
        self.assertEqual(self.waiting(), 2)
        self.turn(PERIOD)
        self.assertEqual(self.repaired("dead"), 2)

    def test_put_back_fails(self) -> None:
        """A message that cannot be put back is hidden for a while, and no more."""
        self.upload()
        self.die(Op.CRUNCH, make_id(1))
        self.dead.fail("extend", LeaseLost("late"))
        self.turn(0)
        self.assertEqual(self.waiting(), 0)
        self.clock.advance(60)
        self.assertEqual(self.waiting(), 1)

    def test_unknown_queue(self) -> None:
        """Without a dead-letter queue the other loops run."""
        repair = self.make("one", dead=None, dead_results=None)
        avatar_id = self.unsent_upload()
        self.turn(60, repair)
        self.assertEqual(self.sent(), [("crunch", avatar_id)])

    def test_counted(self) -> None:
        """The gauge tells how many there are, by the queue that they died on."""
        self.run_now(self.dead_queue.send(body="junk"))
        self.turn(0)
        gauge = self.metrics.registry.get_sample_value
        self.assertEqual(gauge("fxprofile_dead_letters", {"queue": "jobs"}), 1)
        self.assertEqual(gauge("fxprofile_dead_letters", {"queue": "results"}), 0)


class DeadResultTests(RepairTestCase):
    """Results that could not be applied, as the database was away for long."""

    def die(self, avatar_id: str, status: ResultStatus, reason: str | None = None) -> None:
        body = result(avatar_id, status, reason).encode()
        self.run_now(self.dead_results_queue.send(body=body))

    def waiting(self) -> int:
        return self.run_now(self.dead_results_queue.depth()).visible

    def test_applied(self) -> None:
        """They are applied when it is back: users learn what became of their uploads."""
        good, bad = self.upload(), self.upload()
        self.die(good.id, ResultStatus.READY)
        self.die(bad.id, ResultStatus.FAILED, "corrupt")
        self.turn(0)
        self.assertEqual(self.selected(), good.id)
        self.assertEqual(self.rows.rows[bad.id].error, "corrupt")
        self.assertEqual(self.waiting(), 0)
        self.assertEqual(self.repaired("dead results"), 2)

    def test_late(self) -> None:
        """One that comes after all was decided changes nothing, and goes."""
        avatar = self.upload()
        self.ready(avatar.id)
        self.die(avatar.id, ResultStatus.FAILED, "corrupt")
        self.turn(0)
        self.assertEqual((self.selected(), self.waiting()), (avatar.id, 0))

    def test_store_fails(self) -> None:
        """While the database is away they stay, visible to all."""
        avatar = self.upload()
        self.die(avatar.id, ResultStatus.READY)
        self.store.fail("ready", StoreError("down"))
        self.turn(0)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.PROCESSING, 1))
        self.turn(PERIOD)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.READY, 0))

    def test_junk(self) -> None:
        """What is no result is left to operators, and keeps nothing else from its turn."""
        avatar = self.upload()
        self.run_now(self.dead_results_queue.send(body="junk"))
        self.die(avatar.id, ResultStatus.READY)
        self.turn(0)
        self.assertEqual((self.status(avatar.id), self.waiting()), (Status.READY, 1))

    def test_jobs_queue_is_down(self) -> None:
        """A queue of dead jobs that is down keeps no dead result from its turn."""
        avatar = self.upload()
        self.die(avatar.id, ResultStatus.READY)
        self.dead.fail("receive", QueueError("down"))
        self.turn(0)
        self.assertEqual(self.status(avatar.id), Status.READY)
