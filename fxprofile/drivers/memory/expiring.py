"""
What expires, in the memory of one process: cached profiles, and the windows of rate limits.

The windows are written here because the memory storage of the ``limits`` library starts a
thread for nearly every hit, never forgets a key, and its asynchronous storages need asyncio.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final

from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.model.ports import WINDOW_SECONDS, CacheLookup, IProfileCache, IRateWindows

#: Bytes of memory that all texts together may take.
MAX_BYTES: Final = 32 << 20

#: How many users have a generation at the same time.
MAX_USERS: Final = 50_000

#: How many keys of rate limits are counted at the same time.
MAX_KEYS: Final = 100_000

#: Bytes that an entry takes besides its text, approximately.
_OVERHEAD: Final = 600


@dataclass(frozen=True)
class _Generation:
    """A generation of a user, and the latest change of the account that started it."""

    number: str
    changed_at: int


def _size(value: str) -> int:
    return sys.getsizeof(value) + _OVERHEAD


@implementer(IProfileCache)
class MemoryProfileCache:
    """
    The most recently used texts, each with a time to live.

    The generation is part of an entry's key: advancing it hides the entries of the earlier
    generations, which expire in time.  Numbers are never used twice, so that a user whose
    generation was evicted counts as changed.

    :param clock: the time of the entries.
    :param ttl: seconds that an entry lives.
    :param max_bytes: of all texts together; the least recently used ones are evicted.
    :param max_users: users with a generation; the least recently used ones are evicted.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        ttl: float,
        max_bytes: int = MAX_BYTES,
        max_users: int = MAX_USERS,
    ) -> None:
        self._entries: TTLCache[tuple[str, str, str], str] = TTLCache(
            max_bytes, ttl=ttl, timer=clock.seconds, getsizeof=_size
        )
        self._generations: LRUCache[str, _Generation] = LRUCache(max_users)
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    async def lookup(self, *, uid: str, variant: str, changed_at: int = 0) -> CacheLookup:
        """See :meth:`fxprofile.model.ports.IProfileCache.lookup`."""
        generation = self._generations.get(uid)
        if generation is None or changed_at > generation.changed_at:
            generation = self._advance(uid, changed_at)
        value = self._entries.get((uid, variant, generation.number))
        return CacheLookup(value, generation.number)

    async def store(self, *, uid: str, variant: str, value: str, generation: str) -> None:
        """See :meth:`fxprofile.model.ports.IProfileCache.store`."""
        current = self._generations.get(uid)
        if current is not None and current.number == generation:
            key = (uid, variant, generation)
            self._entries.pop(key, None)
            if _size(value) <= self._entries.maxsize:
                self._entries[key] = value

    async def invalidate(self, *, uid: str) -> None:
        """See :meth:`fxprofile.model.ports.IProfileCache.invalidate`."""
        self._advance(uid, 0)

    async def check(self) -> None:
        """Do nothing: memory always responds."""

    def _advance(self, uid: str, changed_at: int) -> _Generation:
        generation = _Generation(str(next(self._numbers)), changed_at)
        self._generations[uid] = generation
        return generation


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

    async def hit(self, *, limits: Mapping[str, int], seconds: int = WINDOW_SECONDS) -> float:
        """See :meth:`fxprofile.model.ports.IRateWindows.hit`."""
        now = self._clock.seconds()
        windows = {
            key: deque(self._hits.get(key, ()), maxlen=limit) for key, limit in limits.items()
        }
        oldest = [hits[0] for hits in windows.values() if len(hits) == hits.maxlen]
        wait = max(oldest, default=now - seconds) - (now - seconds)
        if wait <= 0:
            for key, hits in windows.items():
                hits.append(now)
                self._hits[key] = hits
        return max(wait, 0.0)
