"""
What follows a change of a profile: its cached copies are invalidated, and other services are
notified.

A write succeeds even if the cache is unreachable.  Its invalidation is then retried, and until
it has succeeded this process neither serves that user from the cache nor stores the profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.tasks import detached, sleep
from fxprofile.model.errors import DriverError
from fxprofile.model.ports import IProfileCache, IQueue
from fxprofile.telemetry.metrics import Metrics

#: Invalidations that are retried.  Beyond this, the oldest ones wait for ``cache.ttl`` to end.
MAX_PENDING: Final = 100_000

#: The pause between retries, in seconds.
RETRIES: Final = Backoff(first=0.5, cap=5, shortest=0.5)


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class ProfileInvalidator(Service):
    """
    Invalidates cached profiles and notifies other services of changes.

    :param updates: the queue that other services read, or None.
    :param max_pending: how many invalidations are retried.
    :param backoff: the pauses between retries.
    """

    name = "profile invalidation"
    _log = Logger()

    _cache: IProfileCache
    _updates: IQueue | None
    _metrics: Metrics
    _clock: IReactorTime
    _max_pending: int = MAX_PENDING
    _backoff: Backoff = RETRIES
    _sending: set[Deferred[None]] = attrs.field(factory=set, init=False)
    # The latest change of each user that the cache may not know of, the oldest first.
    _pending: dict[str, object] = attrs.field(factory=dict, init=False)
    _retries: Deferred[None] | None = attrs.field(default=None, init=False)

    async def profile_changed(self, uid: str) -> None:
        """Invalidate the cached profile of a user, and notify other services in background."""
        await self.invalidate(uid)
        if self._updates is not None:
            sending = detached(self._send(self._updates, uid))
            self._sending.add(sending)
            sending.addBoth(lambda _: self._sending.discard(sending))

    async def invalidate(self, uid: str) -> None:
        """
        Invalidate the cached profile of a user.

        This raises no error: an invalidation that fails is retried.
        """
        self._pending.pop(uid, None)
        self._pending[uid] = object()
        try:
            with self._reporting("cache"):
                await self._invalidate(uid)
        finally:
            if len(self._pending) > self._max_pending:
                del self._pending[next(iter(self._pending))]
            if uid in self._pending and self.running and self._retries is None:
                self._retries = Deferred.fromCoroutine(self._retry())

    def is_current(self, uid: str) -> bool:
        """Return whether the cache knows of every change of a user that this process made."""
        return uid not in self._pending

    async def flush_pending(self) -> None:
        """
        Retry the pending invalidations.

        :raises CacheError: if the cache is still unreachable.
        """
        for uid in list(self._pending):
            await self._invalidate(uid)

    async def flush_updates(self) -> None:
        """Wait until the notifications of all changes so far were sent, or failed."""
        for sending in list(self._sending):
            await sending

    def stopService(self) -> Deferred[None]:
        """Try once more to flush the pending invalidations, and stop retrying."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        retries, self._retries = self._retries, None
        if retries is not None:
            retries.cancel()
        with self._reporting("cache"):
            await self.flush_pending()

    async def _invalidate(self, uid: str) -> None:
        change = self._pending.get(uid)
        await self._cache.invalidate(uid=uid)
        # A later change, whose own invalidation may have failed, is still pending.
        if self._pending.get(uid) is change:
            self._pending.pop(uid, None)

    async def _retry(self) -> None:
        failures = 1
        with suppress(CancelledError):
            while self._pending:
                await sleep(self._clock, self._backoff.delay(failures))
                failures += 1
                with self._reporting("cache"):
                    await self.flush_pending()
        self._retries = None

    async def _send(self, updates: IQueue, uid: str) -> None:
        with self._reporting("updates"):
            await updates.send(body=json.dumps({"Message": json.dumps({"uid": uid})}))

    @contextmanager
    def _reporting(self, upstream: str) -> Iterator[None]:
        """Log and count an error of the cache or the updates queue, and suppress it."""
        try:
            yield
        except DriverError as error:
            self._metrics.upstream_errors.labels(upstream).inc()
            self._log.warn(
                "Cannot notify the {upstream} of a profile change: {error}",
                upstream=upstream,
                error=error,
            )
