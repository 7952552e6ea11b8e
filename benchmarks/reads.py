"""
Reading profiles while images are crunched, against reading them while nothing else happens.

    python -m benchmarks.reads [--seconds 5] [--rounds 5] [--readers 8] [--uploaders 4]

One daemon with all roles.  In turn, for so many seconds, clients read ``/v1/uid`` alone, and
then while others upload a photo of 2 megapixels over and over.  Of each kind of round it
prints the median of the rounds: reads a second, and the time of a read that half, 95 and 99 in
a hundred are below; then the ratio of the two, and uploads a second.

Crunching takes whole processors, so on a machine of two the reads have to share: what must
not happen is that a read waits for an image.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from tests.integration import photos
from tests.support.daemon import Daemon

_READ = ("GET", "/v1/uid", None, {"Authorization": "Bearer alice"})


class Clients:
    """
    Threads that each ask for the same thing, again and again, on one connection.

    :param ask: method, path, body and headers.
    """

    def __init__(self, port: int, number: int, ask: tuple[str, str, bytes | None, Any]) -> None:
        self._port = port
        self._ask = ask
        self._until = 0.0
        self.times: list[float] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(number)]

    def start(self, seconds: float) -> None:
        """Ask for so many seconds."""
        self._until = time.monotonic() + seconds
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all of them have their last answer."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while (began := time.monotonic()) < self._until:
            connection.request(*self._ask)
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (200, 201):
                raise RuntimeError(f"{self._ask[1]} answers {answer.status}")
            self.times.append(time.monotonic() - began)
        connection.close()


def measure(port: int, options: argparse.Namespace, uploaders: int) -> dict[str, float]:
    """One round; in a thread."""
    headers = {"Authorization": "Bearer bob", "Content-Type": "image/jpeg", "Prefer": "wait=30"}
    upload = ("POST", "/v1/avatar/upload", photos.jpeg(1633, 1225), headers)
    uploads = Clients(port, uploaders, upload)
    reads = Clients(port, options.readers, _READ)
    for clients in (uploads, reads):
        clients.start(options.seconds)
    for clients in (uploads, reads):
        clients.join()
    cuts = statistics.quantiles(reads.times, n=100)
    return {
        "reads a second": len(reads.times) / options.seconds,
        "p50 ms": cuts[49] * 1000,
        "p95 ms": cuts[94] * 1000,
        "p99 ms": cuts[98] * 1000,
        "uploads a second": len(uploads.times) / options.seconds,
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}


async def run(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do it all."""
    async with Daemon(settings={"uploads.per_hour": 0, "limits.writes_per_minute": 0}) as daemon:
        port = daemon.ports.web
        quiet, busy = [], []
        for _ in range(options.rounds):
            quiet.append(await deferToThread(measure, port, options, 0))
            busy.append(await deferToThread(measure, port, options, options.uploaders))
    alone, crunching = medians(quiet), medians(busy)
    say(f"{'':18}{'alone':>10}{'crunching':>12}{'ratio':>8}")
    for name, figure in alone.items():
        ratio = f"{crunching[name] / figure:8.2f}" if figure else ""
        say(f"{name:18}{figure:10.1f}{crunching[name]:12.1f}{ratio}")


def main(reactor: Any) -> Deferred[None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--uploaders", type=int, default=4)
    return Deferred.fromCoroutine(run(parser.parse_args(), print))


if __name__ == "__main__":
    react(main)
