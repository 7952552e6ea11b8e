"""
Load shedding: refuse uploads before their body is read while there is too much to do.

An upload that is accepted should be processed soon.  So uploads are refused as long as the
pending rows would take too long, or have waited too long already; so is a user whose uploads
are not processed as fast as they come, and any upload for which there is no room.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime

from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import BackendUnavailable, StoreError, TooManyRequests
from fxprofile.model.ports import Backlog, IProfileStore
from fxprofile.telemetry.metrics import Metrics

#: Seconds for which a look at the backlog and at the disk is reused.
FRESH: Final = 1

#: Seconds for reading the backlog; a database that takes longer has too much to do already.
LOOK_WAIT: Final = 2.0

#: Seconds for which an upload in progress counts as pending.  A client that sends its body more
#: slowly must not keep others out.
BRIEF: Final = 2

#: Rows that do not count as old, because jobs that are retried wait on purpose.
STRAGGLERS: Final = 9

#: A backlog of so many rows is accepted at any rate, so that a burst after a quiet time is.
SHORT: Final = 100

#: Seconds over which the drain rate is averaged.
SMOOTHING: Final = 5

#: Superseded uploads of a user whose jobs are on the queue, at most.
MAX_SUPERSEDED: Final = 10

#: The Retry-After if the drain rate is unknown, and the longest one, in seconds.
RETRY_AFTER: Final = 10
MAX_RETRY_AFTER: Final = 60


@dataclass(eq=False)
class _Upload:
    """An upload that this process has admitted, and the time until which it counts."""

    uid: str
    length: int
    until: float
    ended: bool = False


@dataclass(kw_only=True, eq=False)
class LoadShedder:
    """
    Refuses uploads while there is too much to do.

    The backlog of all processes is read from the store at most once a second; the uploads that
    this process has admitted and that are not part of it yet are added.

    :param room: returns how many bytes uploads may still take on the disk; None: unlimited.
    :param max_pending: the setting ``uploads.max_pending``.
    :param max_pending_per_user: the setting ``uploads.max_pending_per_user``.
    :param max_age: the setting ``uploads.max_age``.
    """

    store: IProfileStore
    metrics: Metrics
    clock: IReactorTime
    max_pending: int
    max_pending_per_user: int
    max_age: float
    room: Callable[[], Awaitable[float]] | None = None
    _read_at: float = field(init=False, default=-math.inf)
    _backlog: Backlog = field(init=False, default=Backlog(0, None, 0))
    _room: float = field(init=False, default=math.inf)
    # Rows that leave the backlog, each second.
    _rate: float = field(init=False, default=0.0)
    _reads: SingleFlight[str, None] = field(init=False, default_factory=SingleFlight)
    # An ordered set of those in progress, and those that have ended since the last look.
    _uploads: dict[_Upload, None] = field(init=False, default_factory=dict)

    @asynccontextmanager
    async def admitted(self, *, uid: str, length: int) -> AsyncIterator[int]:
        """
        Reserve a place in the backlog, and room on the disk, while an upload is accepted.

        :param length: of the body, in bytes.
        :returns: how many uploads of the user may stay in processing: only the newest one if the
            backlog is old.
        :raises BackendUnavailable: if there is too much to do, or no room.
        :raises TooManyRequests: if too many uploads of this user are pending.
        :raises DriverError: if this is unknown.
        """
        reading = Deferred.fromCoroutine(self._read(uid))
        try:
            rows = await reading.addTimeout(LOOK_WAIT, self.clock)
        except WaitTimeout:
            raise StoreError(f"the backlog was not read in {LOOK_WAIT:g} s") from None
        new = [u for u in self._uploads if u.ended or u.until > self.clock.seconds()]
        retry_after = self._retry_after(self._backlog.rows + len(new))
        rows += sum(upload.uid == uid and not upload.ended for upload in new)
        if rows >= self.max_pending_per_user + MAX_SUPERSEDED:
            self.metrics.shed.labels("user").inc()
            raise TooManyRequests(retry_after=retry_after)
        if reason := self._overload(len(new), sum(u.length for u in new) + length):
            self.metrics.shed.labels(reason).inc()
            raise BackendUnavailable(
                "There are too many uploads at the moment; try again later.",
                headers={"Retry-After": str(retry_after)},
            )
        upload = _Upload(uid, length, self.clock.seconds() + BRIEF)
        self._uploads[upload] = None
        try:
            yield 1 if self._age > self.max_age / 4 else self.max_pending_per_user
        except BaseException:
            # It has left no row, and must not keep others out.
            self._uploads.pop(upload, None)
            raise
        finally:
            upload.ended = True

    async def _read(self, uid: str) -> int:
        """Return how many uploads of a user are pending, and refresh the backlog."""
        rows: int = await self.store.pending_of(uid=uid)
        if not 0 <= self.clock.seconds() - self._read_at < FRESH:
            await self._reads.join("backlog", self.look)
        return rows

    @property
    def _age(self) -> float:
        """Seconds for which more rows than the stragglers have been pending."""
        since = self._backlog.since
        return 0 if since is None else self.clock.seconds() - since

    def _overload(self, new: int, length: int) -> str:
        """
        Return what there is too much of, or an empty text.

        :param new: how many uploads the backlog does not contain yet.
        :param length: of these and of the next one, in bytes.
        """
        pending = self._backlog.rows + new
        if length > self._room:
            return "storage"
        if pending >= self.max_pending:
            return "pending"
        if self._age > self.max_age:
            return "age"
        if pending >= max(SHORT, self._rate * self.max_age):
            return "rate"
        return ""

    def _retry_after(self, pending: int) -> int:
        """Return the seconds in which so many rows leave the backlog."""
        seconds = pending / self._rate if self._rate else RETRY_AFTER
        return math.ceil(min(max(seconds, 1), MAX_RETRY_AFTER))

    async def look(self) -> None:
        """Read the backlog and the room on the disk."""
        ended = [upload for upload in self._uploads if upload.ended]
        if self.room is not None:
            self._room = await self.room()
        backlog = await self.store.backlog(limit=self.max_pending, skip=STRAGGLERS)
        now = self.clock.seconds()
        self._measure(backlog, now - self._read_at)
        self._backlog, self._read_at = backlog, now
        # Uploads that had ended before the look are part of what it has found.
        for upload in ended:
            self._uploads.pop(upload, None)

    def _measure(self, backlog: Backlog, seconds: float) -> None:
        """Update the drain rate with the rows that have left the backlog since the last look."""
        last = self._backlog
        if not 0 < seconds < math.inf:
            return
        drained = (backlog.accepted - last.accepted) - (backlog.rows - last.rows)
        rate = max(0, drained) / seconds
        if min(backlog.rows, last.rows) >= SHORT:
            self._rate += (rate - self._rate) * min(1, seconds / SMOOTHING)
        else:
            # With little to do, it could have been faster.
            self._rate = max(self._rate, rate)
