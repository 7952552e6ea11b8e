"""
One piece of work for everybody who wants its outcome at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class Flights(Generic[T]):
    """Pieces of work in the air, by key."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Wait for the work under this key.

        :param work: starts it, if nobody has.
        :returns: its outcome.  Cancelling this gives up the waiting, and the work too
            if nobody else waits.
        """
        flight = self._flights.get(key)
        if flight is not None:
            return flight.board()
        flight = self._flights[key] = _Flight(lambda ended: self._ended(key, ended))
        waiter = flight.board()
        flight.start(work())
        return waiter

    def _ended(self, key: str, flight: _Flight[T]) -> None:
        # One that was given up may end after the next one has started.
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight(Generic[T]):
    def __init__(self, ended: Callable[[_Flight[T]], None]) -> None:
        self._ended = ended
        self._waiters: list[Deferred[T]] = []
        self._work: Deferred[None] | None = None

    def board(self) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(self._leave)
        self._waiters.append(waiter)
        return waiter

    def start(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = Deferred.fromCoroutine(work).addBoth(self._land)

    def _leave(self, waiter: Deferred[T]) -> None:
        self._waiters.remove(waiter)
        if not self._waiters and self._work is not None:
            # Whoever comes now starts anew and does not get the cancellation.
            self._ended(self)
            self._work.cancel()

    def _land(self, outcome: T | Failure) -> None:
        self._ended(self)
        if isinstance(outcome, Failure) and not self._waiters:
            outcome.trap(CancelledError)
        while self._waiters:
            # A failure goes the way of failures.
            self._waiters.pop(0).callback(outcome)
