"""Tests of how long messages of SQS are held, and of how they are handed back."""

from __future__ import annotations

import gc

from twisted.internet.defer import CancelledError, Deferred

from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.sqs import MAX_HIDDEN, STOP_GRACE
from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.messages import Message
from tests.drivers.aws.sqs_case import QueueCase, entry


class CancelTests(QueueCase):
    def cancelled(self) -> None:
        receiving = self.start(self.queue.receive(max_messages=10, wait=20))
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)

    def test_handed_back(self) -> None:
        """What an open poll brings that nobody waits for any longer is handed back at once."""
        self.cancelled()
        self.assertEqual(self.service.cancelled, 0)
        self.service.answer(Messages=[entry(1), entry(2)])
        self.clock.advance(0)
        self.assertEqual(self.operations()[-1], "ChangeMessageVisibilityBatch")
        self.assertEqual(
            self.entries(),
            [{"ReceiptHandle": f"receipt-{n}", "VisibilityTimeout": 0} for n in (1, 2)],
        )
        self.all_well()

    def test_cannot_be_handed_back(self) -> None:
        """If that fails they come back by themselves, and nobody is bothered."""
        self.cancelled()
        self.service.answer(Messages=[entry(1)])
        self.clock.advance(0)
        self.service.fail(AwsError("down", code="X"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_poll_fails(self) -> None:
        """Nor is anybody if the poll fails that nobody waits for."""
        self.cancelled()
        self.service.fail(AwsError("down", code="X"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_stopped(self) -> None:
        """A queue that is stopped hands back first what an open poll brings."""
        self.cancelled()
        stopping = self.queue.stopService()
        self.service.answer(Messages=[entry(1)])
        self.clock.advance(0)
        self.assertNoResult(stopping)
        self.all_well()
        self.successResultOf(stopping)
        self.assertEqual(self.client.users, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_in_bounded_time(self) -> None:
        """But it does not wait for the end of the poll: nothing polls after a stop."""
        self.cancelled()
        stopping = self.queue.stopService()
        self.clock.advance(STOP_GRACE)
        self.successResultOf(stopping)
        self.assertEqual(self.service.cancelled, 1)
        self.assertEqual(self.operations(), ["ReceiveMessage"])

    def test_stop_does_not_drop_deletes(self) -> None:
        """A stop waits for deletes that are under way, and for those that wait for a batch."""
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

    def test_restarted(self) -> None:
        """A queue can be started again after a stop, and polls anew."""
        self.cancelled()
        self.queue.stopService()
        self.clock.advance(STOP_GRACE)
        self.queue.startService()
        self.assertEqual(len(self.receive(entry())), 1)


class LeaseTests(QueueCase):
    def test_counts_from_now(self) -> None:
        """The time of an extension counts from now, however long the message was held."""
        [message] = self.receive(entry())
        self.clock.advance(59)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.assertEqual(self.entries(), [{"ReceiptHandle": "receipt-1", "VisibilityTimeout": 60}])
        self.all_well()
        self.successResultOf(extending)
        self.clock.advance(59)
        self.start(self.queue.extend(message=message, visibility=60))
        self.assertEqual(len(self.service.waiting), 1)

    def test_seconds(self) -> None:
        """SQS counts whole seconds, and no more than it allows."""
        for wanted, said in ((0, 0), (0.2, 1), (29.6, 30), (1e9, MAX_HIDDEN)):
            [message] = self.receive(entry())
            self.start(self.queue.extend(message=message, visibility=wanted))
            self.assertEqual(self.entries()[0]["VisibilityTimeout"], said)
            self.all_well()

    def test_total(self) -> None:
        """A message is hidden for twelve hours in all, since it was received, and then lost."""
        [message] = self.receive(entry())
        self.start(self.queue.extend(message=message, visibility=1e9))
        self.all_well()
        self.clock.advance(MAX_HIDDEN - 100)
        self.start(self.queue.extend(message=message, visibility=300))
        self.assertEqual(self.entries()[0]["VisibilityTimeout"], 100)
        self.all_well()
        self.clock.advance(99.5)
        extending = self.start(self.queue.extend(message=message, visibility=300))
        self.failureResultOf(extending, LeaseLost)

    def test_lost(self) -> None:
        """What SQS says of a receipt that is no longer good is a lost lease."""
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

    def test_run_out(self) -> None:
        """A lease that has run out is lost without asking: SQS might still say yes."""
        [message] = self.receive(entry())
        self.clock.advance(60)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.failureResultOf(extending, LeaseLost)
        self.result(self.queue.delete(message=message))
        self.assertEqual(self.operations(), ["ReceiveMessage"])

    def test_handed_back(self) -> None:
        """A message that was handed back is not ours any longer."""
        [message] = self.receive(entry())
        self.start(self.queue.extend(message=message, visibility=0))
        self.all_well()
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.failureResultOf(extending, LeaseLost)

    def test_one_lost_of_many(self) -> None:
        """Each message has a lease of its own: one that is lost takes no other with it."""
        first, second = self.receive(entry(1), entry(2))
        one = Deferred.fromCoroutine(self.queue.extend(message=first, visibility=60))
        two = self.start(self.queue.extend(message=second, visibility=60))
        self.service.answer(
            Successful=[{"Id": "0"}],
            Failed=[{"Id": "1", "SenderFault": True, "Code": "MessageNotInflight"}],
        )
        self.successResultOf(one)
        self.failureResultOf(two, LeaseLost)

    def test_refused(self) -> None:
        """Any other refusal, and a call that fails, is a QueueError, and the lease is kept."""
        [message] = self.receive(entry())
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.refuse("AccessDenied")
        self.assertIs(self.failureResultOf(extending, QueueError).type, QueueError)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.service.fail(AwsError("down", code="X"))
        self.assertIs(self.failureResultOf(extending, QueueError).type, QueueError)
        extending = self.start(self.queue.extend(message=message, visibility=60))
        self.all_well()
        self.successResultOf(extending)

    def test_another_process(self) -> None:
        """A message that another object received may be concluded: SQS knows whose it is."""
        message = Message("id", "body", "receipt-9", 1, 0)
        deleting = self.start(self.queue.delete(message=message))
        self.all_well()
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
