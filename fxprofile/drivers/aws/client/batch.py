"""
Batches of SQS requests: up to ten small requests in one call.

botocore and boto3 leave batching to their callers.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.drivers.aws.client.errors import AwsError, AwsRefused
from fxprofile.drivers.aws.client.wire import Members

#: SQS's limits on a batch: entries, and bytes of the whole request.
MAX_ENTRIES: Final = 10
MAX_BYTES: Final = 250_000

#: Seconds that an entry waits at most for others while a batch is in flight.
LINGER: Final = 0.2

#: Attempts of an entry that AWS failed to process.
ATTEMPTS: Final = 3

_log = Logger()

#: Calls a batch operation with entries that have an ``Id`` each; returns its result, with
#: ``Successful`` and ``Failed``.
SendBatch = Callable[[Sequence[Members]], Awaitable[Members]]


class EntryRefused(AwsRefused):
    """AWS accepted the batch and refused one entry of it."""


@dataclass
class _Entry:
    members: Members
    done: Deferred[None]
    size: int
    attempts: int = 0


class Batcher:
    """
    Combines concurrent requests into batches.

    While no batch is in flight, an entry is sent at once, with the others of the same reactor
    iteration.  While one is in flight, entries wait until it is done, a batch is full, or the
    linger time has passed.

    :param name: of the operation, for the text of an error.
    :param send: calls the operation.
    """

    def __init__(self, clock: IReactorTime, name: str, send: SendBatch) -> None:
        self._clock = clock
        self._name = name
        self._send = send
        self._waiting: deque[_Entry] = deque()
        self._in_flight: set[Deferred[None]] = set()
        self._timer: IDelayedCall | None = None

    def add(self, members: Members) -> Deferred[None]:
        """
        Send an entry.  Cancelling stops the waiting and not the entry.

        :returns: fires when AWS has processed it; fails with :class:`EntryRefused`, or with
            the :class:`AwsError` of the whole batch.
        """
        entry = _Entry(members, Deferred(), len(json.dumps(members)))
        self._enqueue(entry)
        return entry.done

    async def drain(self) -> None:
        """Send everything that waits, and wait for everything in flight."""
        while self._waiting or self._in_flight:
            self._flush()
            await DeferredList(list(self._in_flight))

    def _enqueue(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if len(self._waiting) >= MAX_ENTRIES:
            self._flush()
        elif self._timer is None:
            linger = LINGER if self._in_flight else 0
            self._timer = self._clock.callLater(linger, self._flush)

    def _flush(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        while self._waiting:
            batch: list[_Entry] = []
            size = 0
            while self._waiting and len(batch) < MAX_ENTRIES:
                size += self._waiting[0].size
                if batch and size > MAX_BYTES:
                    break
                batch.append(self._waiting.popleft())
            self._start(self._process(batch))

    def _start(self, work: Coroutine[Deferred[object], object, None]) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        self._in_flight.add(running)

        def done(outcome: object) -> None:
            self._in_flight.discard(running)
            if isinstance(outcome, Failure):
                _log.failure("A batch failed", failure=outcome)
            if self._waiting and not self._in_flight:
                self._flush()

        running.addBoth(done)

    async def _process(self, batch: list[_Entry]) -> None:
        entries = [{"Id": str(number), **entry.members} for number, entry in enumerate(batch)]
        try:
            result = await self._send(entries)
        except Exception as error:
            expected = isinstance(error, AwsError)
            text = f"the batch was abandoned: {error!r:.80}"
            for entry in batch:
                _fail(entry, error if expected else AwsError(text, code="Abandoned"))
            if expected:
                return
            raise
        succeeded = {entry.get("Id") for entry in result.get("Successful", ())}
        failed = {entry.get("Id"): entry for entry in result.get("Failed", ())}
        for number, entry in enumerate(batch):
            if str(number) not in succeeded:
                # An entry that the result does not mention has failed too.
                self._retry_or_fail(entry, failed.get(str(number), {}))
            elif not entry.done.called:
                entry.done.callback(None)

    def _retry_or_fail(self, entry: _Entry, result: Members) -> None:
        entry.attempts += 1
        if result.get("SenderFault") or entry.attempts >= ATTEMPTS:
            code = str(result.get("Code", "NoResult"))
            text = f"{self._name}: {code}: {result.get('Message', '')}"
            _fail(entry, EntryRefused(text, code=code))
        else:
            self._start(self._enqueue_later(entry))

    async def _enqueue_later(self, entry: _Entry) -> None:
        await deferLater(self._clock, LINGER * 2**entry.attempts)
        self._enqueue(entry)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.done.called:
        entry.done.errback(error)
    else:
        _log.info("An abandoned batch entry failed: {error}", error=error)
