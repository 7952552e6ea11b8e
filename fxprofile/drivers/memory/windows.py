"""
Rate windows in the memory of one process.

Written here because the memory storage of the ``limits`` library starts a thread for nearly
every hit, never forgets a key, and its asynchronous storages need asyncio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.model.ports import WINDOW_SECONDS, IRateWindows

#: How many keys are counted at the same time.
MAX_KEYS: Final = 100_000


@implementer(IRateWindows)
class MemoryRateWindows:
    """
    The times of the latest hits of each key, as many as its limit allows.

    :param clock: the time of the hits.
    :param max_keys: if there are more keys, the least recently hit ones are forgotten.
    """

    def __init__(self, clock: IReactorTime, *, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._hits: TTLCache[str, deque[float]] = TTLCache(
            max_keys, ttl=WINDOW_SECONDS, timer=clock.seconds
        )

    def __len__(self) -> int:
        return len(self._hits)

    async def hit(self, *, limits: Mapping[str, int]) -> float:
        """See :meth:`fxprofile.model.ports.IRateWindows.hit`."""
        now = self._clock.seconds()
        windows = {
            key: deque(self._hits.get(key, ()), maxlen=limit) for key, limit in limits.items()
        }
        oldest = [hits[0] for hits in windows.values() if len(hits) == hits.maxlen]
        wait = max(oldest, default=now - WINDOW_SECONDS) - (now - WINDOW_SECONDS)
        if wait <= 0:
            for key, hits in windows.items():
                hits.append(now)
                self._hits[key] = hits
        return max(wait, 0.0)
