"""
Work that many wait for and that is done once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Flight(Generic[T]):
    """
    Runs work unless it is under way, and gives its outcome to all who asked meanwhile.

    Who is cancelled stops waiting; the work goes on for the others.
    """

    def __init__(self) -> None:
        self._waiters: list[Deferred[T]] | None = None

    @property
    def under_way(self) -> bool:
        """Whether the work is being done."""
        return self._waiters is not None

    def join(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Wait for the work that is under way, or start it."""
        waiter: Deferred[T] = Deferred(self._leave)
        if self._waiters is not None:
            self._waiters.append(waiter)
            return waiter
        self._waiters = [waiter]
        Deferred.fromCoroutine(work()).addBoth(self._land)
        return waiter

    def _leave(self, waiter: Deferred[T]) -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    def _land(self, outcome: Any) -> None:
        waiters, self._waiters = self._waiters or [], None
        for waiter in waiters:
            # A failure is an errback as well.
            waiter.callback(outcome)
