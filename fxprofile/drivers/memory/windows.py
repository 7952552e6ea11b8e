"""
Where rate limits are counted: moving windows in the memory of one process.

The memory storage of the ``limits`` library starts a thread for nearly every hit and
never forgets a name; this one needs neither threads nor timers, and is bounded.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from limits.aio.storage import MovingWindowSupport, Storage
from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import CacheError

#: How many names are counted at one time unless told otherwise.
MAX_NAMES = 100_000


class MovingWindows(Storage, MovingWindowSupport):
    """
    What the storages of moving windows have in common.

    Fixed windows, which ``limits`` also knows, let twice the limit pass around their
    edges; nothing here counts by them.
    """

    @property
    def base_exceptions(self) -> type[Exception]:
        """What a storage raises when it fails."""
        return CacheError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> NoReturn:
        """Only moving windows are counted."""
        raise NotImplementedError("only moving windows are counted")

    async def get(self, key: str) -> NoReturn:
        """Only moving windows are counted."""
        raise NotImplementedError("only moving windows are counted")

    async def get_expiry(self, key: str) -> NoReturn:
        """Only moving windows are counted."""
        raise NotImplementedError("only moving windows are counted")


@dataclass
class _Window:
    expiry: int = 0
    hits: deque[float] = field(default_factory=deque)


class MemoryWindows(MovingWindows):
    """
    The hits of each name in its window.

    :param clock: tells when a hit is too old to count.
    :param max_names: if there are more, those that were not hit for longest are
        forgotten.
    """

    def __init__(self, clock: IReactorTime, *, max_names: int = MAX_NAMES) -> None:
        super().__init__()
        self._clock = clock
        self._max_names = max_names
        # The one that was hit last is at the end.
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """
        Count hits, unless they are too many.

        :param key: whose.
        :param limit: how many there may be in the window.
        :param expiry: the length of the window in seconds.
        :returns: whether they were counted.
        """
        now = self._clock.seconds()
        window = self._windows.get(key) or _Window()
        self._forget(window, now, expiry)
        if len(window.hits) + amount > limit:
            return False
        window.expiry = expiry
        window.hits.extend([now] * amount)
        self._windows[key] = window
        self._windows.move_to_end(key)
        for name in list(self._surplus(now)):
            del self._windows[name]
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """
        Look at a window.

        :returns: the time of its oldest hit, by the clock, and how many hits it has.
        """
        now = self._clock.seconds()
        window = self._windows.get(key) or _Window()
        self._forget(window, now, expiry)
        return (window.hits[0] if window.hits else now), len(window.hits)

    async def clear(self, key: str) -> None:
        """Forget the hits of a name."""
        self._windows.pop(key, None)

    async def reset(self) -> int:
        """Forget all hits, and say of how many names."""
        names = len(self._windows)
        self._windows.clear()
        return names

    async def check(self) -> bool:
        """Memory always answers."""
        return True

    def _forget(self, window: _Window, now: float, expiry: int) -> None:
        # A hit counts for less than the whole window, so that whoever waits as long as
        # Retry-After said is not refused again.
        while window.hits and window.hits[0] <= now - expiry:
            window.hits.popleft()

    def _surplus(self, now: float) -> Iterator[str]:
        """The names to forget, oldest first: this is all the cleaning there is."""
        surplus = len(self._windows) - self._max_names
        for i, (name, window) in enumerate(self._windows.items()):
            if i >= surplus and window.hits and window.hits[-1] > now - window.expiry:
                return
            yield name
