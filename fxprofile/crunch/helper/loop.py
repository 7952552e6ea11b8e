"""The event loop of a helper, which is small: each child gets a copy of what it writes to."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable


class Loop:
    """Calls back when descriptors can be read or written, and when it is time."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], object]] = {}
        self._timers: dict[object, tuple[float, Callable[[], object]]] = {}

    def watch(self, descriptor: int, call: Callable[[], object], *, write: bool = False) -> None:
        """Call back whenever a descriptor can be read, or with ``write``, written as well."""
        self._poll.register(descriptor, select.POLLIN | (select.POLLOUT if write else 0))
        self._calls[descriptor] = call

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, if it is watched."""
        if self._calls.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def call_later(self, key: object, seconds: float, call: Callable[[], object]) -> None:
        """Call back once after so many seconds, instead of an earlier timer of this key."""
        self._timers[key] = (time.monotonic() + seconds, call)

    def cancel(self, key: object) -> None:
        """Cancel the timer of this key, if there is one."""
        self._timers.pop(key, None)

    def run_once(self) -> None:
        """Wait until there is something to call, and call it."""
        first = min((when for when, _ in self._timers.values()), default=math.inf)
        left = max(0.0, first - time.monotonic())
        events = self._poll.poll(None if left == math.inf else math.ceil(left * 1000))
        for descriptor, _ in events:
            # A callback before this one may have made the loop forget it.
            call = self._calls.get(descriptor)
            if call is not None:
                call()
        now = time.monotonic()
        for key, (when, call) in list(self._timers.items()):
            if when <= now and self._timers.get(key) == (when, call):
                del self._timers[key]
                call()
