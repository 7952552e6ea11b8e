"""
Reads a second of one process, beside what the same machine does at best, in one run.

    python -m benchmarks.reads [--seconds 0.3] [--rounds 30] [--original URL PID] [--plot FILE]

One daemon asks the OAuth server about every token, as by default; another one has the token cache.
An nginx stands in for the OAuth and the auth server.  The floors are a bare Klein route, and a
Klein route with one pooled treq call to that nginx (:mod:`benchmarks.read_floor`).  All take
turns, and only one is asked at a time.  ``--original`` adds a running service with the same API.

Of each it prints the median of the rounds: responses a second; responses for a second of the
processor, which other processes of the machine disturb less; and the median of the ratios of the
latter to those of the floor in the same round, with their range.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from benchmarks.plot import bars
from benchmarks.read_client import Load, load
from benchmarks.report import table
from tests.integration import photos
from tests.support.daemon import Daemon
from tests.support.servers.local import LocalServer, die_with_parent, free_port

TOKENS = 512
CONNECTIONS = 32

_NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
_VERIFIED = (
    '{"user":"a11ce000a11ce000a11ce000a11ce000","client_id":"0123456789abcdef",'
    '"scope":["profile","profile:write"],"profile_changed_at":1700000000000}'
)
_ACCOUNT = (
    '{"email":"alice@example.com","locale":"en-US","authenticationMethods":["pwd","otp"],'
    '"authenticatorAssuranceLevel":2}'
)


@dataclass(frozen=True)
class Row:
    """
    A row of the table.

    :ivar server: and ``path``, what is asked.
    :ivar floor: the row that it is compared with.
    :ivar target: the ratio that it should have.
    """

    name: str
    server: str
    path: str
    floor: str = ""
    target: float = 0.0


BARE = "bare Klein route"
CALL = "Klein + one treq call"
ROWS = (
    Row(BARE, "floor", "/bare"),
    Row(CALL, "floor", "/treq"),
    Row("/__lbheartbeat__", "service", "/__lbheartbeat__", BARE, 0.9),
    Row("/v1/uid", "service", "/v1/uid", CALL, 1.4),
    Row("/v1/profile", "service", "/v1/profile", CALL, 1.4),
    Row("/v1/email", "service", "/v1/email", CALL, 0.8),
    Row("/v1/avatar", "service", "/v1/avatar", CALL, 1.0),
    Row("/v1/uid, token cache", "cached", "/v1/uid", BARE, 0.65),
    Row("/v1/profile, token cache", "cached", "/v1/profile", BARE, 0.65),
    Row("/v1/avatar, token cache", "cached", "/v1/avatar", BARE, 0.65),
)


class Upstream(LocalServer):
    """An nginx that answers for the OAuth and the auth server."""

    def __init__(self) -> None:
        super().__init__("upstream")
        temporary = "".join(
            f"{name}_temp_path {self.directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.directory / "nginx.conf").write_text(
            "daemon off; master_process off; pid pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off; keepalive_requests 1000000000; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port}; default_type application/json;\n"
            f"location = /v1/verify {{ return 200 '{_VERIFIED}'; }}\n"
            f"location = /v1/account/profile {{ return 200 '{_ACCOUNT}'; }} }} }}\n"
        )

    def command(self) -> Sequence[str]:
        """Return the command line."""
        if _NGINX is None:
            raise SystemExit("benchmarks.reads: install nginx, which stands in for the upstreams")
        return [_NGINX, "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]

    def answers(self) -> bool:
        """Return whether it accepts connections."""
        return _accepts(self.port)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


#: The port and the process of each server.
Servers = Mapping[str, tuple[int, int]]


def _start_floor(port: int, upstream: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.read_floor", str(port), upstream],
        # It logs that clients disconnect at the end of a round.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )


async def start(reactor: Any, stack: AsyncExitStack) -> dict[str, tuple[int, int]]:
    """Start all servers; the user of the service has an avatar."""
    upstream = Upstream()
    upstream.start()
    stack.callback(upstream.remove)
    url, port = f"http://127.0.0.1:{upstream.port}/v1", free_port()
    floor = _start_floor(port, f"{url}/verify")
    stack.callback(floor.kill)
    servers = {"floor": (port, floor.pid)}
    photo = await deferToThread(photos.jpeg, 400, 300)
    for name, seconds in (("service", 0), ("cached", 300)):
        settings = {
            "identity.driver": "fxa",
            "identity.oauth_url": url,
            "identity.auth_url": url,
            "identity.token_cache_seconds": seconds,
            "web.max_connections_per_address": 0,
        }
        daemon = await stack.enter_async_context(Daemon(settings=settings))
        headers = {"Authorization": f"Bearer {0:064x}", "Content-Type": "image/jpeg"}
        response = await treq.post(
            f"{daemon.web_url}/v1/avatar/upload",
            photo,
            headers={**headers, "Prefer": "wait=30"},
            persistent=False,
        )
        if response.code != 201:
            raise RuntimeError(f"the upload got {response.code}: {await response.text()}")
        servers[name] = (daemon.ports.web, daemon.pid or 0)
    while not await deferToThread(_accepts, port):
        await deferLater(reactor, 0.1)
    return servers


async def measure(
    rows: Sequence[Row], servers: Servers, options: argparse.Namespace
) -> dict[str, list[Load]]:
    """Return the rounds of each row."""
    rounds: dict[str, list[Load]] = {row.name: [] for row in rows}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for number in range(options.rounds + 1):
            for row in rows:
                asked = (*servers[row.server], row.path, TOKENS, CONNECTIONS, options.seconds)
                found = await deferToThread(process.submit(load, *asked).result)
                # In the first round caches are filled.
                if number:
                    rounds[row.name].append(found)
    return rounds


def report(rows: Sequence[Row], rounds: Mapping[str, Sequence[Load]]) -> str:
    """Return the table."""
    lines = []
    for row in rows:
        loads = rounds[row.name]
        line = [
            row.name,
            f"{statistics.median(each.rate for each in loads):,.0f}",
            f"{statistics.median(1 / each.cpu for each in loads):,.0f}",
        ]
        if row.floor:
            pairs = zip(loads, rounds[row.floor], strict=True)
            ratios = sorted(floor.cpu / each.cpu for each, floor in pairs)
            line += [f"{row.target:.2f}" if row.target else "", row.floor]
            line.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
        lines.append([*line, *[""] * (6 - len(line))])
    head = ("one process", "a second", "a CPU second", "target", "of", "ratio")
    return table(head, lines)


async def run(reactor: Any, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Measure, and print the table."""
    async with AsyncExitStack() as stack:
        servers = await start(reactor, stack)
        rows = list(ROWS)
        if options.original:
            url, pid = options.original
            servers["original"] = (urlsplit(url).port or 80, int(pid))
            rows += [
                Row(f"original {row.path}", "original", row.path, row.floor)
                for row in ROWS
                if row.server == "service"
            ]
        rounds = await measure(rows, servers, options)
    say(report(rows, rounds))
    if options.plot:
        values = {
            name: statistics.median(1 / each.cpu for each in loads)
            for name, loads in rounds.items()
        }
        bars(options.plot, "Responses for a second of the processor", values)


def main(reactor: Any) -> Deferred[None]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--original", nargs=2, metavar=("URL", "PID"))
    parser.add_argument("--plot", type=Path)
    return Deferred.fromCoroutine(run(reactor, parser.parse_args(), print))


if __name__ == "__main__":
    react(main)
