"""
A clock for the reactor that never goes back.

Twisted takes the time of its reactor from the system's clock: when that is set back, every
delayed call waits so much longer.  The reactor has no setting for this.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

#: How much faster or slower than the monotonic clock this one runs, at most, to approach the
#: system's clock.
SLEW: Final = 0.1

#: Seconds between two reads of the system's clock.
INTERVAL: Final = 0.01


@dataclass
class SteadyClock:
    """
    The seconds since the epoch, which approach those of the system's clock without a step.

    :param monotonic: seconds that only increase, as of ``time.monotonic``.
    :param wall: seconds since the epoch, as of ``time.time``.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._last = self.monotonic()
        self._offset = self.wall() - self._last

    def __call__(self) -> float:
        now = self.monotonic()
        # The reactor asks several times in each iteration.
        if now - self._last >= INTERVAL:
            limit = (now - self._last) * SLEW
            skew = self.wall() - now - self._offset
            self._offset += min(max(skew, -limit), limit)
            self._last = now
        return now + self._offset
