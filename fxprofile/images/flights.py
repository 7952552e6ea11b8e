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
    """
    Pieces of work in the air, by key.

    Work goes on as long as one of those who wait for it still does.
    """

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
            return flight.wait()
        new: _Flight[T] = _Flight(lambda: self._landed(key, new))
        self._flights[key] = new
        waiter = new.wait()
        new.start(work())
        return waiter

    def _landed(self, key: str, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight(Generic[T]):
    def __init__(self, landed: Callable[[], None]) -> None:
        self._landed = landed
        self._waiters: list[Deferred[T]] = []
        self._work: Deferred[None] | None = None

    def wait(self) -> Deferred[T]:
        waiter: Deferred[T] = Deferred(self._leave)
        self._waiters.append(waiter)
        return waiter

    def start(self, work: Coroutine[Any, Any, T]) -> None:
        outcome = Deferred.fromCoroutine(work)
        self._work = outcome.addCallbacks(self._done, self._failed)

    def _leave(self, waiter: Deferred[T]) -> None:
        self._waiters.remove(waiter)
        if not self._waiters and self._work is not None:
            # Whoever comes now starts anew and does not get the cancellation.
            self._landed()
            self._work.cancel()

    def _done(self, value: T) -> None:
        self._landed()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(value)

    def _failed(self, failure: Failure) -> None:
        self._landed()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.errback(failure)
        if not waiters:
            failure.trap(CancelledError)
