"""
A thread pool that runs calls inline.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from fxprofile.deferreds.threads import Threads


class InlineThreads(Threads):
    """Runs each call at once in the calling thread."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, call: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.calls += 1
        return maybeDeferred(call, *args, **kwargs)
