"""
Tests of what :mod:`fxprofile.queues.sqs` says over the wire, and of what it makes of answers.

The bugs that other consumers of SQS had, and that a driver can have, are among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.aws.call import Answer
from fxprofile.aws.errors import AwsError, AwsUnreachable
from fxprofile.config import Settings
from fxprofile.errors import LeaseLost, QueueError
from fxprofile.model import Message
from fxprofile.queues.sqs import MAX_HELD, STOP_GRACE, SqsQueue, place, sqs_queue
from tests.aws.server import ScriptedServer, hang, json_answer, json_error
from tests.aws.support import InlineThreads, make_client

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def entry(number: int = 1, **members: Any) -> dict[str, Any]:
    """A message as SQS gives it."""
    body = f"body {number}"
    return {
        "MessageId": f"id-{number}",
        "ReceiptHandle": f"receipt-{number}",
        "Body": body,
        "MD5OfBody": md5(body),
        "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1700000000500"},
    } | members


class FakeService:
    """
    A service whose answers a test gives when it wants to.

    :ivar calls: operation, parameters and options of each call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    async def call(self, operation: str, parameters: dict[str, Any], **options: Any) -> Answer:
        self.calls.append((operation, parameters, options))
        waiter: Deferred[Any] = Deferred(self._cancel)
        self.waiting.append(waiter)
        return Answer(members=await waiter, headers={})

    def _cancel(self, waiter: Any) -> None:
        self.cancelled += 1
        self.waiting.remove(waiter)

    def answer(self, **members: Any) -> None:
        """Answer the oldest call that waits."""
        self.waiting.pop(0).callback(members)

    def fail(self, error: Exception) -> None:
        """Let the oldest call that waits fail."""
        self.waiting.pop(0).errback(error)


class FakeClient:
    """What a queue wants of a client."""

    def __init__(self, clock: Clock, service: FakeService) -> None:
        self.clock = clock
        self.users = 0
        self._service = service

    def service(self, name: str, **options: Any) -> FakeService:
        return self._service

    def acquire(self) -> None:
        self.users += 1

    async def release(self) -> None:
        self.users -= 1


class QueueCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.service = FakeService()
        self.client = FakeClient(self.clock, self.service)
        self.queue = SqsQueue(self.client, name="jobs", url=URL, visibility_timeout=60)
        self.queue.startService()

    def start(self, work: Any) -> Deferred[Any]:
        running = Deferred.fromCoroutine(work)
        self.clock.advance(0)
        return running

    def result(self, work: Any) -> Any:
        return self.successResultOf(self.start(work))

    def receive(self, *entries: dict[str, Any]) -> list[Message]:
        receiving = self.start(self.queue.receive(max_messages=10, wait=20))
        self.service.answer(Messages=list(entries))
        return self.successResultOf(receiving)

    def operations(self) -> list[str]:
        return [call[0] for call in self.service.calls]

    def entries(self, call: int = -1) -> list[dict[str, Any]]:
        """The entries of a batch, without their ids."""
        found = self.service.calls[call][1]["Entries"]
        self.assertEqual(len({e["Id"] for e in found}), len(found))
        return [{k: v for k, v in e.items() if k != "Id"} for e in found]

    def all_well(self) -> None:
        """Let a batch succeed."""
        ids = [{"Id": e["Id"]} for e in self.service.calls[-1][1]["Entries"]]
        self.service.answer(Successful=ids)

    def refuse(self, code: str, sender: bool = True) -> None:
        """Refuse the one entry of a batch."""
        self.service.answer(
            Failed=[{"Id": "0", "SenderFault": sender, "Code": code, "Message": "no"}]
        )


class ReceiveTests(QueueCase):
    def test_parameters(self) -> None:
        """A receive is a long poll, and has more time to answer than to wait."""
        receiving = self.start(self.queue.receive(max_messages=3, wait=20))
        operation, parameters, options = self.service.calls[0]
        self.assertEqual(operation, "ReceiveMessage")
        self.assertEqual(
            parameters,
            {
                "QueueUrl": URL,
                "MaxNumberOfMessages": 3,
                "WaitTimeSeconds": 20,
                "VisibilityTimeout": 60,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
            },
        )
        self.assertGreaterEqual(options["timeout"], 25)
        self.service.answer()
        self.successResultOf(receiving)

    def test_message(self) -> None:
        """A message has all that SQS says of it."""
        [message] = self.receive(entry())
        self.assertEqual(message, Message("id-1", "body 1", "receipt-1", 2, 1700000000.5))

    def test_nothing(self) -> None:
        """An answer without messages, however it says so, is no message."""
        for members in ({}, {"Messages": []}, {"Messages": None}):
            receiving = self.start(self.queue.receive(max_messages=1, wait=0))
            self.service.answer(**members)
            self.assertEqual(self.successResultOf(receiving), [])

    def test_damaged(self) -> None:
        """A message whose digest is wrong is left to come back; the others are received."""
        messages = self.receive(entry(1, MD5OfBody=md5("other")), {"MessageId": "id-3"}, entry(2))
        self.assertEqual([message.message_id for message in messages], ["id-2"])

    def test_sparse(self) -> None:
        """A server that does not count is believed to give it the first time."""
        [message] = self.receive(entry(1, Attributes={}))
        self.assertEqual(message.receive_count, 1)

    def test_fails(self) -> None:
        """Whatever kind of error it is, it is a QueueError."""
        for error in (
            AwsUnreachable("gone", code="Unreachable"),
            AwsError("x", code="ExpiredToken"),
        ):
            receiving = self.start(self.queue.receive(max_messages=1, wait=0))
            self.service.fail(error)
            self.failureResultOf(receiving, QueueError)

    def test_arguments(self) -> None:
        """What SQS would refuse is a mistake."""
        for options in ({"max_messages": 0, "wait": 1}, {"max_messages": 1, "wait": 21}):
            self.failureResultOf(self.start(self.queue.receive(**options)), ValueError)
        self.assertEqual(self.service.calls, [])


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
        for wanted, said in ((0, 0), (0.2, 1), (29.6, 30), (1e9, MAX_HELD)):
            [message] = self.receive(entry())
            self.start(self.queue.extend(message=message, visibility=wanted))
            self.assertEqual(self.entries()[0]["VisibilityTimeout"], said)
            self.all_well()

    def test_total(self) -> None:
        """A message is hidden for twelve hours in all, since it was received, and then lost."""
        [message] = self.receive(entry())
        self.start(self.queue.extend(message=message, visibility=1e9))
        self.all_well()
        self.clock.advance(MAX_HELD - 100)
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

    def test_leases_are_forgotten(self) -> None:
        """What is known of leases does not grow for ever."""
        for number in range(50):
            self.receive(entry(number))
            self.clock.advance(200)
        self.assertLess(len(self.queue._leases), 25)


class DeleteTests(QueueCase):
    def test_batch(self) -> None:
        """Deletes of one moment go in batches of at most ten."""
        messages = self.receive(*[entry(number) for number in range(12)])
        deleting = [Deferred.fromCoroutine(self.queue.delete(message=m)) for m in messages]
        self.clock.advance(0)
        self.clock.advance(1)
        batches = [call[1]["Entries"] for call in self.service.calls[1:]]
        self.assertEqual([len(batch) for batch in batches], [10, 2])
        for batch in batches:
            self.service.answer(Successful=[{"Id": e["Id"]} for e in batch])
        for done in deleting:
            self.successResultOf(done)

    def test_failed_entries(self) -> None:
        """An entry that failed is not taken for deleted: it is tried again."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.refuse("InternalError", sender=False)
        self.assertNoResult(deleting)
        self.clock.pump([0.1] * 20)
        self.assertEqual(self.operations()[1:], ["DeleteMessageBatch"] * 2)
        self.all_well()
        self.successResultOf(deleting)

    def test_failed_for_good(self) -> None:
        """If it fails again and again that is an error."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        for _ in range(3):
            self.refuse("InternalError", sender=False)
            self.clock.pump([0.1] * 20)
        self.failureResultOf(deleting, QueueError)

    def test_not_ours(self) -> None:
        """A message that is somebody else's by now is left as it is, silently."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.refuse("ReceiptHandleIsInvalid")
        self.successResultOf(deleting)

    def test_call_fails(self) -> None:
        """A call that fails is a QueueError."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.service.fail(AwsError("down", code="X"))
        self.failureResultOf(deleting, QueueError)


class SendTests(QueueCase):
    def test_durable(self) -> None:
        """A send is done when SQS says that it has the body, and no other."""
        sending = self.start(self.queue.send(body="hello"))
        self.assertEqual(
            self.service.calls[0][:2], ("SendMessage", {"QueueUrl": URL, "MessageBody": "hello"})
        )
        self.service.answer(MessageId="1", MD5OfMessageBody=md5("hello"))
        self.successResultOf(sending)
        for members in ({}, {"MD5OfMessageBody": md5("hell")}):
            sending = self.start(self.queue.send(body="hello"))
            self.service.answer(**members)
            self.failureResultOf(sending, QueueError)

    def test_in_good_time(self) -> None:
        """Who sends hears soon that it does not work: clients wait for that."""
        self.start(self.queue.send(body="hello"))
        options = self.service.calls[0][2]
        self.assertLessEqual(options["timeout"] * options["max_attempts"], 10)

    def test_depth(self) -> None:
        """Delayed messages wait as well."""
        depth = self.start(self.queue.depth())
        self.service.answer(
            Attributes={
                "ApproximateNumberOfMessages": "3",
                "ApproximateNumberOfMessagesDelayed": "1",
                "ApproximateNumberOfMessagesNotVisible": "2",
            }
        )
        found = self.successResultOf(depth)
        self.assertEqual((found.visible, found.in_flight, found.oldest), (4, 2, None))

    def test_check_asks_each_time(self) -> None:
        """A check is never answered from memory."""
        for _ in range(3):
            checking = self.start(self.queue.check())
            self.service.answer(Attributes={})
            self.successResultOf(checking)
        self.assertEqual(self.operations(), ["GetQueueAttributes"] * 3)
        checking = self.start(self.queue.check())
        self.service.fail(AwsError("gone", code="QueueDoesNotExist"))
        self.failureResultOf(checking, QueueError)


class WireTests(TestCase):
    """Over a real connection."""

    def serve(self, *script: Callable[[Any], Any]) -> tuple[ScriptedServer, SqsQueue]:
        server = ScriptedServer(self, *script)
        client = make_client(reactor)
        self.addCleanup(client.transport.close)
        url = f"{server.url}/123456789012/jobs"
        return server, SqsQueue(client, name="jobs", url=url, visibility_timeout=60)

    async def test_protocol(self) -> None:
        """The JSON protocol, signed for the service of the queue."""
        server, queue = self.serve(
            json_answer(json.dumps({"MessageId": "1", "MD5OfMessageBody": md5("hello")}))
        )
        await queue.send(body="hello")
        [seen] = server.seen
        self.assertEqual((seen.method, seen.uri), ("POST", "/"))
        self.assertEqual(seen.headers["x-amz-target"], "AmazonSQS.SendMessage")
        self.assertEqual(seen.headers["content-type"], "application/x-amz-json-1.0")
        self.assertIn("/us-east-1/sqs/aws4_request", seen.headers["authorization"])
        self.assertEqual(
            json.loads(seen.body),
            {"QueueUrl": f"{server.url}/123456789012/jobs", "MessageBody": "hello"},
        )

    async def test_errors(self) -> None:
        """Errors are QueueErrors with the name and the request id that SQS gives."""
        _, queue = self.serve(json_error(400, "QueueDoesNotExist"), json_answer('{"Attributes": {'))
        with self.assertRaises(QueueError) as caught:
            await queue.check()
        self.assertIn("QueueDoesNotExist", str(caught.exception))
        self.assertIn("request REQ2", str(caught.exception))
        with self.assertRaises(QueueError):
            await queue.depth()

    async def test_open_poll(self) -> None:
        """A stop ends an open poll with its connection."""
        server, queue = self.serve(hang)
        queue.startService()
        receiving = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        while not server.seen:
            await deferLater(reactor, 0.005)
        receiving.cancel()
        with self.assertRaises(CancelledError):
            await receiving
        await queue.stopService()


class PlaceTests(SynchronousTestCase):
    def test_table(self) -> None:
        """The URL of a queue says where its service is, and mostly in which region."""
        for url, expected in {
            URL: ("https://sqs.eu-west-1.amazonaws.com", "eu-west-1"),
            "https://sqs.cn-north-1.amazonaws.com.cn/1/q": (
                "https://sqs.cn-north-1.amazonaws.com.cn",
                "cn-north-1",
            ),
            "https://vpce-1.sqs.us-west-2.vpce.amazonaws.com/1/q": (
                "https://vpce-1.sqs.us-west-2.vpce.amazonaws.com",
                "us-west-2",
            ),
            "https://queue.amazonaws.com/1/q": (None, None),
            "https://eu-west-1.queue.amazonaws.com/1/q": (None, "eu-west-1"),
            "http://127.0.0.1:9324/1/q": ("http://127.0.0.1:9324", None),
        }.items():
            self.assertEqual(place(url), expected, url)

    def test_from_settings(self) -> None:
        """The settings may name another endpoint."""
        for queue, aws, expected in [
            ({}, {}, "https://sqs.eu-west-1.amazonaws.com"),
            ({}, {"endpoint_url": "http://a:1"}, "http://a:1"),
            ({"endpoint_url": "http://q:1"}, {"endpoint_url": "http://a:1"}, "http://q:1"),
        ]:
            settings = Settings(queue={"driver": "sqs", **queue}, aws=aws)
            made = sqs_queue(
                settings,
                name="jobs",
                url=URL,
                visibility_timeout=60,
                reactor=Clock(),
                threads=InlineThreads(),
            )
            self.assertEqual(made._service.endpoint_url, expected)
            self.assertEqual(made._service.region, "eu-west-1")
