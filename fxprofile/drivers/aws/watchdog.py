"""
Time limits that begin anew with every sign of life.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Watchdog:
    """
    Calls somebody when nothing has happened for a while.

    :param seconds: how long.
    :param bark: is called, at most once.
    :ivar barked: whether it was.
    """

    def __init__(self, clock: IReactorTime, seconds: float, bark: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._bark = bark
        self._call: IDelayedCall | None = None
        self._ended = False
        self.barked = False

    def touch(self) -> None:
        """Something happened: count from now."""
        if self._ended:
            return
        if self._call is not None and self._call.active():
            self._call.reset(self._seconds)
        else:
            self._call = self._clock.callLater(self._seconds, self._time_is_up)

    def hold(self) -> None:
        """Do not count until the next touch."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def end(self) -> None:
        """Count no more."""
        self._ended = True
        self.hold()

    def _time_is_up(self) -> None:
        self._ended = self.barked = True
        self._bark()
