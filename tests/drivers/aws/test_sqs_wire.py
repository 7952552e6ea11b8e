"""
Tests of what :mod:`fxprofile.drivers.aws.sqs` says over the wire, and of what it makes of answers.

The bugs that other consumers of SQS had, and that a driver can have, are among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.drivers.aws.client.errors import AwsError, AwsUnreachable
from fxprofile.drivers.aws.sqs import SqsQueue, endpoint_of, sqs_queue
from fxprofile.model.errors import QueueError
from fxprofile.model.messages import Message
from fxprofile.settings.model import Settings
from tests.drivers.aws.server import ScriptedServer, hang, json_answer, json_error
from tests.drivers.aws.sqs_case import URL, QueueCase, entry, md5
from tests.drivers.aws.support import InlineThreads, make_client


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
            self.assertEqual(endpoint_of(url), expected, url)

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
