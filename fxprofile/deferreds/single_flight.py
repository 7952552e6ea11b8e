"""
One piece of work for everybody who wants its outcome at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.model.errors import DriverError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.work: Deferred[None] | None = None
        self.waiters: list[Deferred[T]] = []


class SingleFlight(Generic[K, T]):
    """
    Pieces of work in the air, by key.

    Who stops waiting does not disturb the others; when nobody waits any longer the
    work is cancelled.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Wait for the work under this key.

        :param work: starts it, if nobody has.
        :returns: its outcome.  Cancelling this gives up the waiting.
        """
        flight = self._flights.get(key)
        if flight is not None:
            return self._board(key, flight)
        flight = self._flights[key] = _Flight()
        waiter = self._board(key, flight)
        flight.work = Deferred.fromCoroutine(work()).addBoth(self._land, key, flight)
        return waiter

    def _board(self, key: K, flight: _Flight[T]) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(lambda waiter: self._leave(key, flight, waiter))
        flight.waiters.append(waiter)
        return waiter

    def _leave(self, key: K, flight: _Flight[T], waiter: Deferred[T]) -> None:
        flight.waiters.remove(waiter)
        if not flight.waiters and flight.work is not None:
            # Whoever comes now starts anew, and does not join what is being given up.
            self._remove(key, flight)
            flight.work.cancel()

    def _land(self, outcome: Any, key: K, flight: _Flight[T]) -> None:
        self._remove(key, flight)
        error = outcome.value if isinstance(outcome, Failure) else None
        # A driver may make another error of the cancellation.
        expected = error is None or isinstance(error, (CancelledError, DriverError))
        if not flight.waiters and not expected:
            self._log.failure("Work that nobody waits for any longer failed", failure=outcome)
        # One that is told may give up others, which then are no longer among them.
        while flight.waiters:
            waiter = flight.waiters.pop(0)
            if error is not None:
                # An error that is raised in several places would grow.
                waiter.errback(Failure(error.with_traceback(None)))
            else:
                waiter.callback(outcome)

    def _remove(self, key: K, flight: _Flight[T]) -> None:
        # One that was given up may end after the next one has started.
        if self._flights.get(key) is flight:
            del self._flights[key]
