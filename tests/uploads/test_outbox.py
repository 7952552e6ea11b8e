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
    """Pending jobs are sent at least once."""

    def accept(self) -> None:
        accepted = self.run_now(self.rows.accept(avatar_id=ID, uid=ALICE, now=1_000_000))
        self.avatar = accepted.avatar

    def test_crunch_job_is_sent_and_recorded(self) -> None:
        """The crunch job of a row in processing is sent, and the time is recorded."""
        self.accept()
        self.clock.advance(2)
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.rows.rows[ID].job_sent, 1_000_002)
        (body,) = self.received(self.jobs_queue)
        self.assertEqual(
            json.loads(body), {"v": 1, "op": "crunch", "id": ID, "sent": "1970-01-12T13:46:42Z"}
        )

    def test_delete_job_is_sent_and_recorded(self) -> None:
        """The delete job of a deleting or replaced row is sent, and the time is recorded."""
        for status in (Status.DELETING, Status.REPLACED):
            self.rows.rows.clear()
            self.accept()
            self.rows.rows[ID].status = status
            self.run_now(self.outbox.try_to_send_by_id(ID))
            self.assertEqual(self.sent(), [("delete", ID)])
            self.assertEqual(self.rows.rows[ID].job_sent, 1_000_000)

    def test_job_is_sent_before_it_is_recorded(self) -> None:
        """A job is sent before it is recorded as sent."""
        self.accept()
        self.diary.clear()
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.diary, ["jobs send", "store job_sent"])

    def test_unsent_job_is_not_recorded(self) -> None:
        """A job that could not be sent is not recorded as sent."""
        self.accept()
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(self.outbox.send(self.avatar), QueueError)
        self.assertIsNone(self.rows.rows[ID].job_sent)

    def test_unrecorded_job_is_sent_again(self) -> None:
        """A job that could not be recorded as sent is sent again."""
        self.accept()
        self.store.fail("job_sent", StoreError("down"))
        self.fails_now(self.outbox.send(self.avatar), StoreError)
        self.run_now(self.outbox.send(self.avatar))
        self.assertEqual(self.sent(), [("crunch", ID)] * 2)

    def test_job_of_an_earlier_status_is_not_recorded(self) -> None:
        """A crunch job sent for a row that was deleted meanwhile leaves its delete job pending."""
        self.accept()
        held = self.jobs.hold("send", after=True)
        sending = Deferred.fromCoroutine(self.outbox.send(self.avatar))
        self.run_now(self.rows.delete(avatar_id=ID, uid=ALICE, now=1_000_000))
        held.callback(None)
        self.successResultOf(sending)
        self.assertIsNone(self.rows.rows[ID].job_sent)

    def test_job_without_a_row(self) -> None:
        """A job can be sent without a row."""
        self.run_now(self.outbox.send_job(Job(Op.DELETE, ID)))
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_each_row_is_tried(self) -> None:
        """A job that cannot be sent is logged, and does not affect those of other rows."""
        for number in (1, 2, 3):
            self.run_now(self.rows.accept(avatar_id=make_id(number), uid=ALICE, now=0))
        self.jobs.fail("send", QueueError("down"), skip=1)
        self.run_now(self.outbox.try_to_send_by_id(*(make_id(number) for number in (1, 2, 3, 4))))
        self.assertEqual(self.sent(), [("crunch", make_id(1)), ("crunch", make_id(3))])
        self.assertTrue(any(make_id(2) in text and "down" in text for text in self.logged))

    def test_row_without_pending_job(self) -> None:
        """A ready or failed row has no job to send."""
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
        """A row that was removed before it is looked up has no job to send."""
        self.run_now(self.outbox.try_to_send_by_id(ID))
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.store.called("job_sent"), [])
