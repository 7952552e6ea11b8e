"""
Queues of Amazon SQS, and of whatever speaks its protocol.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.batch import Batcher, EntryRefused
from fxprofile.drivers.aws.client import AwsClient
from fxprofile.drivers.aws.errors import AwsError
from fxprofile.drivers.aws.shared import client_of
from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import IQueue
from fxprofile.settings.model import Settings

#: SQS's limits: messages of one receive, seconds of a long poll and of invisibility.
MAX_MESSAGES: Final = 10
MAX_WAIT: Final = 20
MAX_VISIBILITY: Final = 43200

#: Seconds for which a message can be hidden in all, counted from its receive.  SQS counts from
#: a little earlier than we do, and refuses what would be too long.
MAX_HELD: Final = MAX_VISIBILITY - 60

#: Seconds without a sign of life after which a call has failed; a long poll gets so much
#: longer than it may wait.
TIMEOUT: Final = 10.0

#: The same for a send, and its tries: a client may be waiting, and whoever sends has a way
#: to send again later.
SEND_TIMEOUT: Final = 5.0
SEND_TRIES: Final = 2

#: Tries of one receive.  Whoever polls has a backoff of its own.
RECEIVE_TRIES: Final = 2

#: Seconds that a poll nobody waits for gets to end, when the queue is stopped.
STOP_GRACE: Final = 1.0

#: Seconds that a lease is remembered which has ended otherwise than by a delete.
LEASES_KEPT: Final = 3600

#: What SQS says of a receipt that is no longer good.  Some come with a name space.
LOST: Final = frozenset(
    {"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight", "InvalidIdFormat"}
)

_REGION = re.compile(r"(?:[^.]+\.)*sqs\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?")

_log = Logger()


def sqs_queue(
    settings: Settings,
    *,
    name: str,
    url: str,
    visibility_timeout: int,
    reactor: Any,
    threads: Threads,
) -> SqsQueue:
    """The queue with this URL, as the settings say."""
    return SqsQueue(
        client_of(settings, reactor=reactor, threads=threads),
        name=name,
        url=url,
        visibility_timeout=visibility_timeout,
        endpoint_url=settings.queue.endpoint_url or settings.aws.endpoint_url,
    )


@dataclass
class _Lease:
    """When a message was received, and until when it is hidden from others."""

    received: float
    ends: float


@implementer(IQueue)
class SqsQueue(Service):
    """
    A standard queue of SQS.

    It works without being started; stopped, it waits for what is under way.

    :param name: for logs and metrics.
    :param url: of the queue.  It also says where the service is, and in which region.
    :param visibility_timeout: of what is received, in seconds.
    :param endpoint_url: in place of the service that the URL names.
    """

    def __init__(
        self,
        client: AwsClient,
        *,
        name: str,
        url: str,
        visibility_timeout: int,
        endpoint_url: str | None = None,
    ) -> None:
        self.name = name
        self._client = client
        self._clock = client.clock
        self._url = url
        self._visibility_timeout = visibility_timeout
        endpoint, region = place(url)
        self._service = client.service("sqs", endpoint_url=endpoint_url or endpoint, region=region)
        self._deletes = Batcher(self._clock, self._send_deletes)
        self._visibilities = Batcher(self._clock, self._send_visibilities)
        self._leases: dict[str, _Lease] = {}
        self._polls: set[Deferred[list[Message]]] = set()

    def startService(self) -> None:
        super().startService()
        self._client.acquire()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._polls:
            polls = list(self._polls)
            overdue = self._clock.callLater(STOP_GRACE, _cancel, polls)
            await DeferredList(polls)
            if overdue.active():
                overdue.cancel()
        await self._visibilities.drain()
        await self._deletes.drain()
        await self._client.release()

    async def send(self, *, body: str) -> None:
        answer = await self._call(
            "SendMessage", {"MessageBody": body}, timeout=SEND_TIMEOUT, max_attempts=SEND_TRIES
        )
        if answer.get("MD5OfMessageBody") != _md5(body):
            raise QueueError(f"sqs:SendMessage {self._url}: SQS got another body than ours")

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        """
        Receive messages by a long poll.

        When this is cancelled the poll goes on until it ends by itself, because SQS may be
        about to answer it: what it brings is handed back at once.
        """
        if not 1 <= max_messages <= MAX_MESSAGES:
            raise ValueError(f"max_messages is {max_messages}")
        if not 0 <= wait <= MAX_WAIT:
            raise ValueError(f"wait is {wait}")
        waiter: Deferred[list[Message]] = Deferred()
        hidden = self._visibility_timeout if visibility is None else math.ceil(visibility)
        poll = Deferred.fromCoroutine(self._poll(max_messages, math.ceil(wait), hidden))
        self._polls.add(poll)

        def landed(outcome: list[Message] | Failure) -> None:
            self._polls.discard(poll)
            if not waiter.called:
                waiter.callback(outcome)
            elif not isinstance(outcome, Failure):
                for message in outcome:
                    self._hand_back(message)

        poll.addBoth(landed)
        try:
            return await waiter
        except GeneratorExit:
            waiter.cancel()
            waiter.addErrback(lambda failure: None)
            raise

    async def _poll(self, max_messages: int, wait: int, hidden: int) -> list[Message]:
        answer = await self._call(
            "ReceiveMessage",
            {
                "MaxNumberOfMessages": max_messages,
                "WaitTimeSeconds": wait,
                "VisibilityTimeout": hidden,
                "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
            },
            timeout=wait + TIMEOUT,
            max_attempts=RECEIVE_TRIES,
        )
        now = self._clock.seconds()
        self._leases = {
            receipt: lease
            for receipt, lease in self._leases.items()
            if lease.ends > now - LEASES_KEPT
        }
        messages = []
        for members in answer.get("Messages") or ():
            message = _message(members, now)
            if message is None:
                # It comes back, and with luck whole.
                _log.error(
                    "Message {id} of {queue} is damaged", id=members.get("MessageId"), queue=self
                )
                continue
            self._leases[message.receipt_handle] = _Lease(now, now + hidden)
            messages.append(message)
        return messages

    def _hand_back(self, message: Message) -> None:
        def failed(failure: Failure) -> None:
            _log.info(
                "Cannot hand back message {id} of {queue}: {error}",
                id=message.message_id,
                queue=self,
                error=failure.value,
            )

        Deferred.fromCoroutine(self.extend(message=message, visibility=0)).addErrback(failed)

    async def extend(self, *, message: Message, visibility: float) -> None:
        lease = self._lease(message)
        now = self._clock.seconds()
        left = int(lease.received + MAX_HELD - now)
        if lease.ends <= now or left <= 0:
            raise LeaseLost(f"message {message.message_id} of {self.name}: its time was up")
        seconds = min(left, math.ceil(max(0, visibility)))
        try:
            with self._errors():
                await self._visibilities.add(
                    {"ReceiptHandle": message.receipt_handle, "VisibilityTimeout": seconds}
                )
        except EntryRefused as error:
            text = f"sqs:ChangeMessageVisibilityBatch {self._url}: {error}"
            if _short(error.code) in LOST:
                lease.ends = self._clock.seconds()
                raise LeaseLost(text) from error
            raise QueueError(text) from error
        lease.ends = now + seconds

    async def delete(self, *, message: Message) -> None:
        lease = self._lease(message)
        if lease.ends <= self._clock.seconds():
            return
        try:
            with self._errors():
                await self._deletes.add({"ReceiptHandle": message.receipt_handle})
        except EntryRefused as error:
            if _short(error.code) not in LOST:
                raise QueueError(f"sqs:DeleteMessageBatch {self._url}: {error}") from error
        # SQS knows that it is gone.  Whoever handles many messages would remember a whole
        # hour of them, and go through all of these at each receive.
        self._leases.pop(message.receipt_handle, None)

    def _lease(self, message: Message) -> _Lease:
        """
        For how long the message is hidden for us, as far as we know: of one that another
        object received, only SQS knows.

        SQS may accept a receipt when the message is somebody else's already.
        """
        known = self._leases.get(message.receipt_handle)
        return known or _Lease(self._clock.seconds(), float("inf"))

    async def depth(self) -> QueueDepth:
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        )
        answer = await self._call("GetQueueAttributes", {"AttributeNames": list(names)})
        attributes = answer.get("Attributes", {})
        visible, delayed, in_flight = (_number(attributes.get(name), 0) for name in names)
        return QueueDepth(visible=visible + delayed, in_flight=in_flight)

    async def check(self) -> None:
        await self._call("GetQueueAttributes", {"AttributeNames": ["QueueArn"]})

    async def _send_deletes(self, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return await self._batch("DeleteMessageBatch", entries)

    async def _send_visibilities(self, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return await self._batch("ChangeMessageVisibilityBatch", entries)

    async def _batch(
        self, operation: str, entries: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        answer = await self._service.call(
            operation, {"QueueUrl": self._url, "Entries": entries}, timeout=TIMEOUT
        )
        return answer.members

    async def _call(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        timeout: float = TIMEOUT,
        max_attempts: int | None = None,
    ) -> Mapping[str, Any]:
        with self._errors():
            answer = await self._service.call(
                operation,
                {"QueueUrl": self._url, **parameters},
                timeout=timeout,
                max_attempts=max_attempts,
            )
        return answer.members

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AwsError as error:
            raise QueueError(str(error)) from error

    def __repr__(self) -> str:
        return f"<SqsQueue {self.name!r}>"


def place(url: str) -> tuple[str | None, str | None]:
    """
    Where the service of a queue is.

    :param url: of the queue.
    :returns: the endpoint, and the region if the URL tells; None for the endpoint of an old
        URL, whose host is not for our protocol.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.endswith("queue.amazonaws.com"):
        return None, host.split(".")[0] if host.count(".") == 3 else None
    match = _REGION.fullmatch(host)
    return f"{parts.scheme}://{parts.netloc}", match.group(1) if match else None


def _message(members: Mapping[str, Any], now: float) -> Message | None:
    """
    A message as SQS gives it.

    :returns: None if it is not what SQS says that it is.
    """
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


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isdecimal() else otherwise


def _cancel(polls: Sequence[Deferred[Any]]) -> None:
    for poll in polls:
        poll.cancel()


def _md5(body: str) -> str:
    return hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _short(code: str) -> str:
    """``MessageNotInflight`` of ``AWS.SimpleQueueService.MessageNotInflight``."""
    return re.split(r"[.#]", code)[-1]
