"""
A wrapper of a driver with planned failures and delays.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import directlyProvides, providedBy

from fxprofile.deferreds.tasks import all_done
from fxprofile.model.ports import NewObject
from tests.support.fakes.bucket import put_one

_Plan = tuple[str, Callable[[], Awaitable[None]]]


class Flaky:
    """
    Wraps a driver of any interface, and fails or delays calls as planned.

    :param inner: the wrapped driver.
    :param label: the name of the driver in the diary.
    :param diary: the label and the method of each call, in order; drivers may share it.
    :ivar calls: the name and the arguments of each call, in order.
    """

    def __init__(self, inner: Any, label: str = "", diary: list[str] | None = None) -> None:
        self.inner = inner
        self._label = label
        self._diary = diary
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._plans: dict[str, list[_Plan]] = defaultdict(list)
        directlyProvides(self, providedBy(inner))

    def fail(
        self, method: str, error: Exception, *, after: bool = False, times: int = 1, skip: int = 0
    ) -> None:
        """
        Let the next calls of a method raise.

        :param after: after the effect of the call, as if its response was lost.
        :param times: the number of consecutive calls that raise.
        :param skip: the number of calls before them that succeed.
        """

        async def fail() -> None:
            raise error

        self._plans[method] += [("before", _nothing)] * skip
        self._plans[method] += [("after" if after else "before", fail)] * times

    def hold(self, method: str, *, after: bool = False) -> Deferred[None]:
        """
        Let the next call of a method wait.

        :param after: after the effect of the call, as if its response was late.
        :returns: the Deferred that it waits for.
        """
        held: Deferred[None] = Deferred()

        async def wait() -> None:
            await held

        self._plans[method].append(("after" if after else "before", wait))
        return held

    def called(self, method: str) -> list[dict[str, Any]]:
        """Return the arguments of the calls of a method."""
        return [arguments for name, arguments in self.calls if name == method]

    async def put_all(self, *, objects: Sequence[NewObject]) -> None:
        """Each object has a plan of its own, that of ``put``."""
        await all_done(put_one(self, each) for each in objects)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def call(**arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if self._diary is not None:
                self._diary.append(f"{self._label} {name}")
            plans = self._plans[name]
            moment, plan = plans.pop(0) if plans else ("", None)
            if plan and moment == "before":
                await plan()
            result = await attribute(**arguments)
            if plan and moment == "after":
                await plan()
            return result

        return call


async def _nothing() -> None:
    pass
