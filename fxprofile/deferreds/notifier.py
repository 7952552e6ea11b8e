"""
Bells, which wake those in this process who wait for something by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Bell:
    """What one waiter hears.  A ring is kept until the waiter comes to wait."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: Deferred[None] | None = None

    def ring(self) -> None:
        """Wake the waiter."""
        self._rung = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)

    async def wait(self, clock: IReactorTime, seconds: float) -> None:
        """Wait for the ring, and so many seconds at most."""
        if self._rung:
            return
        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        timer = clock.callLater(seconds, self.ring)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer.active():
                timer.cancel()


class Bells:
    """The bells of everybody who listens."""

    def __init__(self) -> None:
        self._listening: dict[str, set[Bell]] = {}

    @contextmanager
    def listening(self, name: str) -> Iterator[Bell]:
        """
        Hear every ring of a name from now on.

        Who looks for something first and waits after that listens before both.
        """
        bell = Bell()
        bells = self._listening.setdefault(name, set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                self._listening.pop(name, None)

    def ring(self, name: str) -> None:
        """Wake everybody who listens for a name."""
        for bell in tuple(self._listening.get(name, ())):
            bell.ring()
