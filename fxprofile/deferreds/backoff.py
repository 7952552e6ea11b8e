"""
Exponential backoff with full jitter.

Twisted's ``backoffPolicy`` adds its jitter on top of the delay, so that clients which fail
together retry together; the full jitter here spreads them over the whole interval.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

#: Doublings after which a delay stops growing, so that the power stays a finite float.
_MAX_DOUBLINGS = 60


@dataclass(frozen=True)
class Backoff:
    """
    Exponential backoff with full jitter and a cap.

    The upper limit of a delay doubles with every failure; the delay itself is drawn evenly
    from ``shortest`` times the limit up to the limit.
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    :ivar first: the upper limit after the first failure, in seconds.
    :ivar cap: the upper limit of every delay, in seconds.
    :ivar shortest: the smallest delay, as a fraction of the limit from 0 to 1.
    :ivar chance: returns random numbers from 0 to 1; replaced in tests.
    """

    first: float
    cap: float
    shortest: float = 0.0
    chance: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """
        Return how many seconds to wait before the next try.

        :param failures: the number of consecutive failures so far, at least 1.
        """
        limit = min(self.cap, self.first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
        return limit * (self.shortest + (1 - self.shortest) * self.chance())
