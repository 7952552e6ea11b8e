"""Sleep on a clock, and run work together or detached."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.deferreds.errors import ExpectedError

T = TypeVar("T")

_log = Logger()


def sleep(clock: IReactorTime, seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after so many seconds."""
    return deferLater(clock, seconds)


def detached(work: Coroutine[Deferred[object], object, T]) -> Deferred[T]:
    """
    Run work to its end, even if its waiter is cancelled.

    :returns: the outcome.  Cancelling it stops waiting; a later failure is logged.
    """
    waiter: Deferred[T] = Deferred()

    def failed(failure: Failure) -> None:
        if not waiter.called:
            waiter.errback(failure)
        elif failure.check(ExpectedError):
            # An outage is not a bug, and causes many of these.
            _log.warn("Detached work failed: {error}", error=failure.value)
        else:
            _log.failure("Detached work failed", failure=failure)

    def done(value: T) -> None:
        if not waiter.called:
            waiter.callback(value)

    Deferred.fromCoroutine(work).addCallbacks(done, failed).addErrback(
        lambda failure: _log.failure("The callback of detached work failed", failure=failure)
    )
    return waiter


async def all_done(works: Iterable[Coroutine[Deferred[object], object, object]]) -> None:
    """
    Run works at the same time, and wait until all of them have ended.

    Twisted's ``gatherResults`` returns at the first failure, while others still run.

    :raises Exception: the error of the first one that failed, in their order.
    """
    running = [Deferred.fromCoroutine(work) for work in works]
    # Cancelling the list cancels each of them.
    for succeeded, outcome in await DeferredList(running, consumeErrors=True):
        if not succeeded and isinstance(outcome, Failure):
            outcome.raiseException()


async def briefly(
    work: Coroutine[Deferred[object], object, object], seconds: float, clock: IReactorTime
) -> None:
    """Run work to its end, but wait for it for at most so many seconds."""
    with suppress(WaitTimeout):
        await detached(work).addTimeout(seconds, clock)
