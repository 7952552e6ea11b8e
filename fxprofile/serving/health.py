"""
The Dockerflow checks: what load balancers and operators ask of a process.

See https://github.com/mozilla-services/Dockerflow.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from importlib import resources
from typing import Any, NotRequired

from twisted.application.service import Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

# pydantic, which describes these types to clients, cannot read typing's before Python 3.12.
from typing_extensions import TypedDict

from fxprofile import __version__
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.tasks import detached

#: How long one check may take, in seconds.
TIMEOUT = 3

#: How long the results of the checks are reused, in seconds.
FRESH = 1

#: The length of an error that the status page shows, in characters.
MAX_ERROR = 300

Check = Callable[[], Awaitable[object]]


class HealthBody(TypedDict):
    """Every check passes."""

    status: str
    checks: NotRequired[Mapping[str, str]]


class VersionBody(TypedDict):
    """The running version, as Dockerflow defines it."""

    source: str
    version: str
    commit: str
    build: str


class CheckBody(TypedDict):
    """A check: its result, its last error, and when that was, in seconds since the epoch."""

    name: str
    result: str
    error: NotRequired[str]
    at: NotRequired[float]


class StatusBody(TypedDict):
    """What the status page shows of the checks."""

    status: str
    checks: list[CheckBody]


class Health(Service):
    """
    Whether a process can do its work.

    :ivar starting: set while the process cannot do its work yet.
    :ivar stopping: set when the process has been asked to stop, by :meth:`stopService`.
    """

    name = "health"

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.starting = False
        self.stopping = False
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._errors: dict[str, tuple[str, float]] = {}
        self._last: tuple[float, dict[str, str]] | None = None
        self._flights: SingleFlight[str, dict[str, str]] = SingleFlight()

    def stopService(self) -> None:
        super().stopService()
        self.stopping = True

    def add(self, name: str, check: Check) -> None:
        """
        Add a dependency.

        :param check: raises or returns False if the dependency cannot be used; returns a text
            if the heartbeat is to show it; "low" counts as a failure.
        """
        self._checks[name] = check

    async def heartbeat(self) -> tuple[int, HealthBody]:
        """Check each dependency, and return an HTTP status and the results."""
        # A caller that disconnects must not fail a check for the next one.
        checks = dict(await detached(self._results()))
        if self.stopping:
            checks["process"] = "stopping"
        passed = not {"fail", "low", "stopping"} & set(checks.values())
        return 200 if passed else 503, {"status": "ok" if passed else "fail", "checks": checks}

    async def status(self) -> tuple[int, StatusBody]:
        """Check each dependency, and return the results with their last errors, for operators."""
        _, body = await self.heartbeat()
        checks: list[CheckBody] = []
        for name, result in body.get("checks", {}).items():
            checks.append({"name": name, "result": result})
            if name in self._errors:
                checks[-1]["error"], checks[-1]["at"] = self._errors[name]
        return 200, {"status": body["status"], "checks": checks}

    async def _results(self) -> dict[str, str]:
        if self._last is not None and self._clock.seconds() - self._last[0] < FRESH:
            return self._last[1]
        return await self._flights.join("checks", self._run_checks)

    async def _run_checks(self) -> dict[str, str]:
        now = self._clock.seconds()
        running = {
            name: Deferred.fromCoroutine(self._result(name, check))
            for name, check in self._checks.items()
        }
        results = {name: await result for name, result in running.items()}
        self._last = (now, results)
        return results

    async def _result(self, name: str, check: Check) -> str:
        checked: Deferred[Any] = ensureDeferred(check())  # type: ignore[arg-type]
        try:
            result = await checked.addTimeout(TIMEOUT, self._clock)
            if isinstance(result, str):
                return result
            if result is not False:
                return "ok"
            # What has failed is logged where it failed.
            self._errors[name] = ("it is not healthy", self._clock.seconds())
            return "fail"
        except DeferredTimeout:
            problem: object = f"no response in {TIMEOUT} s"
        except Exception as error:
            problem = error
        self._errors[name] = (str(problem)[:MAX_ERROR], self._clock.seconds())
        self._log.warn("Health check {name} failed: {error}", name=name, error=problem)
        return "fail"

    def load_balancer_heartbeat(self) -> tuple[int, HealthBody]:
        """Return whether this process accepts requests; dependencies are not checked."""
        if self.starting or self.stopping:
            return 503, {"status": "stopping" if self.stopping else "starting"}
        return 200, {"status": "ok"}

    @cached_property
    def version(self) -> VersionBody:
        """The content of ``version.json``, which the build writes into the package."""
        version: VersionBody = {"source": "", "version": __version__, "commit": "", "build": ""}
        file = resources.files("fxprofile").joinpath("version.json")
        if file.is_file():
            version.update(json.loads(file.read_text()))
        return version
