"""
Tests of the requests and responses of the SQS queue, with regressions known from other consumers.
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
from tests.drivers.aws.support import make_client


class ReceiveTests(QueueCase):
    def test_a_receive_is_a_long_poll(self) -> None:
        """A receive asks for a long poll, with a timeout longer than its wait."""
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

    def test_a_message_has_its_attributes(self) -> None:
        """A message has its body, receipt handle, receive count and time."""
        [message] = self.receive(entry())
        self.assertEqual(message, Message("id-1", "body 1", "receipt-1", 2, 1700000000.5))

    def test_a_response_without_messages_is_empty(self) -> None:
        """Every form of a response without messages gives none."""
        for members in ({}, {"Messages": []}, {"Messages": None}):
            receiving = self.start(self.queue.receive(max_messages=1, wait=0))
            self.service.answer(**members)
            self.assertEqual(self.successResultOf(receiving), [])

    def test_a_damaged_message_is_skipped(self) -> None:
        """A message with a wrong MD5 or missing members is skipped."""
        messages = self.receive(entry(1, MD5OfBody=md5("other")), {"MessageId": "id-3"}, entry(2))
        self.assertEqual([message.message_id for message in messages], ["id-2"])

    def test_a_missing_receive_count_is_one(self) -> None:
        """A message without a receive count counts as received once."""
        [message] = self.receive(entry(1, Attributes={}))
        self.assertEqual(message.receive_count, 1)

    def test_a_failed_receive_is_a_queue_error(self) -> None:
        """Any AwsError of a receive is a QueueError."""
        for error in (
            AwsUnreachable("gone", code="Unreachable"),
            AwsError("x", code="ExpiredToken"),
        ):
            receiving = self.start(self.queue.receive(max_messages=1, wait=0))
            self.service.fail(error)
            self.failureResultOf(receiving, QueueError)

    def test_arguments_beyond_the_limits_are_refused(self) -> None:
        """Arguments beyond the limits of SQS raise ValueError without a call."""
        for options in ({"max_messages": 0, "wait": 1}, {"max_messages": 1, "wait": 21}):
            self.failureResultOf(self.start(self.queue.receive(**options)), ValueError)
        self.assertEqual(self.service.calls, [])


class DeleteTests(QueueCase):
    def test_deletes_are_batched(self) -> None:
        """Concurrent deletes are sent in batches of at most ten."""
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

    def test_a_failed_delete_is_retried(self) -> None:
        """A delete that SQS fails to process is retried."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.refuse("InternalError", sender=False)
        self.assertNoResult(deleting)
        self.clock.pump([0.1] * 20)
        self.assertEqual(self.operations()[1:], ["DeleteMessageBatch"] * 2)
        self.succeed()
        self.successResultOf(deleting)

    def test_a_repeatedly_failed_delete_is_an_error(self) -> None:
        """A delete that fails three times raises QueueError."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        for _ in range(3):
            self.refuse("InternalError", sender=False)
            self.clock.pump([0.1] * 20)
        self.failureResultOf(deleting, QueueError)

    def test_a_lost_lease_is_ignored_by_delete(self) -> None:
        """A delete with an expired receipt handle succeeds without effect."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.refuse("ReceiptHandleIsInvalid")
        self.successResultOf(deleting)

    def test_a_failed_call_is_a_queue_error(self) -> None:
        """A delete whose call fails raises QueueError."""
        [message] = self.receive(entry())
        deleting = self.start(self.queue.delete(message=message))
        self.service.fail(AwsError("down", code="X"))
        self.failureResultOf(deleting, QueueError)


class SendTests(QueueCase):
    def test_a_send_verifies_the_stored_body(self) -> None:
        """A send succeeds only if SQS reports the MD5 of its body."""
        sending = self.start(self.queue.send(body="hello"))
        entries = [{"Id": "0", "MessageBody": "hello"}]
        self.assertEqual(
            self.service.calls[0][:2], ("SendMessageBatch", {"QueueUrl": URL, "Entries": entries})
        )
        self.service.answer(Successful=[{"Id": "0", "MD5OfMessageBody": md5("hello")}])
        self.successResultOf(sending)
        for members in ({}, {"MD5OfMessageBody": md5("hell")}):
            sending = self.start(self.queue.send(body="hello"))
            self.service.answer(Successful=[{"Id": "0", **members}])
            self.failureResultOf(sending, QueueError)

    def test_sends_are_batched(self) -> None:
        """Sends of one moment are one call, and each has its own outcome."""
        sending = [Deferred.fromCoroutine(self.queue.send(body=body)) for body in "abc"]
        self.clock.advance(0)
        [(_, parameters, _)] = self.service.calls
        self.assertEqual([each["MessageBody"] for each in parameters["Entries"]], list("abc"))
        self.service.answer(
            Successful=[
                {"Id": id, "MD5OfMessageBody": md5(b)} for id, b in (("0", "a"), ("2", "c"))
            ],
            Failed=[{"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents"}],
        )
        self.successResultOf(sending[0])
        self.failureResultOf(sending[1], QueueError)
        self.successResultOf(sending[2])

    def test_a_failed_call_of_a_send_is_a_queue_error(self) -> None:
        """A send whose call fails raises QueueError."""
        sending = self.start(self.queue.send(body="hello"))
        self.service.fail(AwsError("down", code="X"))
        self.failureResultOf(sending, QueueError)

    def test_a_send_fails_within_ten_seconds(self) -> None:
        """The attempts of a send time out within ten seconds, because a client may wait."""
        self.start(self.queue.send(body="hello"))
        options = self.service.calls[0][2]
        self.assertLessEqual(options["timeout"] * options["max_attempts"], 10)

    def test_delayed_messages_count_as_visible(self) -> None:
        """The depth counts delayed messages as visible."""
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

    def test_every_check_is_a_call(self) -> None:
        """Every check calls SQS."""
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
        self.addCleanup(client.agent.stopService)
        url = f"{server.url}/123456789012/jobs"
        made = sqs_queue(
            Settings(queue={"driver": "sqs"}), client, name="jobs", url=url, visibility_timeout=60
        )
        return server, made

    async def test_requests_have_the_json_protocol(self) -> None:
        """A request has the JSON protocol, and is signed for the region of the queue."""
        sent = {"Id": "0", "MessageId": "1", "MD5OfMessageBody": md5("hello")}
        server, queue = self.serve(json_answer(json.dumps({"Successful": [sent]})))
        await queue.send(body="hello")
        [seen] = server.seen
        self.assertEqual((seen.method, seen.uri), ("POST", "/"))
        self.assertEqual(seen.headers["x-amz-target"], "AmazonSQS.SendMessageBatch")
        self.assertEqual(seen.headers["content-type"], "application/x-amz-json-1.0")
        self.assertIn("/us-east-1/sqs/aws4_request", seen.headers["authorization"])
        self.assertEqual(
            json.loads(seen.body),
            {
                "QueueUrl": f"{server.url}/123456789012/jobs",
                "Entries": [{"Id": "0", "MessageBody": "hello"}],
            },
        )

    async def test_errors_have_codes_and_request_ids(self) -> None:
        """A QueueError contains the error code and the request id."""
        _, queue = self.serve(json_error(400, "QueueDoesNotExist"), json_answer('{"Attributes": {'))
        with self.assertRaises(QueueError) as caught:
            await queue.check()
        self.assertIn("QueueDoesNotExist", str(caught.exception))
        self.assertIn("request REQ2", str(caught.exception))
        with self.assertRaises(QueueError):
            await queue.depth()

    async def test_stopping_ends_the_connection_of_a_poll(self) -> None:
        """A stop closes the connection of an open poll."""
        server, queue = self.serve(hang)
        queue.startService()
        receiving = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        while not server.seen:
            await deferLater(reactor, 0.005)
        receiving.cancel()
        with self.assertRaises(CancelledError):
            await receiving
        await queue.stopService()


class EndpointTests(SynchronousTestCase):
    def test_a_url_contains_endpoint_and_region(self) -> None:
        """The endpoint and the region are taken from the URL of a queue."""
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

    def test_settings_can_name_another_endpoint(self) -> None:
        """The settings of the queue and of AWS override the endpoint, in this order."""
        for queue, aws, expected in [
            ({}, {}, "https://sqs.eu-west-1.amazonaws.com"),
            ({}, {"endpoint_url": "http://a:1"}, "http://a:1"),
            ({"endpoint_url": "http://q:1"}, {"endpoint_url": "http://a:1"}, "http://q:1"),
        ]:
            settings = Settings(queue={"driver": "sqs", **queue}, aws=aws)
            client = make_client(Clock())
            made = sqs_queue(settings, client, name="jobs", url=URL, visibility_timeout=60)
            self.assertEqual(made._service.endpoint_url, expected)
            self.assertEqual(made._service.region, "eu-west-1")
