"""
Tests of :mod:`fxprofile.uploads.outbox`.
"""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred

from fxprofile.model.avatars import Status
from fxprofile.model.errors import QueueError, StoreError
from fxprofile.model.messages import Job, Op, ResultStatus
from tests.support.core import ALICE, CoreTestCase, make_id

ID = make_id(1)


class OutboxTests(CoreTestCase):
    """The jobs that rows owe are sent at least once."""

    def accept(self) -> None:
        self.avatar = self.run_now(self.rows.accept(avatar_id=ID, uid=ALICE, now=1_000_000))

    def test_crunch(self) -> None:
        """A row in processing owes a crunch job, and it is noted when it was sent."""
        self.accept()
        self.clock.advance(2)
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.rows.rows[ID].job_sent, 1_000_002)
        (body,) = self.received(self.jobs_queue)
        self.assertEqual(
            json.loads(body), {"v": 1, "op": "crunch", "id": ID, "sent": "1970-01-12T13:46:42Z"}
        )

    def test_delete(self) -> None:
        """Rows that are being deleted or were replaced owe a delete job."""
        for status in (Status.DELETING, Status.REPLACED):
            self.rows.rows.clear()
            self.accept()
            self.rows.rows[ID].status = status
            self.run_now(self.outbox.try_to_send_by_id(ID))
            self.assertEqual(self.sent(), [("delete", ID)])
            self.assertEqual(self.rows.rows[ID].job_sent, 1_000_000)

    def test_sent_before_noted(self) -> None:
        """The job is on the queue before that is noted."""
        self.accept()
        self.diary.clear()
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.diary, ["jobs send", "store job_sent"])

    def test_queue_fails(self) -> None:
        """A job that could not be sent is not noted as sent."""
        self.accept()
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(self.outbox.send(self.avatar), QueueError)
        self.assertIsNone(self.rows.rows[ID].job_sent)

    def test_note_fails(self) -> None:
        """A job whose note failed is sent again."""
        self.accept()
        self.store.fail("job_sent", StoreError("down"))
        self.fails_now(self.outbox.send(self.avatar), StoreError)
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.sent(), [("crunch", ID)] * 2)

    def test_status_has_changed(self) -> None:
        """That a crunch job was sent does not hide that the row by now owes a delete job."""
        self.accept()
        held = self.jobs.hold("send", after=True)
        sending = Deferred.fromCoroutine(self.outbox.send(self.avatar))
        self.run_now(self.rows.delete(avatar_id=ID, uid=ALICE, now=1_000_000))
        held.callback(None)
        self.successResultOf(sending)
        self.assertIsNone(self.rows.rows[ID].job_sent)

    def test_job_without_row(self) -> None:
        """A job may be sent for which there is no row."""
        self.run_now(self.outbox.send_job(Job(Op.DELETE, ID)))
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_try_all(self) -> None:
        """Of several rows each is tried, whatever becomes of the others."""
        for number in (1, 2, 3):
            self.run_now(self.rows.accept(avatar_id=make_id(number), uid=ALICE, now=0))
        self.jobs.fail("send", QueueError("down"), skip=1)
        self.run_now(self.outbox.try_to_send_by_id(*(make_id(number) for number in (1, 2, 3, 4))))
        self.assertEqual(self.sent(), [("crunch", make_id(1)), ("crunch", make_id(3))])
        self.assertTrue(any(make_id(2) in text and "down" in text for text in self.logged))

    def test_try_what_owes_nothing(self) -> None:
        """A row that is ready or failed owes nothing."""
        for status in (Status.READY, Status.FAILED):
            self.rows.rows.clear()
            self.accept()
            self.rows.rows[ID].status = status
            self.run_now(self.outbox.try_to_send_by_id(ID))
            self.run_now(self.outbox.send(self.run_now(self.rows.avatar(avatar_id=ID))))
            self.assertEqual(self.sent(), [])
            self.assertIsNone(self.rows.rows[ID].job_sent)

    def test_row_removed_before_its_job_is_sent(self) -> None:
        """The job of a removed row is sent, and recording it does not bring the row back."""
        self.accept()
        self.rows.rows.clear()
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.sent(), [("crunch", ID)])
        self.assertEqual(self.rows.rows, {})

    def test_row_removed_while_its_job_is_sent(self) -> None:
        """A row that is removed while its delete job is sent stays removed."""
        self.accept()
        self.run_now(self.rows.delete(avatar_id=ID, uid=ALICE, now=1_000_000))
        held = self.jobs.hold("send", after=True)
        sending = Deferred.fromCoroutine(self.outbox.try_to_send_by_id(ID))
        self.apply(ID, ResultStatus.DELETED)
        held.callback(None)
        self.successResultOf(sending)
        self.assertEqual((self.sent(), self.rows.rows), ([("delete", ID)], {}))

    def test_no_job_for_a_removed_row(self) -> None:
        """A row that no longer exists when it is looked up has no job to send."""
        self.run_now(self.outbox.try_to_send_by_id(ID))
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.store.called("job_sent"), [])
