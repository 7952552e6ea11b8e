"""
One upload from its first byte to its pictures, against six runs of GraphicsMagick.

    python -m benchmarks.upload [--rounds 7]

A daemon with all roles and nothing else to do.  In turn, a client uploads a photo of 12
megapixels, waits until it is ready and gets its three sizes; and ``gm identify`` and
``gm convert`` run for each size on the same file, as in the original service, whose HTTP,
storage and database are left out.  It prints the median of each and how often the first
fits into the second; needs ``gm``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
import urllib.request
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.crunch_rivals import graphicsmagick
from tests.corpus.drawing import saved
from tests.crunch.quality import natural
from tests.support.daemon import Daemon, Ports

#: How many times an upload is to fit into the runs of GraphicsMagick.
TARGET = 5.0
_HEADERS = {"Authorization": "Bearer alice", "Content-Type": "image/jpeg", "Prefer": "wait=30"}


def upload(ports: Ports, photo: bytes) -> float:
    """
    Upload a photo and get its pictures.

    :returns: the seconds that it took.
    """
    started = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", ports.web, timeout=60)
    connection.request("POST", "/v1/avatar/upload", photo, _HEADERS)
    answer = json.load(connection.getresponse())
    connection.close()
    if answer.get("status") != "ready":
        raise RuntimeError(f"the upload ended as {answer}")
    for size in ("_large", "", "_small"):
        with urllib.request.urlopen(answer["url"] + size, timeout=60) as picture:
            picture.read()
    return time.perf_counter() - started


def six_runs(path: str) -> float:
    """The seconds that GraphicsMagick takes."""
    started = time.perf_counter()
    graphicsmagick(path)
    return time.perf_counter() - started


async def main(reactor: Any, options: argparse.Namespace) -> None:
    photo = saved(natural(4000, 3000, 5), "JPEG", quality=88)
    ours, gm = [], []
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(photo)
        file.flush()
        async with Daemon(
            settings={"uploads.per_hour": 0, "limits.writes_per_minute": 0}
        ) as daemon:
            await deferToThread(upload, daemon.ports, photo)
            for _ in range(options.rounds):
                ours.append(await deferToThread(upload, daemon.ports, photo))
                gm.append(await deferToThread(six_runs, file.name))
    one, other = statistics.median(ours), statistics.median(gm)
    print(f"{'upload, crunch and serve':28}{one * 1000:8.0f} ms")
    print(f"{'six runs of gm':28}{other * 1000:8.0f} ms")
    missed = "" if other / one >= TARGET else "MISSED"
    print(f"{'times faster':28}{other / one:8.1f}   >= {TARGET:g} {missed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, arguments)))
