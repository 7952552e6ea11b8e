"""
A daemon with one crunch helper, which starts sooner, and which may be killed right before or after
one call of a driver.

``twistd tested-fxprofile --crash-at=private_bucket.put:after`` kills itself with SIGKILL
after the private bucket has stored an original; ``:before`` does so before, and ``:after:3``
after the third call.  A driver is an attribute of :class:`fxprofile.app.services.Services`.
Each step of an upload is a call of a driver, so every step has its two points.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from twisted.application.service import IService
from twisted.python.usage import UsageError

from fxprofile import tap
from fxprofile.app.services import Services
from fxprofile.crunch.pool import CrunchPool
from fxprofile.model.ports import NewObject
from fxprofile.settings.model import Role

_POINT = re.compile(r"([a-z_]+)\.([a-z_]+):(before|after)(?::([1-9]\d*))?")


class CrashPoint:
    """
    A call around which the process is killed.

    :param text: ``DRIVER.METHOD:before`` or ``DRIVER.METHOD:after``, and ``:N`` for the Nth call.
    :raises ValueError: if it has another form.
    """

    def __init__(self, text: str) -> None:
        match = _POINT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not DRIVER.METHOD:before|after[:N]")
        self.driver, self.method, self.moment, calls = match.groups()
        self._text = text
        self._calls_left = int(calls or 1)

    @property
    def report(self) -> str:
        """The line that the process writes to its standard error when it is killed."""
        return f"killed at {self._text}\n"

    def guard(self, driver: object) -> CrashingDriver:
        """Wrap the driver."""
        return CrashingDriver(driver, self)

    async def put_all(self, driver: Any, objects: Sequence[NewObject]) -> None:
        """
        Put objects, and kill this process if its time comes between two of them: each of them
        counts as a call of ``put``.
        """
        calls = self._calls_left - (self.moment == "before")
        if calls > len(objects) or self._calls_left <= 0:
            self._calls_left -= len(objects)
            await driver.put_all(objects=objects)
            return
        await driver.put_all(objects=objects[:calls])
        self._calls_left = 0
        self._kill_in_time()

    async def call(self, method: Callable[..., Awaitable[object]], arguments: Any) -> object:
        """Call the method, and kill this process if its time has come."""
        self._calls_left -= 1
        if self.moment == "before":
            self._kill_in_time()
        result = await method(**arguments)
        if self.moment == "after":
            self._kill_in_time()
        return result

    def _kill_in_time(self) -> None:
        if self._calls_left <= 0:
            # sys.stderr goes to the log, which may not be flushed.
            os.write(2, self.report.encode())
            os.kill(os.getpid(), signal.SIGKILL)


class CrashingDriver:
    """Stands in for a driver: every attribute is the driver's, except for one method."""

    def __init__(self, driver: object, point: CrashPoint) -> None:
        self._driver = driver
        self._point = point

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if (name, self._point.method) == ("put_all", "put"):
            return self._put_all
        if name != self._point.method:
            return found

        async def guarded(**arguments: Any) -> object:
            return await self._point.call(found, arguments)

        return guarded

    async def _put_all(self, *, objects: Sequence[NewObject]) -> None:
        await self._point.put_all(self._driver, objects)


class Options(tap.Options):
    """The options of fxprofile, and the crash point."""

    optParameters = [  # noqa: RUF012
        ["crash-at", None, None, "DRIVER.METHOD:before|after[:N]"],
    ]

    def postOptions(self) -> None:
        super().postOptions()
        self.point: CrashPoint | None = None
        if self["crash-at"] is None:
            return
        try:
            self.point = CrashPoint(self["crash-at"])
        except ValueError as error:
            raise UsageError(f"--crash-at: {error}") from None


def makeService(options: Options) -> IService:
    """Return the service of ``twistd fxprofile``, with one helper and one driver wrapped."""

    def adapt(services: Services) -> None:
        if options["role"] in (Role.COMBINED, Role.WORKER):
            cast(CrunchPool, services.cruncher).min_helpers = 1
        if options.point is not None:
            driver = getattr(services, options.point.driver)
            setattr(services, options.point.driver, options.point.guard(driver))

    return tap.makeService(options, adapt)
