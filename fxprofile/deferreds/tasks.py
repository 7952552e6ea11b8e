"""Sleep on a clock, and run work that outlives its waiter."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from fxprofile.model.errors import AccountUnknown, DriverError

T = TypeVar("T")

_log = Logger()


def sleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Wait so many seconds; cancelling it wakes with ``CancelledError``."""
    return deferLater(clock, seconds)


def detached(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Run work to its end, whoever stops waiting for it.

    :returns: the outcome.  Cancelling this gives up the waiting and not the work; if
        nobody waits any longer, a failure is logged.
    """
    waiter: Deferred[T] = Deferred()

    def failed(failure: Any) -> None:
        if not waiter.called:
            waiter.errback(failure)
        elif failure.check(DriverError, AccountUnknown):
            # No fault of ours, and in an outage there are many.
            _log.warn("Work that nobody waits for any longer failed: {error}", error=failure.value)
        else:
            _log.failure("Work that nobody waits for any longer failed", failure=failure)

    def done(value: T) -> None:
        if not waiter.called:
            waiter.callback(value)

    Deferred.fromCoroutine(work).addCallbacks(done, failed).addErrback(
        lambda failure: _log.failure("A waiter failed", failure=failure)
    )
    return waiter
