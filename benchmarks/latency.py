"""
Reading profiles while images are crunched, against reading them while nothing else happens.

    python -m benchmarks.latency [--seconds 3] [--rounds 9] [--readers 2] [--uploaders 4]

One daemon with all roles, and readers of ``/v1/uid`` in a process of their own, which no other
client delays.  In turn they read alone; while processes with the priority of the crunch children
only compute, one per processor; and while clients upload a photo of 2 megapixels over and over.  Of
each kind of round it prints the medians of the rounds: reads a second, and the time of a read that
half, 95 and 99 in a hundred are below; then the median of the ratios to the same round alone.

What computing costs is the scheduler's part; the rest of what uploads cost is the work of the
daemon itself: bodies, files, transactions and thread switches.  Computing takes whole processors,
so on a machine of two the reads have to share: what must not happen is that a read waits for an
image.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from subprocess import Popen
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from tests.integration import photos
from tests.support.daemon import Daemon

_KINDS = ("alone", "computing", "crunching")
#: Seconds for which uploads have been going on before reads are measured.
_LEAD = 0.5
_COMPUTE = """
from fxprofile.crunch.sandbox.process import lower_priority
lower_priority()
while True:
    pass
"""
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


def read(port: int, readers: int, seconds: float) -> list[float]:
    """Return how long each read takes; blocks.  In a process of its own."""
    reads = Clients(port, readers, _READ)
    reads.start(seconds)
    reads.join()
    return reads.times


class Measurement:
    """
    The rounds with one daemon.

    :param photo: what is uploaded.
    """

    def __init__(self, port: int, options: argparse.Namespace, photo: bytes) -> None:
        self._port = port
        self._options = options
        headers = {"Authorization": "Bearer bob", "Content-Type": "image/jpeg", "Prefer": "wait=30"}
        self._upload = ("POST", "/v1/avatar/upload", photo, headers)
        self._process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def round(self, kind: str) -> dict[str, float]:
        """Return the figures of a round: ``alone``, ``computing`` or ``crunching``; blocks."""
        seconds = self._options.seconds
        uploads = Clients(self._port, self._options.uploaders, self._upload)
        computing = []
        if kind == "computing":
            computing = [
                Popen([sys.executable, "-c", _COMPUTE]) for _ in range(os.cpu_count() or 1)
            ]
        elif kind == "crunching":
            uploads.start(_LEAD + seconds)
        time.sleep(_LEAD)
        try:
            asked = (self._port, self._options.readers, seconds)
            times = self._process.submit(read, *asked).result()
        finally:
            for process in computing:
                process.kill()
                process.wait()
        if kind == "crunching":
            uploads.join()
        cuts = statistics.quantiles(times, n=100)
        return {
            "reads a second": len(times) / seconds,
            "p50 ms": cuts[49] * 1000,
            "p95 ms": cuts[94] * 1000,
            "p99 ms": cuts[98] * 1000,
            "uploads a second": len(uploads.times) / (_LEAD + seconds),
        }

    def close(self) -> None:
        """End the process of the readers."""
        self._process.shutdown()


async def run(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do it all."""
    settings = {
        "uploads.per_hour": 0,
        "limits.writes_per_minute": 0,
        "uploads.max_pending_per_user": 1000,
    }
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    async with Daemon(settings=settings) as daemon:
        photo = await deferToThread(photos.jpeg, 1633, 1225)
        measurement = Measurement(daemon.ports.web, options, photo)
        try:
            for _ in range(options.rounds):
                for kind, figures in rounds.items():
                    figures.append(await deferToThread(measurement.round, kind))
        finally:
            measurement.close()
    say(f"{'':18}{'alone':>10}" + "".join(f"{kind:>12}{'ratio':>8}" for kind in _KINDS[1:]))
    for name in rounds["alone"][0]:
        line = f"{name:18}{statistics.median(f[name] for f in rounds['alone']):10.1f}"
        for kind in _KINDS[1:]:
            pairs = list(zip(rounds[kind], rounds["alone"], strict=True))
            line += f"{statistics.median(f[name] for f, _ in pairs):12.1f}"
            ratios = [f[name] / alone[name] for f, alone in pairs if alone[name]]
            line += f"{statistics.median(ratios):8.2f}" if ratios else f"{'':8}"
        say(line)


def main(reactor: Any) -> Deferred[None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--uploaders", type=int, default=4)
    return Deferred.fromCoroutine(run(parser.parse_args(), print))


if __name__ == "__main__":
    react(main)
