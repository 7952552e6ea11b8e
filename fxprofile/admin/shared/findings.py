"""What a check finds, and how checks are run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime

from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.model.errors import ConfigError, DriverError

#: Seconds that one check may take.
PATIENCE: Final = 30.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """
    One line of a report.

    :ivar text: what was found.
    :ivar advice: what to do about it, if anything.
    """

    name: str
    level: Level
    text: str
    advice: str | None = None


def fine(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name, Level.OK, text)


def warning(name: str, text: str, advice: str) -> Finding:
    """It works, and could be better."""
    return Finding(name, Level.WARNING, text, advice)


def problem(name: str, text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.PROBLEM, text, advice)


@dataclass(frozen=True)
class Check:
    """
    Something to look at.

    :ivar look: does so; what it raises as a driver's error is a problem.
    :ivar advice: for that problem.
    """

    name: str
    look: Callable[[], Awaitable[Sequence[Finding]]]
    advice: str


async def run_checks(clock: IReactorTime, checks: Iterable[Check]) -> list[Finding]:
    """All findings, in the order of the checks, which run at the same time."""
    running = [Deferred.fromCoroutine(_run(clock, check)) for check in checks]
    return [
        finding
        for findings in await gatherResults(running, consumeErrors=True)
        for finding in findings
    ]


async def _run(clock: IReactorTime, check: Check) -> Sequence[Finding]:
    looking: Deferred[Sequence[Finding]] = Deferred.fromCoroutine(_look(check))
    looking.addTimeout(PATIENCE, clock)
    try:
        return await looking
    except DeferredTimeout:
        return [problem(check.name, f"no answer in {PATIENCE:.0f} s", check.advice)]
    except (AwsError, ConfigError, DriverError) as error:
        return [problem(check.name, " ".join(str(error).split()), check.advice)]


async def _look(check: Check) -> Any:
    return await check.look()
