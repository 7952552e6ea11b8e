"""
What follows when a profile changes: it is kept no longer, and those are told who follow
profiles.

A cache that is out of reach holds up no change.  It hears of it when it is back, and
until then what it has of that user is shown to nobody by this process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from fxprofile.deferreds.tasks import detached
from fxprofile.model.errors import CacheError, DriverError
from fxprofile.model.ports import IProfileCache, IQueue
from fxprofile.telemetry.metrics import Metrics

#: What is kept of more users than these, and should not be, lasts until ``cache.ttl`` ends.
MAX_OWED: Final = 100_000


@dataclass
class Reading:
    """
    A profile that is being read.

    :ivar stale: whether it has changed since the reading began.
    """

    stale: bool = False


class Changes:
    """
    Tells whoever keeps or follows profiles that one has changed.

    :param updates: the queue that other services read, if there is one.
    :param max_owed: users that the cache can be owed a word about.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        cache: IProfileCache,
        updates: IQueue | None,
        metrics: Metrics,
        max_owed: int = MAX_OWED,
    ) -> None:
        self._max_owed = max_owed
        self._cache = cache
        self._updates = updates
        self._metrics = metrics
        self._sending: set[Deferred[None]] = set()
        # The users of whose last change the cache could not be told, the oldest first.
        self._owed: dict[str, object] = {}
        self._paying: Deferred[None] | None = None
        self._readings: dict[str, list[Reading]] = {}

    @contextmanager
    def reading(self, uid: str) -> Iterator[Reading]:
        """Note whether the profile of a user changes while it is read."""
        reading = Reading()
        readings = self._readings.setdefault(uid, [])
        readings.append(reading)
        try:
            yield reading
        finally:
            readings.remove(reading)
            if not readings:
                del self._readings[uid]

    async def announce(self, uid: str) -> None:
        """Drop the kept profile of a user, and tell the updates queue, in its own time."""
        await self.forget(uid)
        if self._updates is not None:
            sending = detached(self._send(self._updates, uid))
            self._sending.add(sending)
            sending.addBoth(lambda _: self._sending.discard(sending))

    async def told(self) -> None:
        """Wait until the updates queue has heard of everything, or could not be told."""
        for sending in list(self._sending):
            await sending

    async def forget(self, uid: str) -> None:
        """Drop the kept profile of a user, and what is being read to be kept."""
        for reading in self._readings.get(uid, ()):
            reading.stale = True
        await self.drop(uid)

    async def drop(self, uid: str) -> None:
        """Drop the kept profile of a user, or see to it that nobody here is shown it."""
        try:
            await self._pay(uid)
        except CacheError as error:
            self._owed.pop(uid, None)
            self._owed[uid] = object()
            if len(self._owed) > self._max_owed:
                del self._owed[next(iter(self._owed))]
            self._survived("cache", error)

    async def heard(self, uid: str) -> bool:
        """
        Whether the cache has heard of every change of a user that was made here.

        If it was out of reach then, it is told now; also of those of other users, which
        nobody waits for.
        """
        if not self._owed:
            return True
        if self._paying is None:
            self._paying = detached(self._pay_all())
            self._paying.addBoth(self._paid)
        try:
            if uid in self._owed:
                await self._pay(uid)
        except CacheError:
            return False
        return uid not in self._owed

    async def _pay_all(self) -> None:
        with suppress(CacheError):
            for uid in list(self._owed):
                if uid in self._owed:
                    await self._pay(uid)

    def _paid(self, outcome: object) -> object:
        self._paying = None
        return outcome

    async def _pay(self, uid: str) -> None:
        owed = self._owed.get(uid)
        await self._cache.drop(uid=uid)
        # There may be a later change that the cache has not heard of.
        if owed is not None and self._owed.get(uid) is owed:
            del self._owed[uid]

    async def _send(self, updates: IQueue, uid: str) -> None:
        try:
            await updates.send(body=json.dumps({"Message": json.dumps({"uid": uid})}))
        except DriverError as error:
            self._survived("updates", error)

    def _survived(self, upstream: str, error: Exception) -> None:
        self._metrics.upstream_errors.labels(upstream).inc()
        self._log.warn("Going on without the {upstream}: {error}", upstream=upstream, error=error)
