"""An SQS queue on a scripted service."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.client import AwsResponse
from fxprofile.drivers.aws.sqs import SqsQueue
from fxprofile.model.messages import Message

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def entry(number: int = 1, **members: Any) -> dict[str, Any]:
    """Return a message in the format of SQS."""
    body = f"body {number}"
    return {
        "MessageId": f"id-{number}",
        "ReceiptHandle": f"receipt-{number}",
        "Body": body,
        "MD5OfBody": md5(body),
        "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1700000000500"},
    } | members


class FakeClient:
    """The part of a client that a queue uses."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock


class FakeService:
    """
    A service whose responses a test gives.

    :ivar calls: operation, parameters and options of each call.
    """

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.calls: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.waiting: list[Deferred[Any]] = []
        self.cancelled = 0

    async def call(self, operation: str, parameters: dict[str, Any], **options: Any) -> AwsResponse:
        self.calls.append((operation, parameters, options))
        waiter: Deferred[Any] = Deferred(self._cancel)
        self.waiting.append(waiter)
        return AwsResponse(members=await waiter, headers={})

    def _cancel(self, waiter: Any) -> None:
        self.cancelled += 1
        self.waiting.remove(waiter)

    def answer(self, **members: Any) -> None:
        """Complete the oldest waiting call."""
        self.waiting.pop(0).callback(members)

    def fail(self, error: Exception) -> None:
        """Fail the oldest waiting call."""
        self.waiting.pop(0).errback(error)


class QueueCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.service = FakeService(FakeClient(self.clock))
        self.queue = SqsQueue(self.service, name="jobs", url=URL, visibility_timeout=60)
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
        """Return the entries of a batch, without their ids."""
        found = self.service.calls[call][1]["Entries"]
        self.assertEqual(len({e["Id"] for e in found}), len(found))
        return [{k: v for k, v in e.items() if k != "Id"} for e in found]

    def succeed(self) -> None:
        """Complete a batch with success."""
        ids = [{"Id": e["Id"]} for e in self.service.calls[-1][1]["Entries"]]
        self.service.answer(Successful=ids)

    def refuse(self, code: str, sender: bool = True) -> None:
        """Refuse the only entry of a batch."""
        self.service.answer(
            Failed=[{"Id": "0", "SenderFault": sender, "Code": code, "Message": "no"}]
        )
