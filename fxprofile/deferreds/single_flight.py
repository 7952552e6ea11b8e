"""Single-flight: concurrent callers share one call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.deferreds.errors import ExpectedError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.work: Deferred[None] | None = None
        self.waiters: list[Deferred[T]] = []


class SingleFlight(Generic[K, T]):
    """
    Calls in flight, by key.

    Cancelling a waiter does not disturb the others; a call without waiters is cancelled.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    def join(
        self, key: K, work: Callable[[], Coroutine[Deferred[object], object, T]]
    ) -> Deferred[T]:
        """
        Wait for the call under a key, and start it unless it is in flight.

        :param work: starts the call.
        :returns: its outcome.  Cancelling this stops waiting.
        """
        flight = self._flights.get(key)
        if flight is not None:
            return self._wait(key, flight)
        flight = self._flights[key] = _Flight()
        waiter = self._wait(key, flight)
        flight.work = Deferred.fromCoroutine(work()).addBoth(self._finish, key, flight)
        return waiter

    def _wait(self, key: K, flight: _Flight[T]) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(lambda waiter: self._leave(key, flight, waiter))
        flight.waiters.append(waiter)
        return waiter

    def _leave(self, key: K, flight: _Flight[T], waiter: Deferred[T]) -> None:
        flight.waiters.remove(waiter)
        if not flight.waiters and flight.work is not None:
            # A later caller starts a new call instead of joining the cancelled one.
            self._remove(key, flight)
            flight.work.cancel()

    def _finish(self, outcome: T | Failure, key: K, flight: _Flight[T]) -> None:
        self._remove(key, flight)
        failure = outcome if isinstance(outcome, Failure) else None
        # A driver may turn the cancellation into an error of its own.
        if failure and not flight.waiters and not failure.check(CancelledError, ExpectedError):
            self._log.failure("An abandoned call failed", failure=failure)
        # A waiter's callback may cancel other waiters, which removes them from the list.
        while flight.waiters:
            waiter = flight.waiters.pop(0)
            if failure and failure.value:
                # A shared exception would collect the traceback of every waiter.
                waiter.errback(Failure(failure.value.with_traceback(None)))
            else:
                waiter.callback(outcome)

    def _remove(self, key: K, flight: _Flight[T]) -> None:
        # A cancelled call may end after its successor has started.
        if self._flights.get(key) is flight:
            del self._flights[key]
