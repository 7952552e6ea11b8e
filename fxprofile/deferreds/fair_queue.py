"""A fair queue: a bounded number of concurrent calls, served in turn by key."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class FairQueue:
    """
    Limits the calls that run at the same time, in all and to one per key.

    The keys with waiting calls are served in turn, so that many calls of one key delay a call of
    another by no more than one call each.

    :param size: how many calls run at the same time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._running: set[Hashable] = set()
        # The key whose turn is next comes first.
        self._waiting: dict[Hashable, deque[Deferred[None]]] = {}
        self._is_serving = False

    async def run(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """Run a call when it is its turn.  Cancelling this before gives the turn up."""
        turn: Deferred[None] = Deferred(lambda turn: self._leave(key, turn))
        self._waiting.setdefault(key, deque()).append(turn)
        self._serve()
        await turn
        try:
            return await call()
        finally:
            self._running.discard(key)
            self._serve()

    def _leave(self, key: Hashable, turn: Deferred[None]) -> None:
        turns = self._waiting[key]
        turns.remove(turn)
        if not turns:
            del self._waiting[key]

    def _serve(self) -> None:
        # A call that ends at once must not recurse.
        if self._is_serving:
            return
        self._is_serving = True
        try:
            while len(self._running) < self._size:
                key = next((key for key in self._waiting if key not in self._running), None)
                if key is None:
                    return
                turns = self._waiting.pop(key)
                turn = turns.popleft()
                if turns:
                    self._waiting[key] = turns
                self._running.add(key)
                turn.callback(None)
        finally:
            self._is_serving = False
