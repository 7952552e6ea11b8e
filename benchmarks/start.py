"""
What a process of each role costs at its start: memory, processor time, and time to ready.

A process of nothing but the libraries that every role needs is the floor.  All take turns, so
that a busy machine affects all of them; trust processor time and memory.

    python -m benchmarks.start [--rounds 5] [--role images] [--set storage.driver=s3]
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from fxprofile.settings.model import Role
from tests.support.daemon import Daemon

#: Seconds after a process became ready until its memory is read.
SETTLED = 1.0

FLOOR = "libraries"
_LIBRARIES = (
    "import sys; sys.modules['OpenSSL'] = None;"
    "import twisted.scripts.twistd, twisted.internet.reactor, twisted.internet.endpoints,"
    " twisted.web.server, pydantic_settings, prometheus_client;"
    "print('ready', flush=True); sys.stdin.read()"
)

#: The fields of ``/proc/PID/status`` that are shown, in KiB there (proc(5)).
_FIELDS = ("VmRSS", "RssAnon", "RssFile")
_HEADINGS = ("MiB", "anonymous", "of files", "CPU s", "ready s")


def cost(pid: int) -> tuple[float, ...]:
    """Return memory in MiB, by :data:`_FIELDS`, and processor time in seconds."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = [re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE) for name in _FIELDS]
    # In nanoseconds; the times in /proc/PID/stat are in hundredths of a second.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    cpu = sum(int(path.read_text().split()[0]) for path in threads)
    return (*(int(found[1]) / 1024 for found in memory if found), cpu / 1e9)


def measure_libraries() -> tuple[float, ...]:
    """Return the figures of the floor."""
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _LIBRARIES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ready = time.monotonic() - started
        return (*cost(process.pid), ready)


async def measure_role(
    reactor: Any, role: str, settings: Mapping[str, object]
) -> tuple[float, ...]:
    """Return the figures of a role."""
    daemon = Daemon(role=role, settings=settings)
    started = time.monotonic()
    async with daemon:
        ready = time.monotonic() - started
        assert daemon.pid is not None
        await deferLater(reactor, SETTLED)
        return (*cost(daemon.pid), ready)


async def main(reactor: Any, roles: Sequence[str], rounds: int, settings: Sequence[str]) -> None:
    chosen = dict(pair.split("=", 1) for pair in settings)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in (FLOOR, *roles)}
    for _ in range(rounds):
        found[FLOOR].append(measure_libraries())
        for role in roles:
            found[role].append(await measure_role(reactor, role, chosen))
    print(f"{'':12}" + "".join(f"{heading:>11}" for heading in _HEADINGS))
    for name, figures in found.items():
        medians = [statistics.median(column) for column in zip(*figures, strict=True)]
        print(f"{name:12}" + "".join(f"{value:11.2f}" for value in medians))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="times that all take turns")
    parser.add_argument("--role", nargs="*", default=list(Role), choices=list(Role))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    react(
        lambda reactor: Deferred.fromCoroutine(
            main(reactor, arguments.role, arguments.rounds, arguments.set)
        )
    )
