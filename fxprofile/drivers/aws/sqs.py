"""
The SQS driver of :class:`fxprofile.model.ports.IQueue`, for Amazon SQS and compatible servers.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fxprofile.drivers.aws.client.batch import Batcher, EntryRefused
from fxprofile.drivers.aws.client.client import MAX_ATTEMPTS, AwsClient, AwsService
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.client.wire import Members
from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import IQueue
from fxprofile.settings.model import Settings

#: SQS's limits: messages of one receive, seconds of a long poll and of a visibility timeout.
MAX_MESSAGES: Final = 10
MAX_WAIT: Final = 20
MAX_VISIBILITY: Final = 43200

#: Seconds without progress after which a call fails; a long poll has its wait in addition.
TIMEOUT: Final = 10.0

#: The same for a send, and its attempts: a client may be waiting, and senders retry later.
SEND_TIMEOUT: Final = 5.0
SEND_ATTEMPTS: Final = 2

#: Attempts of one receive; pollers have a backoff of their own.
RECEIVE_ATTEMPTS: Final = 2

#: Seconds that a cancelled long poll has to end when the queue is stopped.
STOP_GRACE: Final = 1.0

#: SQS's error codes for a receipt handle that has expired.
LEASE_LOST: Final = frozenset(
    {"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight", "InvalidIdFormat"}
)

_REGION = re.compile(r"(?:[^.]+\.)*sqs\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?")

_log = Logger()


def sqs_queue(
    settings: Settings, client: AwsClient, *, name: str, url: str, visibility_timeout: int
) -> SqsQueue:
    """Return the queue with this URL, configured by ``queue`` and ``aws``."""
    endpoint, region = endpoint_of(url)
    endpoint = settings.queue.endpoint_url or settings.aws.endpoint_url or endpoint
    return SqsQueue(AwsService(client, "sqs", endpoint, region), name, url, visibility_timeout)


@implementer(IQueue)
@attrs.define(eq=False, slots=False, repr=False)
class SqsQueue(Service):
    """
    A standard SQS queue.

    It works without being started; when it is stopped, it waits for the calls in flight.

    :param service: SQS, at the endpoint of the queue.
    :param name: for logs and metrics.
    :param url: of the queue.
    :param visibility_timeout: of received messages, in seconds.
    """

    _service: AwsService
    name: str
    _url: str
    _visibility_timeout: int
    # When a message becomes visible again.
    _leases: WeakKeyDictionary[Message, float] = attrs.field(factory=WeakKeyDictionary, init=False)
    _polls: set[Deferred[list[Message]]] = attrs.field(factory=set, init=False)

    @cached_property
    def _sends(self) -> Batcher:
        options = {"max_attempts": SEND_ATTEMPTS}
        return Batcher(self._service, "SendMessageBatch", self._url, SEND_TIMEOUT, options)

    @cached_property
    def _deletes(self) -> Batcher:
        return Batcher(self._service, "DeleteMessageBatch", self._url, TIMEOUT)

    @cached_property
    def _extensions(self) -> Batcher:
        return Batcher(self._service, "ChangeMessageVisibilityBatch", self._url, TIMEOUT)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # Cancelling the list cancels the polls.
        await DeferredList(list(self._polls)).addTimeout(STOP_GRACE, self._service.client.clock)
        await self._sends.drain()
        await self._extensions.drain()
        await self._deletes.drain()

    async def send(self, *, body: str) -> None:
        try:
            result = await self._sends.add({"MessageBody": body})
        except AwsError as error:
            raise QueueError(str(error)) from error
        if result.get("MD5OfMessageBody") != _md5(body):
            raise QueueError(f"sqs:SendMessageBatch {self._url}: SQS reports another body's MD5")

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        """
        Receive messages by long polling.

        A cancelled poll continues until its response, because SQS may already have hidden
        messages for it; these are released at once.
        """
        if not 1 <= max_messages <= MAX_MESSAGES:
            raise ValueError(f"max_messages is {max_messages}")
        if not 0 <= wait <= MAX_WAIT:
            raise ValueError(f"wait is {wait}")
        waiter: Deferred[list[Message]] = Deferred()
        hidden = self._visibility_timeout if visibility is None else math.ceil(visibility)
        poll = Deferred.fromCoroutine(self._poll(max_messages, math.ceil(wait), hidden))
        self._polls.add(poll)

        def release_failed(failure: Failure) -> None:
            _log.info(
                "Cannot release a message of {queue}: {error}", queue=self, error=failure.value
            )

        def ended(outcome: list[Message] | Failure) -> None:
            self._polls.discard(poll)
            if not waiter.called:
                waiter.callback(outcome)
            elif not isinstance(outcome, Failure):
                for message in outcome:
                    release = Deferred.fromCoroutine(self.release(message=message))
                    release.addErrback(release_failed)

        poll.addBoth(ended)
        try:
            return await waiter
        except GeneratorExit:
            waiter.cancel()
            waiter.addErrback(lambda failure: None)
            raise

    async def _poll(self, max_messages: int, wait: int, hidden: int) -> list[Message]:
        result = await self._call(
            "ReceiveMessage",
            {
                "MaxNumberOfMessages": max_messages,
                "WaitTimeSeconds": wait,
                "VisibilityTimeout": hidden,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
            },
            wait + TIMEOUT,
            RECEIVE_ATTEMPTS,
        )
        now = self._service.client.clock.seconds()
        messages = []
        for members in result.get("Messages") or ():
            message = _message(members, now)
            if message is None:
                # It becomes visible again, and may then arrive intact.
                _log.error(
                    "Received a damaged message: {id} of {queue}",
                    id=members.get("MessageId"),
                    queue=self,
                )
                continue
            # A weak dictionary would keep an older equal key, and lose the lease with it.
            self._leases.pop(message, None)
            self._leases[message] = now + hidden
            messages.append(message)
        return messages

    async def extend(self, *, message: Message, visibility: float) -> None:
        now = self._service.client.clock.seconds()
        seconds = min(MAX_VISIBILITY, math.ceil(max(0, visibility)))
        await self._change(self._extensions, message, VisibilityTimeout=seconds)
        self._leases[message] = now + seconds

    async def release(self, *, message: Message) -> None:
        await self.extend(message=message, visibility=0)

    async def delete(self, *, message: Message) -> None:
        with suppress(LeaseLost):
            await self._change(self._deletes, message)

    async def _change(self, batcher: Batcher, message: Message, **members: int) -> None:
        """
        :raises LeaseLost: if the lease has expired.  SQS may accept the receipt handle even
            after another worker has received the message; but only SQS knows the lease of a
            message that another object received.
        """
        clock = self._service.client.clock
        if self._leases.get(message, float("inf")) <= clock.seconds():
            raise LeaseLost(f"message {message.message_id} of {self.name}: the lease has expired")
        try:
            await batcher.add({"ReceiptHandle": message.receipt_handle, **members})
        except EntryRefused as error:
            # Some codes have a namespace: AWS.SimpleQueueService.MessageNotInflight.
            if re.split(r"[.#]", error.code)[-1] not in LEASE_LOST:
                raise QueueError(str(error)) from error
            self._leases[message] = clock.seconds()
            raise LeaseLost(str(error)) from error
        except AwsError as error:
            raise QueueError(str(error)) from error

    async def depth(self) -> QueueDepth:
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        )
        result = await self._call("GetQueueAttributes", {"AttributeNames": list(names)})
        attributes = result.get("Attributes", {})
        visible, delayed, in_flight = (_number(attributes.get(name), 0) for name in names)
        return QueueDepth(visible=visible + delayed, in_flight=in_flight)

    async def check(self) -> None:
        await self._call("GetQueueAttributes", {"AttributeNames": ["QueueArn"]})

    async def _call(
        self,
        operation: str,
        parameters: Members,
        timeout: float = TIMEOUT,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> Members:
        try:
            response = await self._service.call(
                operation,
                {"QueueUrl": self._url, **parameters},
                timeout=timeout,
                max_attempts=max_attempts,
            )
        except AwsError as error:
            raise QueueError(str(error)) from error
        return response.members

    def __repr__(self) -> str:
        return f"<SqsQueue {self.name!r}>"


def endpoint_of(url: str) -> tuple[str | None, str | None]:
    """
    Return the endpoint and the region in the URL of a queue.

    :returns: None for a region that the URL does not contain, and for the endpoint of a legacy
        URL, whose host does not speak the JSON protocol.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.endswith("queue.amazonaws.com"):
        return None, host.split(".")[0] if host.count(".") == 3 else None
    match = _REGION.fullmatch(host)
    return f"{parts.scheme}://{parts.netloc}", match.group(1) if match else None


def _message(members: Members, now: float) -> Message | None:
    """Return a received message; None if it is incomplete or does not match its MD5."""
    try:
        body = members["Body"]
        if members["MD5OfBody"] != _md5(body):
            return None
        attributes = members.get("Attributes", {})
        return Message(
            message_id=members["MessageId"],
            body=body,
            receipt_handle=members["ReceiptHandle"],
            receive_count=_number(attributes.get("ApproximateReceiveCount"), 1),
            sent=_number(attributes.get("SentTimestamp"), int(now * 1000)) / 1000,
        )
    except KeyError:
        return None


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default


def _md5(body: str) -> str:
    return hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
