"""
Inject faults between a daemon and its servers under load, and report what clients see.

    python -m benchmarks.chaos [--seconds 10] [--write] [S3=hang SQS=cut+S3=slow full_disk ...]

Without cases it runs all: each fault of each service, some pairs, and faults of the host.  The
status is 1 if an accepted upload was lost or the service did not recover in time.  ``--write``
replaces the table in ``docs/reliability.md``.  What the faults do is in ``tests/support/proxy.py``
and ``tests/integration/chaos_host.py``, what the load is in ``tests/integration/chaos.py``.
"""

from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from benchmarks.report import table, write_section
from tests.integration.chaos import GOOD, RECOVERY, Answer, Outcome, World
from tests.integration.chaos_host import HostWorld
from tests.support.proxy import Fault
from tests.support.servers import mariadb, postgresql

SERVICES = ("S3", "SQS", "mariadb", "Redis", "oauth", "auth")

PAIRS = (
    "S3=cut+SQS=cut",
    "S3=hang+mariadb=hang",
    "SQS=hang+mariadb=reset",
    "Redis=cut+mariadb=cut",
    "Redis=hang+oauth=slow",
    "oauth=hang+auth=hang",
    "S3=reset+SQS=corrupt",
)

#: Name, how it is spelled in the table.
NAMES = {
    "mariadb": "MariaDB",
    "postgresql": "PostgreSQL",
    "oauth": "OAuth server",
    "auth": "auth server",
}

HEAD = ("fault", *(f"{kind}s" for kind in GOOD), "requests well", "uploads settled", "lost")


#: Faults of the host of a daemon on its embedded drivers: methods of its world.
HOST = {
    "full_disk": "disk full",
    "read_only_bucket": "private bucket read-only",
    "no_descriptors": "no descriptor left",
    "locked_database": "SQLite locked by another process",
}


def matrix() -> list[str]:
    """Return all cases."""
    alone = [f"{service}={fault.value}" for service in SERVICES for fault in Fault]
    return [*alone, *PAIRS, *(f"postgresql={fault.value}" for fault in Fault), *HOST]


def parsed(case: str) -> Mapping[str, Fault]:
    """Return the fault of each service in a case."""
    pairs = (part.split("=") for part in case.split("+"))
    return {service: Fault(fault) for service, fault in pairs}


def named(case: str) -> str:
    """Return how a case is named in the table."""
    if case in HOST:
        return HOST[case]
    return ", ".join(f"{NAMES.get(s, s)}: {f.value}" for s, f in parsed(case).items())


def world_of(case: str) -> str:
    """Return which world a case needs: the module of its database server, or the host."""
    if case in HOST:
        return "host"
    return "postgresql" if "postgresql" in case else "mariadb"


def cell(answers: Sequence[Answer]) -> str:
    """Return how often each status was the response, and after how many seconds at most."""
    times = collections.defaultdict(list)
    for answer in answers:
        status = answer.status if isinstance(answer.status, int) else "closed"
        times[str(status)].append(answer.seconds)
    return ", ".join(
        f"{status} ×{len(seconds)} ≤ {max(seconds):.1f} s"
        for status, seconds in sorted(times.items())
    )


def row(case: str, outcome: Outcome) -> list[str]:
    """Return a row of the table."""
    bad = {
        "lost": outcome.lost,
        "failed": outcome.failed,
        "not selected": outcome.wrong,
    }
    return [
        named(case),
        *(cell([a for a in outcome.answers if a.kind == kind]) for kind in GOOD),
        f"{outcome.requests_well:.1f} s",
        f"{outcome.uploads_settled:.1f} s",
        ", ".join(f"{len(what)} {name}" for name, what in bad.items() if what) or "0",
    ]


async def run(cases: Sequence[str], seconds: float, write: bool) -> bool:
    """Run cases, print the table, and return whether all is well."""
    rows, good = [], True
    worlds: dict[str, Callable[[], World | HostWorld]] = {
        "mariadb": lambda: World(mariadb),
        "postgresql": lambda: World(postgresql),
        "host": HostWorld,
    }
    for name, make in worlds.items():
        own = [case for case in cases if world_of(case) == name]
        if not own:
            continue
        world = make()
        try:
            await world.start()
            for case in own:
                fault = (
                    getattr(world, case)()
                    if isinstance(world, HostWorld)
                    else world.faults(parsed(case))
                )
                outcome = await world.run(fault, seconds)
                rows.append(row(case, outcome))
                print(*rows[-1], sep=" | ", flush=True)
                if outcome.lost or outcome.failed or outcome.wrong or outcome.recovery > RECOVERY:
                    good = False
        finally:
            if "Traceback" in (output := world.daemon.output):
                good = False
                print(output[output.index("Traceback") - 500 :][:5000])
            await world.stop()
    if write:
        write_section("chaos", f"Each fault lasted {seconds:.0f} s.\n\n" + table(HEAD, rows))
    return good


def main() -> None:
    """Run the matrix from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("cases", nargs="*", help="SERVICE=FAULT, joined by + (default: all)")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    good: list[bool] = []

    async def main(_: Any) -> None:
        good.append(await run(options.cases or matrix(), options.seconds, options.write))

    try:
        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    except SystemExit as end:
        sys.exit(end.code or (0 if good == [True] else 1))


if __name__ == "__main__":
    main()
