"""A profile cache in the memory of one process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import count
from typing import Final

from cachetools import LRUCache, TTLCache
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.model.ports import CacheLookup, IProfileCache

#: Bytes of memory that all texts together may take.
MAX_BYTES: Final = 32 << 20

#: How many users have a generation at the same time.
MAX_USERS: Final = 50_000

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
