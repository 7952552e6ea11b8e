"""
Batches of SQS requests: up to ten small requests in one call.

botocore and boto3 leave batching to their callers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, TypeAlias

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fxprofile.deferreds.tasks import detached
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError, AwsRefused
from fxprofile.drivers.aws.client.wire import Members

#: SQS's limit on the entries of a batch.  Ten receipt handles, of at most 1024 characters each, or
#: ten messages of this service are far below its limit on the bytes.
MAX_ENTRIES: Final = 10

#: Seconds that an entry waits at most for others while a batch is in flight.
LINGER: Final = 0.2

#: Attempts of an entry that AWS failed to process.
ATTEMPTS: Final = 3

#: Whether AWS has processed an entry, and its part of the result.
_Outcome: TypeAlias = tuple[bool, Members]

_log = Logger()


class EntryRefused(AwsRefused):
    """AWS accepted the batch and refused one entry of it."""


@attrs.define(eq=False, slots=False)
class Batcher:
    """
    Combines concurrent requests into batches.

    While no batch is in flight, an entry is sent at once, with the others of the same reactor
    iteration.  While one is in flight, entries wait until it is done, a batch is full, or the
    linger time has passed.

    :param service: SQS.
    :param operation: a batch operation, by AWS's name.
    :param url: of the queue.
    :param timeout: seconds without progress after which a batch fails.
    :param options: further options of the calls.
    """

    _service: AwsService
    _operation: str
    _url: str
    _timeout: float
    _options: Mapping[str, Any] = attrs.field(factory=dict)
    # Entries to be sent, each with its part of the result.
    _waiting: list[tuple[Members, Deferred[_Outcome]]] = attrs.field(factory=list, init=False)
    _deliveries: set[Deferred[None]] = attrs.field(factory=set, init=False)
    _in_flight: int = attrs.field(default=0, init=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False)

    def add(self, members: Members) -> Deferred[Members]:
        """
        Send an entry.  Cancelling stops the waiting and not the entry.

        :returns: fires with its part of the result when AWS has processed it; fails with
            :class:`EntryRefused`, or with the :class:`AwsError` of the whole batch.
        """
        return detached(self._deliver(members))

    async def drain(self) -> None:
        """Send everything that waits, and wait for everything in flight."""
        while self._deliveries:
            self._flush()
            await DeferredList(list(self._deliveries))

    async def _deliver(self, members: Members) -> Members:
        ended: Deferred[None] = Deferred()
        self._deliveries.add(ended)
        try:
            attempt = 0
            while True:
                attempt += 1
                succeeded, result = await self._enqueue(members)
                if succeeded:
                    return result
                if result.get("SenderFault") or attempt == ATTEMPTS:
                    code = str(result.get("Code", "NoResult"))
                    name = f"sqs:{self._operation} {self._url}"
                    text = f"{name}: {code}: {result.get('Message', '')}"
                    raise EntryRefused(text, code=code)
                await deferLater(self._service.client.clock, LINGER * 2**attempt)
        finally:
            self._deliveries.discard(ended)
            ended.callback(None)

    def _enqueue(self, members: Members) -> Deferred[_Outcome]:
        outcome: Deferred[_Outcome] = Deferred()
        self._waiting.append((members, outcome))
        if len(self._waiting) >= MAX_ENTRIES:
            self._flush()
        elif self._timer is None:
            linger = LINGER if self._in_flight else 0
            # The request belongs to the trace of the first entry.
            flush = copy_context().run
            self._timer = self._service.client.clock.callLater(linger, flush, self._flush)
        return outcome

    def _flush(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_ENTRIES], self._waiting[MAX_ENTRIES:]
            Deferred.fromCoroutine(self._process(batch))

    async def _process(self, batch: Sequence[tuple[Members, Deferred[_Outcome]]]) -> None:
        self._in_flight += 1
        try:
            entries = [{"Id": str(number), **entry} for number, (entry, _) in enumerate(batch)]
            parameters = {"QueueUrl": self._url, "Entries": entries}
            response = await self._service.call(
                self._operation, parameters, timeout=self._timeout, **self._options
            )
            result = response.members
            succeeded = {entry.get("Id"): entry for entry in result.get("Successful", ())}
            failed = {entry.get("Id"): entry for entry in result.get("Failed", ())}
        except Exception as error:
            if not isinstance(error, AwsError):
                _log.failure("A batch failed")
                error = AwsError(f"the batch was abandoned: {error!r:.80}", code="Abandoned")
            for _, outcome in batch:
                outcome.errback(error)
        else:
            for number, (_, outcome) in enumerate(batch):
                # An entry that the result does not mention has failed too.
                key = str(number)
                entry = succeeded.get(key)
                outcome.callback((False, failed.get(key, {})) if entry is None else (True, entry))
        self._in_flight -= 1
        if self._waiting and not self._in_flight:
            self._flush()
