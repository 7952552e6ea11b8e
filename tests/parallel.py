"""
``trial -j``, with each module in one process: its tests share servers, daemons and browsers.

    python -m tests.parallel -j 4 tests.web tests.images
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from twisted.scripts import trial
from twisted.trial._dist import disttrial


class ModuleRunner(disttrial.DistTrialRunner):
    """Gives a process that has nothing to do the next module, and not the next test."""

    _modules: Iterator[tuple[str, Iterable[Any]]] | None = None

    async def _driveWorker(self, result: Any, testCases: Iterable[Any], worker: Any) -> None:
        if self._modules is None:
            self._modules = groupby(testCases, lambda case: type(case).__module__)
        for _, cases in self._modules:
            await super()._driveWorker(result, list(cases), worker)


if __name__ == "__main__":
    # trial has no option for the runner.
    trial.DistTrialRunner = ModuleRunner  # type: ignore[attr-defined]
    trial.run()
