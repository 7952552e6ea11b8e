"""
The Dockerflow paths: what load balancers and operators ask a process.

See https://github.com/mozilla-services/Dockerflow.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile import __version__
from fxprofile.deferreds.tasks import detached

#: Seconds that one dependency may take to answer.
TIMEOUT = 3

#: Seconds that an answer is good for: a heartbeat is asked often, by many.
FRESH = 1

Check = Callable[[], Awaitable[object]]


class Health:
    """
    Whether a process can do its work.

    :ivar starting: set until the process can do its work.
    :ivar stopping: set when it has been asked to end.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.starting = False
        self.stopping = False
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._last: tuple[float, dict[str, str]] | None = None
        # Who waits for the answers, while the dependencies are being asked.
        self._waiting: list[Deferred[Mapping[str, str]]] | None = None
        self._version: dict[str, str] | None = None

    def add(self, name: str, check: Check) -> None:
        """
        Name a dependency.

        :param check: raises if it cannot be used, or returns False.
        """
        self._checks[name] = check

    async def heartbeat(self) -> tuple[int, Mapping[str, Any]]:
        """Ask each dependency: a status, and what to say."""
        # Who asks and goes away must not make a dependency look ill to the next one.
        checks = dict(await detached(self._answers()))
        if self.stopping:
            checks["process"] = "stopping"
        good = all(state == "ok" for state in checks.values())
        return 200 if good else 503, {"status": "ok" if good else "fail", "checks": checks}

    async def _answers(self) -> Mapping[str, str]:
        now = self._clock.seconds()
        if self._last is not None and now - self._last[0] < FRESH:
            return self._last[1]
        if self._waiting is not None:
            # A dependency that is slow already is not asked by each of many as well.
            waiter: Deferred[Mapping[str, str]] = Deferred()
            self._waiting.append(waiter)
            return await waiter
        self._waiting = []
        asked = {name: self._ask(name, check) for name, check in self._checks.items()}
        answers = {name: "ok" if await answer else "fail" for name, answer in asked.items()}
        self._last = (now, answers)
        waiting, self._waiting = self._waiting, None
        for waiter in waiting:
            waiter.callback(answers)
        return answers

    def _ask(self, name: str, check: Check) -> Deferred[bool]:
        async def ask() -> bool:
            return (await check()) is not False

        answer = Deferred.fromCoroutine(ask()).addTimeout(TIMEOUT, self._clock)

        def failed(failure: Any) -> bool:
            error = failure.value
            if failure.check(DeferredTimeout):
                error = f"no answer in {TIMEOUT} s"
            self._log.warn("{name} is not well: {error}", name=name, error=error)
            return False

        return answer.addErrback(failed)

    def load_balancer_heartbeat(self) -> tuple[int, Mapping[str, Any]]:
        """Whether this process wants requests: it asks nobody."""
        if self._state():
            return 503, {"status": self._state()}
        return 200, {"status": "ok"}

    def _state(self) -> str:
        return "stopping" if self.stopping else "starting" if self.starting else ""

    def version(self) -> tuple[int, Mapping[str, Any]]:
        """What ``version.json`` says, which a build writes into the package."""
        if self._version is None:
            self._version = {
                "source": "",
                "version": __version__,
                "commit": "",
                "build": "",
            }
            file = resources.files("fxprofile").joinpath("version.json")
            if file.is_file():
                self._version.update(json.loads(file.read_text()))
        return 200, self._version
