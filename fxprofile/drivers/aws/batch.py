"""
Many small requests in few calls.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.deferreds.tasks import sleep
from fxprofile.drivers.aws.errors import AwsError

#: SQS's limits on a batch: entries, and bytes of the whole request.
MAX_ENTRIES: Final = 10
MAX_BYTES: Final = 250_000

#: Seconds that an entry waits at most for others, while a batch is under way.
LINGER: Final = 0.2

#: Tries of an entry that AWS could not serve.
TRIES: Final = 3

_log = Logger()

#: Makes one call of entries that have an ``Id`` each; gives ``Successful`` and ``Failed``.
Send = Callable[[Sequence[Mapping[str, Any]]], Awaitable[Mapping[str, Any]]]


class EntryRefused(Exception):
    """
    AWS took the batch, and refused one entry of it.

    :ivar code: its word for the error.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass
class _Entry:
    members: Mapping[str, Any]
    waiter: Deferred[None]
    size: int
    tries: int = field(default=0)


class Batcher:
    """
    Puts entries into batches.

    An entry that comes when nothing is under way goes at once; one that comes while a batch
    is under way waits until that is back, or a batch is full, or it has waited long enough.

    :param send: makes the call of a batch.
    """

    def __init__(self, clock: IReactorTime, send: Send, linger: float = LINGER) -> None:
        self._clock = clock
        self._send = send
        self._linger = linger
        self._waiting: list[_Entry] = []
        self._under_way: set[Deferred[None]] = set()
        self._timer: IDelayedCall | None = None

    def add(self, members: Mapping[str, Any]) -> Deferred[None]:
        """
        Have an entry sent.  Cancelling this gives up the waiting and not the entry.

        :returns: fires when AWS has taken it; with :class:`EntryRefused`, or with the
            :class:`AwsError` of the whole batch, if it has not.
        """
        entry = _Entry(members, Deferred(), len(json.dumps(members)))
        self._put(entry)
        return entry.waiter

    async def drain(self) -> None:
        """Send what waits, and wait for what is under way."""
        while self._waiting or self._under_way:
            self._flush()
            await DeferredList(list(self._under_way))

    def _put(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        if len(self._waiting) >= MAX_ENTRIES:
            self._flush()
        elif self._timer is None:
            # Those of the same turn of the reactor go together in any case.
            linger = self._linger if self._under_way else 0
            self._timer = self._clock.callLater(linger, self._flush)

    def _flush(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
        while self._waiting:
            batch = [self._waiting.pop(0)]
            size = batch[0].size
            while (
                self._waiting
                and len(batch) < MAX_ENTRIES
                and size + self._waiting[0].size <= MAX_BYTES
            ):
                size += self._waiting[0].size
                batch.append(self._waiting.pop(0))
            self._start(self._run(batch))

    def _start(self, work: Any) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        self._under_way.add(running)

        def done(outcome: object) -> None:
            self._under_way.discard(running)
            if isinstance(outcome, Failure):
                _log.failure("A batch failed", failure=outcome)
            if self._waiting and not self._under_way:
                self._flush()

        running.addBoth(done)

    async def _run(self, batch: list[_Entry]) -> None:
        try:
            answer = await self._send(
                [{"Id": str(number), **entry.members} for number, entry in enumerate(batch)]
            )
        except AwsError as error:
            for entry in batch:
                _fail(entry, error)
            return
        except Exception as error:
            for entry in batch:
                _fail(entry, AwsError(f"the batch was given up: {error!r:.80}", code="GivenUp"))
            raise
        done = {result.get("Id") for result in answer.get("Successful", ())}
        failed = {result.get("Id"): result for result in answer.get("Failed", ())}
        for number, entry in enumerate(batch):
            if str(number) in done:
                _finish(entry)
            else:
                # One that AWS says nothing of has failed as well.
                self._refused(entry, failed.get(str(number), {}))

    def _refused(self, entry: _Entry, result: Mapping[str, Any]) -> None:
        entry.tries += 1
        error = EntryRefused(str(result.get("Code", "NoResult")), str(result.get("Message", "")))
        if result.get("SenderFault") or entry.tries >= TRIES:
            _fail(entry, error)
        else:
            self._start(self._put_later(entry))

    async def _put_later(self, entry: _Entry) -> None:
        await sleep(self._clock, self._linger * 2**entry.tries)
        self._put(entry)


def _finish(entry: _Entry) -> None:
    if not entry.waiter.called:
        entry.waiter.callback(None)


def _fail(entry: _Entry, error: Exception) -> None:
    if not entry.waiter.called:
        entry.waiter.errback(error)
    else:
        _log.info("A batch entry that nobody waits for any longer failed: {error}", error=error)
