"""Tests of the leases of SQS messages, and of cancelled receives."""

from __future__ import annotations

import gc

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.sqs import MAX_VISIBILITY, STOP_GRACE
from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.messages import Message
from tests.drivers.aws.sqs_case import QueueCase, entry


class CancelTests(QueueCase):
    def cancelled(self) -> None:
        receiving = self.start(self.queue.receive(max_messages=10, wait=20))
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)

    def test_messages_of_a_cancelled_poll_are_released(self) -> None:
        """Messages that arrive for a cancelled receive are released at once."""
        self.cancelled()
        self.assertEqual(self.service.cancelled, 0)
        self.service.answer(Messages=[entry(1), entry(2)])
        self.clock.advance(0)
        self.assertEqual(self.operations()[-1], "ChangeMessageVisibilityBatch")
        self.assertEqual(
            self.entries(),
            [{"ReceiptHandle": f"receipt-{n}", "VisibilityTimeout": 0} for n in (1, 2)],
        )
        self.succeed()

    def test_a_failed_release_is_not_an_error(self) -> None:
        """A release that fails logs no error, because the messages become visible again."""
        self.cancelled()
        self.service.answer(Messages=[entry(1)])
        self.clock.advance(0)
        self.service.fail(AwsError("down", code="X"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_failed_cancelled_poll_is_not_an_error(self) -> None:
        """A cancelled poll that fails logs no error."""
        self.cancelled()
        self.service.fail(AwsError("down", code="X"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stopping_releases_messages_first(self) -> None:
        """A queue that stops waits until the messages of its open poll are released."""
        self.cancelled()
        stopping = self.queue.stopService()
        self.service.answer(Messages=[entry(1)])
        self.clock.advance(0)
        self.assertNoResult(stopping)
        self.succeed()
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_cancels_an_open_poll(self) -> None:
        """A queue that stops cancels an open poll after a grace period."""
        self.cancelled()
        stopping = self.queue.stopService()
        self.clock.advance(STOP_GRACE)
        self.successResultOf(stopping)
        self.assertEqual(self.service.cancelled, 1)
        self.assertEqual(self.operations(), ["ReceiveMessage"])

    def test_stopping_waits_for_deletes(self) -> None:
        """A queue that stops waits for deletes in flight and for deletes not yet sent."""
        first, second = self.receive(entry(1), entry(2))
        deleting = self.start(self.queue.delete(message=first))
        waiting = self.start(self.queue.delete(message=second))
        stopping = self.queue.stopService()
        self.assertEqual(self.operations()[1:], ["DeleteMessageBatch"] * 2)
        self.assertNoResult(stopping)
        self.service.answer(Successful=[{"Id": "0"}])
        self.service.answer(Successful=[{"Id": "0"}])
        for done in (deleting, waiting, stopping):
            self.successResultOf(done)

    def test_a_stopped_queue_can_start_again(self) -> None:
        """A queue that was stopped and started polls again."""
        self.cancelled()
        self.queue.stopService()
        self.clock.advance(STOP_GRACE)
        self.queue.startService()
        self.assertEqual(len(self.receive(entry())), 1)


class LeaseTests(QueueCase):
    def test_an_extension_counts_from_now(self) -> None:
        """The time of an extension starts when it is made."""
        [message] = self.receive(entry())
        self.clock.advance(59)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.assertEqual(self.entries(), [{"ReceiptHandle": "receipt-1", "VisibilityTimeout": 60}])
        self.succeed()
        self.successResultOf(extending)
        self.clock.advance(59)
        self.start(self.queue.extend(message=message, visibility=60))
        self.assertEqual(len(self.service.waiting), 1)

    def test_an_extension_has_whole_seconds(self) -> None:
        """An extension is rounded up to whole seconds, and limited to the maximum."""
        for wanted, said in ((0, 0), (0.2, 1), (29.6, 30), (1e9, MAX_VISIBILITY)):
            [message] = self.receive(entry())
            self.start(self.queue.extend(message=message, visibility=wanted))
            self.assertEqual(self.entries()[0]["VisibilityTimeout"], said)
            self.succeed()

    def test_an_invalid_receipt_is_a_lost_lease(self) -> None:
        """Every error code for an expired receipt handle raises LeaseLost."""
        for code in (
            "ReceiptHandleIsInvalid",
            "InvalidParameterValue",
            "AWS.SimpleQueueService.MessageNotInflight",
            "com.amazonaws.sqs#MessageNotInflight",
        ):
            [message] = self.receive(entry())
            extending = self.start(self.queue.extend(message=message, visibility=60))
            self.refuse(code)
            self.failureResultOf(extending, LeaseLost)
            again = self.start(self.queue.extend(message=message, visibility=60))
            self.failureResultOf(again, LeaseLost)
            self.assertEqual(self.service.waiting, [])

    def test_an_expired_lease_is_lost_without_a_call(self) -> None:
        """An expired lease raises LeaseLost without a call, which SQS might accept."""
        [message] = self.receive(entry())
        self.clock.advance(60)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.failureResultOf(extending, LeaseLost)
        self.result(self.queue.delete(message=message))
        self.assertEqual(self.operations(), ["ReceiveMessage"])

    def test_a_released_message_has_no_lease(self) -> None:
        """The lease of a released message is lost."""
        [message] = self.receive(entry())
        self.start(self.queue.extend(message=message, visibility=0))
        self.succeed()
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.failureResultOf(extending, LeaseLost)

    def test_each_message_has_its_own_lease(self) -> None:
        """A lost lease does not affect other messages of the same batch."""
        first, second = self.receive(entry(1), entry(2))
        one = Deferred.fromCoroutine(self.queue.extend(message=first, visibility=60))
        two = self.start(self.queue.extend(message=second, visibility=60))
        self.service.answer(
            Successful=[{"Id": "0"}],
            Failed=[{"Id": "1", "SenderFault": True, "Code": "MessageNotInflight"}],
        )
        self.successResultOf(one)
        self.failureResultOf(two, LeaseLost)

    def test_other_errors_keep_the_lease(self) -> None:
        """Any other refusal or failed call raises QueueError, and the lease is kept."""
        [message] = self.receive(entry())
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.refuse("AccessDenied")
        self.assertIs(self.failureResultOf(extending, QueueError).type, QueueError)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.service.fail(AwsError("down", code="X"))
        self.assertIs(self.failureResultOf(extending, QueueError).type, QueueError)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.succeed()
        self.successResultOf(extending)

    def test_a_message_of_another_queue_object_can_be_deleted(self) -> None:
        """
        A message that another object received can be deleted, because only SQS knows its lease.
        """
        message = Message("id", "body", "receipt-9", 1, 0)
        deleting = self.start(self.queue.delete(message=message))
        self.succeed()
        self.successResultOf(deleting)

    def test_leases_end_with_their_messages(self) -> None:
        """The queue keeps no lease of a message that the worker has dropped."""
        for number in range(50):
            [message] = self.receive(entry(number))
        gc.collect()
        self.assertEqual(list(self.queue._leases), [message])

    def test_a_lease_belongs_to_the_latest_receive(self) -> None:
        """A message that is received twice has the lease of the second receive."""
        self.receive(entry())
        self.clock.advance(50)
        [message] = self.receive(entry())
        gc.collect()
        self.clock.advance(50)
        self.start(self.queue.extend(message=message, visibility=60))
        self.assertEqual(self.operations()[2:], ["ChangeMessageVisibilityBatch"])
        self.clock.advance(10)
        late = self.start(self.queue.extend(message=message, visibility=60))
        self.failureResultOf(late, LeaseLost)
