"""
What an upload costs, against six runs of GraphicsMagick.

    python -m benchmarks.upload [--rounds 3] [--seconds 5]

In turn, clients upload a photo to each deployment and wait until it is ready: a daemon with all
roles on the embedded drivers, and a web process and a worker on S3 and SQS, which moto plays on
kept connections.  Each upload but the first of a user replaces an avatar, which is deleted.  It
prints, for photos of 2 megapixels and of 47 KB:

- the processor time of the daemon itself, that of its crunch children, and their ratio;
- uploads a second, and the median time of one upload with nothing else to do;
- the same of ``gm identify`` and ``gm convert`` for each size, two photos at a time, as in the
  original service, whose HTTP, storage and database are left out.

The counts of transactions, syncs and calls in threads are those of
``tests/integration/test_costs.py``; needs ``gm``.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.crunch_rivals import graphicsmagick
from benchmarks.latency import Clients
from benchmarks.pipeline import accounts, asks, processor_seconds, timed
from tests.corpus.drawing import saved
from tests.crunch.quality import natural
from tests.integration.cloud import ENVIRON, Cloud
from tests.support.daemon import Daemon, Ports
from tests.support.servers.moto import MotoServer

#: The processor time of each process itself is to be at most this part of the children's.
MAX_RATIO = 0.2
#: Uploads of 2 megapixels are to be this many times as fast as GraphicsMagick.
MIN_FASTER = 4.0
#: Uploads of which each is made alone, in a round.
ALONE = 5

SETTINGS = {
    "uploads.per_hour": 0,
    "limits.writes_per_minute": 0,
    "web.max_connections_per_address": 0,
}


@dataclass
class Figures:
    """What was measured of a deployment and a photo; ``own`` is by role, in seconds."""

    uploads: int = 0
    seconds: float = 0.0
    own: dict[str, float] = field(default_factory=dict)
    children: float = 0.0
    alone: list[float] = field(default_factory=list)


async def deployed(stack: AsyncExitStack, *roles: str, cloud: bool) -> list[Daemon]:
    """Start daemons that share a folder."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fxprofile-upload-"))
    settings: dict[str, object] = dict(SETTINGS)
    environ = accounts()
    if cloud:
        server = MotoServer()
        stack.callback(server.stop)
        settings |= (await deferToThread(Cloud, await deferToThread(lambda: server.url))).settings
        environ |= ENVIRON
    ports = Ports()
    daemons = []
    for role in roles:
        daemon = Daemon(directory, role=role, settings=settings, environ=environ, ports=ports)
        daemons.append(await stack.enter_async_context(daemon))
    return daemons


def upload(port: int, photo: bytes, clients: int, seconds: float) -> int:
    """Upload for so many seconds, and return how many uploads became ready; blocks."""
    running = [Clients(port, 1, ask) for ask in asks(photo)[:clients]]
    for client in running:
        client.start(seconds)
    for client in running:
        client.join()
    return sum(len(client.times) for client in running)


async def measure(
    daemons: list[Daemon], photo: bytes, clients: int, seconds: float, found: Figures
) -> None:
    """Add the figures of a round."""
    port = daemons[0].ports.web
    before = [processor_seconds(daemon) for daemon in daemons]
    began = time.monotonic()
    found.uploads += await deferToThread(upload, port, photo, clients, seconds)
    found.seconds += time.monotonic() - began
    for daemon, (own, children) in zip(daemons, before, strict=True):
        own_after, children_after = processor_seconds(daemon)
        found.own[daemon.role] = found.own.get(daemon.role, 0.0) + own_after - own
        found.children += children_after - children
    for ask in asks(photo)[:ALONE]:
        found.alone.append(await deferToThread(timed, port, ask))


def graphicsmagick_rate(photo: bytes, seconds: float) -> float:
    """Return how many photos a second it converts to all sizes, two at a time; blocks."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file, ThreadPoolExecutor(2) as threads:
        file.write(photo)
        file.flush()
        began = time.monotonic()

        def convert() -> int:
            number = 0
            while time.monotonic() < began + seconds:
                graphicsmagick(file.name, False)
                number += 1
            return number

        running = [threads.submit(convert) for _ in range(2)]
        return sum(each.result() for each in running) / (time.monotonic() - began)


def report(name: str, found: Figures, gm: float) -> None:
    """Print the rows of a deployment and a photo."""
    children = found.children / found.uploads * 1000
    rate = found.uploads / found.seconds
    for role, seconds in found.own.items():
        own = seconds / found.uploads * 1000
        missed = "" if own <= MAX_RATIO * children else f"> {MAX_RATIO:g}"
        print(
            f"{name:18}{role:10}{own:8.1f}{children:10.1f}{own / children:8.2f}{rate:11.1f}"
            f"{statistics.median(found.alone) * 1000:8.0f}{rate / gm:11.1f}  {missed}"
        )


async def main(reactor: Any, options: argparse.Namespace) -> None:
    pictures = {
        name: saved(natural(*sides, 5), "JPEG", quality=88)
        for name, sides in (("2 MP", (1633, 1225)), ("47 KB", (560, 420)))
    }
    gm: dict[str, list[float]] = {name: [] for name in pictures}
    async with AsyncExitStack() as stack:
        deployments = {
            "embedded": await deployed(stack, "combined", cloud=False),
            "S3+SQS": await deployed(stack, "web", "worker", cloud=True),
        }
        found = {(d, p): Figures() for p in pictures for d in deployments}
        for daemons in deployments.values():
            await deferToThread(upload, daemons[0].ports.web, pictures["47 KB"], 4, 1)
        for _ in range(options.rounds):
            for (deployment, picture), figures in found.items():
                daemons, photo = deployments[deployment], pictures[picture]
                await measure(daemons, photo, options.clients, options.seconds, figures)
            for picture, photo in pictures.items():
                gm[picture].append(await deferToThread(graphicsmagick_rate, photo, options.seconds))
    rates = {picture: statistics.median(each) for picture, each in gm.items()}
    for picture, photo in pictures.items():
        print(
            f"{picture}: {len(photo)} bytes; six runs of gm: {rates[picture]:.1f} photos a second"
        )
    print(f"{'':18}{'':10}{'own ms':>8}{'children':>10}{'ratio':>8}", end="")
    print(f"{'uploads/s':>11}{'alone':>8}{'times gm':>11}")
    for (deployment, picture), figures in found.items():
        report(f"{deployment}, {picture}", figures, rates[picture])
    one = found["embedded", "2 MP"]
    faster = one.uploads / one.seconds / rates["2 MP"]
    print(f"embedded, 2 MP: {faster:.1f} times gm, at least {MIN_FASTER:g} are wanted")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--clients", type=int, default=6)
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
