"""
Uploads from end to end: how many a second, how long they take, and what grows.

    python -m benchmarks.pipeline [rate] [latency] [growth] [--plots docs/plots]

- *rate*: one web process and one or two workers with one or two crunch processes each, on files and
  SQLite.  In turn, so many clients upload a photo and wait until it is ready.  It prints the median
  of the rounds, the ratio to one worker with one process, and the processor time of an upload.
- *latency*: one worker with two crunch processes.  Uploads arrive at 10 to 90 % of the rate that it
  sustained just before, whether or not earlier ones have ended.
- *growth*: the transactions of an upload, a read and the repair loops in a database of 1,000 to a
  million users and 100 to 100,000 jobs that wait: instructions of SQLite and milliseconds, and the
  ratio to the smallest.

Web process, workers, children and clients share the processors: on two of them a second crunch
process only uses what the others leave.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.latency import Clients
from benchmarks.plot import chart
from tests.drivers.sql.growth import CountingDatabase, OneUpload, fill
from tests.integration import photos
from tests.support.daemon import Daemon, Ports

#: Workers, and crunch processes of each.
LAYOUTS = ((1, 1), (1, 2), (2, 1), (2, 2))
#: Uploads of one user supersede each other, so each upload is of another one.
USERS = 200
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
#: Users and jobs that wait.
SIZES = ((1000, 100), (10_000, 1000), (100_000, 10_000), (1_000_000, 100_000))

Ask = tuple[str, str, bytes, dict[str, str]]


def asks(photo: bytes) -> list[Ask]:
    """Return an upload by each user."""
    headers = {"Content-Type": "image/jpeg", "Prefer": "wait=30"}
    return [
        ("POST", "/v1/avatar/upload", photo, {**headers, "Authorization": f"Bearer user{n}"})
        for n in range(USERS)
    ]


def accounts() -> dict[str, str]:
    """Return the environment of a daemon that knows the users."""
    known = [
        {"token": f"user{n}", "uid": f"{n:032x}", "email": f"user{n}@example.com"}
        for n in range(USERS)
    ]
    return {"FXPROFILE_IDENTITY__DEV__ACCOUNTS": json.dumps(known)}


async def deployed(stack: AsyncExitStack, workers: int, processes: int) -> list[Daemon]:
    """Start a web process and workers."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fxprofile-pipeline-"))
    settings = {"uploads.per_hour": 0, "limits.writes_per_minute": 0, "crunch.processes": processes}
    ports = Ports()
    daemons = []
    for role in ("web", *["worker"] * workers):
        daemon = Daemon(directory, role=role, settings=settings, environ=accounts(), ports=ports)
        daemons.append(await stack.enter_async_context(daemon))
    return daemons


def processor_seconds(daemon: Daemon) -> tuple[float, float]:
    """Return what a process and its helpers have used (``proc_pid_stat(5)``)."""
    used: dict[int, float] = {}
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parents[pid] = int(fields[1])
            # User and system time, of itself and of its children that have ended.
            used[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    assert daemon.pid is not None
    helpers = [pid for pid, parent in parents.items() if parent == daemon.pid]
    return used[daemon.pid], sum(used[pid] for pid in helpers)


def timed(port: int, ask: Ask) -> float:
    """Return the seconds until an upload is ready; blocks."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(*ask)
    answer = json.load(connection.getresponse())
    connection.close()
    if answer.get("status") != "ready":
        raise RuntimeError(f"the upload ended as {answer}")
    return time.monotonic() - began


def rate(port: int, photo: bytes, clients: int, seconds: float) -> float:
    """Return how many uploads a second become ready; blocks."""
    running = [Clients(port, 1, ask) for ask in asks(photo)[:clients]]
    began = time.monotonic()
    for client in running:
        client.start(seconds)
    for client in running:
        client.join()
    return sum(len(client.times) for client in running) / (time.monotonic() - began)


def latencies(port: int, photo: bytes, each_second: float, seconds: float) -> list[float]:
    """Return how long each of these uploads takes; blocks."""
    number = max(3, int(each_second * seconds))
    began = time.monotonic()
    with ThreadPoolExecutor(number) as threads:
        arriving = []
        for n, ask in zip(range(number), itertools.cycle(asks(photo)), strict=False):
            time.sleep(max(0.0, began + n / each_second - time.monotonic()))
            arriving.append(threads.submit(timed, port, ask))
        return [upload.result() for upload in arriving]


async def compare_rates(options: argparse.Namespace, photo: bytes) -> None:
    """Print the rate of each layout."""
    async with AsyncExitStack() as stack:
        started = {layout: await deployed(stack, *layout) for layout in LAYOUTS}
        found: dict[tuple[int, int], list[float]] = {layout: [] for layout in LAYOUTS}
        one = started[LAYOUTS[0]]
        before = [processor_seconds(daemon) for daemon in one]
        for _ in range(options.rounds):
            for layout, daemons in started.items():
                figures = (daemons[0].ports.web, photo, options.clients, options.seconds)
                found[layout].append(await deferToThread(rate, *figures))
        after = [processor_seconds(daemon) for daemon in one]
    print(f"{'workers':>8}{'processes':>11}{'uploads a second':>18}{'ratio':>8}")
    for layout, rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(rates, found[LAYOUTS[0]], strict=True))
        print(f"{layout[0]:8}{layout[1]:11}{statistics.median(rates):18.1f}{ratio:8.2f}")
    uploads = sum(found[LAYOUTS[0]]) * options.seconds
    (web, _), (worker, children) = (
        [(b - a) * 1000 / uploads for a, b in zip(*pair, strict=True)]
        for pair in zip(before, after, strict=True)
    )
    print(f"processor ms of an upload: web {web:.0f}, worker {worker:.0f}, children {children:.0f}")


async def compare_latencies(options: argparse.Namespace, photo: bytes) -> None:
    """Print how long uploads take at shares of the rate."""
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    async with AsyncExitStack() as stack:
        web, _ = await deployed(stack, 1, 2)
        port = web.ports.web
        for _ in range(options.rounds):
            # The machine may be slower or faster now than in another round.
            most = await deferToThread(rate, port, photo, options.clients, options.seconds)
            for share, times in found.items():
                figures = (port, photo, most * share, options.seconds)
                times += await deferToThread(latencies, *figures)
    print(f"{'load':>5}{'uploads':>9}{'p50 ms':>9}{'p95 ms':>9}")
    lines: dict[str, list[tuple[float, float]]] = {"p50": [], "p95": []}
    for share, times in found.items():
        cuts = statistics.quantiles(times, n=20)
        lines["p50"].append((share * 100, cuts[9] * 1000))
        lines["p95"].append((share * 100, cuts[18] * 1000))
        print(f"{share:5.0%}{len(times):9}{cuts[9] * 1000:9.0f}{cuts[18] * 1000:9.0f}")
    if options.plots:
        title = "Time until an upload is ready (1 worker, 2 crunch processes)"
        axes = ("load, % of the highest rate", "milliseconds")
        chart(options.plots / "latency.svg", title, *axes, lines, False)


async def compare_sizes(options: argparse.Namespace) -> None:
    """Print what the transactions of an upload cost in databases of several sizes."""
    steps: list[float] = []
    times: list[float] = []
    for users, backlog in SIZES:
        database = CountingDatabase()
        with database.engine.begin() as connection:
            fill(connection, users=users, backlog=backlog)
        costs, seconds = [], []
        for user in range(1, 2 * options.uploads + 1):
            # Counting takes time, so every other upload is counted.
            database.counts = bool(user % 2)
            before, began = database.steps, time.perf_counter()
            for call in OneUpload(database, user=user).transactions().values():
                await call()
            seconds.append(time.perf_counter() - began)
            costs.append(database.steps - before)
        steps.append(statistics.median(costs[::2]))
        times.append(statistics.median(seconds[1::2]) * 1000)
        database.engine.dispose()
    print(f"{'users':>9}{'backlog':>9}{'instructions':>14}{'ratio':>7}{'ms':>8}{'ratio':>7}")
    for size, step, ms in zip(SIZES, steps, times, strict=True):
        ratios = step / steps[0], ms / times[0]
        print(f"{size[0]:9}{size[1]:9}{step:14.0f}{ratios[0]:7.2f}{ms:8.2f}{ratios[1]:7.2f}")
    if options.plots:
        lines = {
            "instructions": [(size[0], s / steps[0]) for size, s in zip(SIZES, steps, strict=True)],
            "time": [(size[0], s / times[0]) for size, s in zip(SIZES, times, strict=True)],
        }
        title = "Database work of one upload as users and backlog grow"
        axes = ("users; a tenth as many jobs wait", "multiple of the smallest")
        chart(options.plots / "growth.svg", title, *axes, lines, True)


async def main(reactor: Any, options: argparse.Namespace) -> None:
    photo = photos.jpeg(1633, 1225)
    if "rate" in options.parts:
        await compare_rates(options, photo)
    if "latency" in options.parts:
        await compare_latencies(options, photo)
    if "growth" in options.parts:
        await compare_sizes(options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    every = ("rate", "latency", "growth")
    parser.add_argument("parts", nargs="*", default=every, metavar="rate|latency|growth")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--uploads", type=int, default=40, help="in each database")
    parser.add_argument("--plots", type=Path, help="the folder for the charts")
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
