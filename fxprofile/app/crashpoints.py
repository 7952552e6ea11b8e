"""
Where a process can be told to die, so that tests see what the others make of it.

``FXPROFILE_CRASH_AT=private bucket.put:after`` in the environment ends the process with
SIGKILL right after the private bucket has stored an original; ``:before`` right before;
``:after:3`` the third time.  Each step of an upload is a call of a driver, so every step
has its two points, and no code has to know of them.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import CRASH_AT

_POINT = re.compile(r"([a-z ]+)\.([a-z_]+):(before|after)(?::([1-9]\d*))?")


class CrashPoint:
    """
    One point: a driver, one of its methods, before or after, and which call.

    :param text: as in the environment.
    :raises ConfigError: if it is not of that form.
    """

    def __init__(self, text: str) -> None:
        match = _POINT.fullmatch(text)
        if match is None:
            raise ConfigError(f"{CRASH_AT}: {text!r} is not DRIVER.METHOD:before|after[:N]")
        self.driver, self.method, self.moment, calls = match.groups()
        self._calls_left = int(calls or 1)

    def guard(self, driver: Any) -> Any:
        """The driver, with this point in it."""
        return _Guarded(driver, self)

    async def call(self, method: Any, arguments: dict[str, Any]) -> Any:
        """Call the method, and die if it is time."""
        self._calls_left -= 1
        if self.moment == "before":
            self._die_in_time()
        result = await method(**arguments)
        if self.moment == "after":
            self._die_in_time()
        return result

    def _die_in_time(self) -> None:
        if self._calls_left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def crash_point() -> CrashPoint | None:
    """The point that the environment names, if it does."""
    text = os.environ.get(CRASH_AT)
    return CrashPoint(text) if text else None


class _Guarded:
    """Stands in for a driver: all is as it was, but for one method."""

    def __init__(self, driver: Any, point: CrashPoint) -> None:
        self._driver = driver
        self._point = point

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if name != self._point.method:
            return found

        async def guarded(**arguments: Any) -> Any:
            return await self._point.call(found, arguments)

        return guarded
