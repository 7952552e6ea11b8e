"""A profile cache in the memory of one process."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.model.ports import IProfileCache

#: How many texts are kept unless told otherwise.
MAX_ENTRIES = 10_000

#: How many bytes of memory they may take together unless told otherwise.
MAX_BYTES = 32 << 20

#: What an entry takes besides its text, about.
_OVERHEAD = 600


@dataclass(frozen=True)
class _Entry:
    value: str
    size: int
    expires: float


@implementer(IProfileCache)
class MemoryCache:
    """
    The texts that were used last, for a while.

    :param clock: tells when a text is too old.
    :param ttl: seconds that a text is kept.
    :param max_entries: the one that was not used for longest goes first.
    :param max_bytes: of memory, all texts together; a text that is larger than this
        alone is not kept.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        ttl: float,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._ttl = ttl
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._variants: dict[str, set[str]] = {}
        # The number of the last drop of each user, of the users dropped last.
        self._drops: OrderedDict[str, int] = OrderedDict()
        self._dropped = 0
        self._forgotten = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, *, uid: str, variant: str) -> str | None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        entry = self._entries.get((uid, variant))
        if entry is None:
            return None
        if entry.expires <= self._clock.seconds():
            self._remove(uid, variant)
            return None
        self._entries.move_to_end((uid, variant))
        return entry.value

    async def set(
        self, *, uid: str, variant: str, value: str, generation: str | None = None
    ) -> None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        if generation is not None and generation != await self.generation(uid=uid):
            return
        if (uid, variant) in self._entries:
            self._remove(uid, variant)
        size = sys.getsizeof(value) + _OVERHEAD
        if size > self._max_bytes:
            return
        expires = self._clock.seconds() + self._ttl
        self._entries[uid, variant] = _Entry(value=value, size=size, expires=expires)
        self._variants.setdefault(uid, set()).add(variant)
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(*next(iter(self._entries)))

    async def generation(self, *, uid: str) -> str:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        return str(self._drops.get(uid, self._forgotten))

    async def drop(self, *, uid: str) -> None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        self._dropped += 1
        self._drops[uid] = self._dropped
        self._drops.move_to_end(uid)
        if len(self._drops) > self._max_entries:
            # Whoever is not remembered counts as dropped just now.
            _, self._forgotten = self._drops.popitem(last=False)
        for variant in tuple(self._variants.get(uid, ())):
            self._remove(uid, variant)

    async def check(self) -> None:
        """Memory always answers."""

    def _remove(self, uid: str, variant: str) -> None:
        self._bytes -= self._entries.pop((uid, variant)).size
        variants = self._variants[uid]
        variants.discard(variant)
        if not variants:
            del self._variants[uid]
