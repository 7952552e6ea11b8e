"""The metrics and the health of several processes of one role, as one admin listener shows them."""

from __future__ import annotations

import json
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IReactorTime

from fxprofile.app.processes import SupervisedProcess, Supervisor
from fxprofile.http_client.errors import HttpError
from fxprofile.serving.health import Health, HealthBody
from fxprofile.telemetry.metrics import merge, process_metrics

#: From the best to the worst result of a check; texts are between "ok" and "low".
_WORST: Final = {"ok": 0, "low": 2, "fail": 3}


@attrs.define(eq=False, slots=False)
class AllMetrics:
    """
    The metrics of all processes, each with the label ``process``.

    A gauge of one process is not the gauge of another, so nothing is added up here:
    Prometheus does that.
    """

    _supervisor: Supervisor

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """See :meth:`fxprofile.telemetry.metrics.Metrics.render`."""
        texts = {"supervisor": process_metrics()}
        for child in self._supervisor.running_processes():
            try:
                metrics = await self._supervisor.fetch(child, "/metrics")
                texts[str(child.number)] = metrics.decode()
            except HttpError:
                # Its health check says so.
                continue
        return merge(texts, accept)


class AllHealth(Health):
    """
    The health of all processes: each check has its worst result.

    :ivar supervisor: set before the first check.
    """

    supervisor: Supervisor

    def __init__(self, clock: IReactorTime, count: int) -> None:
        super().__init__(clock)
        self._count = count

    async def _run_checks(self) -> dict[str, str]:
        now = self._clock.seconds()
        running = {child.number: child for child in self.supervisor.running_processes()}
        results: dict[str, str] = {}
        for number in range(1, self._count + 1):
            own = f"process {number}"
            checks = await self._checks_of(running[number]) if number in running else None
            results[own] = "fail" if checks is None else "ok"
            for check in checks or ():
                name, result = check["name"], check["result"]
                if _rank(result) >= _rank(results.get(name, "ok")):
                    results[name] = result
                if "error" in check:
                    self._errors[name] = (f"{own}: {check['error']}", check["at"])
        self._last = (now, results)
        return results

    async def _checks_of(self, child: SupervisedProcess) -> list[dict[str, Any]] | None:
        """Return the checks of a process; None if it does not respond."""
        try:
            status = json.loads(await self.supervisor.fetch(child, "/status.json"))
        except (HttpError, ValueError) as error:
            self._errors[f"process {child.number}"] = (str(error), self._clock.seconds())
            return None
        checks: list[dict[str, Any]] = status["checks"]
        return checks

    def load_balancer_heartbeat(self) -> tuple[int, HealthBody]:
        """Return whether any process accepts requests."""
        if not (self.starting or self.stopping or self.supervisor.running_processes()):
            return 503, {"status": "starting"}
        return super().load_balancer_heartbeat()


def _rank(result: str) -> int:
    return _WORST.get(result, 1)
