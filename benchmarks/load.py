"""
Attack a daemon, and report how long other clients wait and what it costs.

    python -m benchmarks.load [--write] [ATTACK ...]

Each attack has a daemon of its own in the combined role, with its embedded drivers.  Meanwhile
one client reads a profile 20 times a second (:mod:`benchmarks.probe`).  ``--write`` replaces the
table in ``docs/reliability.md``; its column "before" is what an earlier version did.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from benchmarks.probe import Probe
from benchmarks.report import table, write_section
from tests.integration import photos
from tests.integration.client import Client
from tests.integration.test_stalled import memory
from tests.support.daemon import Daemon

USERS = 40

#: Seconds that most attacks last.
SECONDS = 8

#: Seconds after which an upload that is not settled counts as lost.
PATIENCE = 180


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return a request of user 1; an underscore in the name of a header is a hyphen."""
    fields = {"Host": "127.0.0.1", "Authorization": "Bearer user1"}
    if method == "POST" and "Transfer_Encoding" not in headers:
        fields["Content-Length"] = str(len(body))
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Attacker(Protocol):
    """
    A connection that sends data.

    :ivar statuses: of the responses.
    """

    def __init__(self, data: bytes, statuses: collections.Counter[str], again: bool) -> None:
        self.data, self.statuses, self.again = data, statuses, again
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 "):
            self.statuses[data[9:12].decode()] += 1
            if self.again:
                self.transport.write(self.data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


@dataclass
class Target:
    """A daemon under attack, and what was seen of it."""

    daemon: Daemon
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    accepted: dict[str, str] = field(default_factory=dict)

    def client(self, user: int) -> Client:
        return Client(self.daemon, f"user{user}")

    async def connect(self, data: bytes, *, again: bool = False, images: bool = False) -> Attacker:
        """Open a connection, and send data; again after each response if told so."""
        port = self.daemon.ports.images if images else self.daemon.ports.web
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        return await connectProtocol(endpoint, Attacker(data, self.statuses, again))

    async def connections(self, number: int, data: bytes, **how: bool) -> list[Attacker]:
        """Open many connections, 100 at a time."""
        opened: list[Attacker] = []
        while len(opened) < number:
            some = [self.connect(data, **how) for _ in range(min(100, number - len(opened)))]
            opened += await gatherResults([Deferred.fromCoroutine(one) for one in some])
        return opened

    async def flood(self, clients: int, data: bytes, seconds: float = SECONDS) -> str:
        """Send a request again and again on some connections."""
        until = reactor.seconds() + seconds

        async def one() -> None:
            while reactor.seconds() < until:
                attacker = await self.connect(data, again=True)
                reactor.callLater(
                    max(0, until - reactor.seconds()), attacker.transport.abortConnection
                )
                await attacker.gone

        await gatherResults([Deferred.fromCoroutine(one()) for _ in range(clients)])
        return self.counted

    @property
    def counted(self) -> str:
        """How often each status came."""
        return ", ".join(f"{n:,} × {status}" for status, n in sorted(self.statuses.items()))

    async def uploads(self, clients: Iterable[int], prefer: str, seconds: float) -> None:
        """Upload photos of 39 KB on some connections, of all users in turn."""
        photo, until = photos.jpeg(480, 360), reactor.seconds() + seconds

        async def one(user: int) -> None:
            while True:
                status, answer = await self.client(user).upload(photo, Prefer=prefer)
                self.statuses[str(status)] += 1
                if status == 201:
                    self.accepted[f"user{user}"] = answer["id"]
                user = (user + 8) % USERS
                if reactor.seconds() > until:
                    return

        await gatherResults([Deferred.fromCoroutine(one(user % USERS)) for user in clients])

    async def selected(self) -> str:
        """Wait until each user's newest upload is selected, and return how long it took."""
        began, left = time.monotonic(), set(range(USERS))
        while left and time.monotonic() < began + PATIENCE:
            for user in list(left):
                _, avatar = await self.client(user).ask("GET", "/v1/avatar")
                if "pending" not in avatar:
                    left.discard(user)
            await deferLater(reactor, 0.2)
        took = f"{time.monotonic() - began:.0f} s later the newest of all users is selected"
        return f"after {PATIENCE} s {len(left)} users wait" if left else took

    def helpers(self) -> list[int]:
        """Return the process ids of the crunch helpers."""
        pid = self.daemon.pid
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(OSError):
                if b"fxprofile.crunch.helper" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found


async def idle(target: Target) -> str:
    await deferLater(reactor, SECONDS)
    return ""


async def prefer_zeros(target: Target) -> str:
    zeros = f"wait={'0' * 15_000}"
    return await target.flood(
        4, request("POST", "/v1/avatar/upload", b"x", Content_Type="image/png", Prefer=zeros)
    )


async def monogram(target: Target) -> str:
    return await target.flood(4, request("GET", "/v1/avatar/A" + "%CC%81" * 2600))


async def forwarded(target: Target) -> str:
    return await target.flood(4, request("GET", "/v1/uid", X_Forwarded_For="," * 15_000))


async def tiny_chunks(target: Target) -> str:
    body = b"".join(b"1\r\n%c\r\n" % c for c in b'{"displayName": "%s"}' % (b"a" * 10_000))
    chunked = {"Transfer_Encoding": "chunked", "Content_Type": "application/json"}
    return await target.flood(
        4, request("POST", "/v1/display_name", body + b"0\r\n\r\n", **chunked)
    )


async def two_codings(target: Target) -> str:
    codings = "identity\r\nTransfer-Encoding: chunked"
    return await target.flood(
        1, request("POST", "/v1/display_name", b"0\r\n\r\n", Transfer_Encoding=codings), 1
    )


async def junk(target: Target) -> str:
    return await target.flood(8, os.urandom(65_536))


async def respond_async(target: Target) -> str:
    await target.uploads(range(8), "respond-async", 30)
    return f"{target.counted}; {await target.selected()}"


async def waiting(target: Target) -> str:
    await target.uploads(range(800), "wait=30", 0)
    return f"{target.counted}; {await target.selected()}"


async def byte_a_second(target: Target) -> str:
    opened = await target.connections(1000, b"GET /v1/uid HTTP/1.1\r\nX: ")
    for _ in range(2 * SECONDS):
        for attacker in opened:
            attacker.transport.write(b"x")
        await deferLater(reactor, 1)
    left = sum(not attacker.gone.called for attacker in opened)
    return f"{left} connections are left after {2 * SECONDS} s"


async def stalled(target: Target) -> str:
    head = request("POST", "/v1/avatar/upload", Content_Type="image/jpeg")
    head = head.replace(b"Content-Length: 0", b"Content-Length: 5242880")
    await target.connections(400, head + photos.jpeg(800, 600))
    await deferLater(reactor, 20)
    return target.counted


async def never_read(target: Target) -> str:
    noise = Image.merge("RGB", [Image.effect_noise((600, 600), 99)] * 3)
    noise.putdata([tuple(os.urandom(3)) for _ in range(360_000)])
    status, answer = await target.client(0).upload(photos._bytes(noise, format="PNG"))
    path = answer["url"].removeprefix(target.daemon.images_url) + "_large"
    for attacker in await target.connections(1000, request("GET", path), images=True):
        attacker.transport.pauseProducing()
    await deferLater(reactor, SECONDS)
    return f"upload {status}"


async def idle_connections(target: Target) -> str:
    opened = await target.connections(6000, b"")
    await deferLater(reactor, 1)
    return f"{sum(not attacker.gone.called for attacker in opened)} are kept"


async def names(target: Target) -> str:
    body = b'{"displayName": "A"}'
    flood = target.flood(
        200, request("POST", "/v1/display_name", body, Content_Type="application/json")
    )
    flooding = Deferred.fromCoroutine(flood)
    await deferLater(reactor, 1)
    began = time.monotonic()
    status, _ = await target.client(2).upload(photos.jpeg(480, 360), Prefer="respond-async")
    took = time.monotonic() - began
    return f"{await flooding}; another's upload {status} after {took:.2f} s"


async def helpers_killed(target: Target) -> str:
    return await _signalled(target, signal.SIGKILL, 8)


async def helper_stopped(target: Target) -> str:
    return await _signalled(target, signal.SIGSTOP, 1)


async def _signalled(target: Target, number: int, times: int) -> str:
    """Signal a helper now and then, while 20 users upload."""
    began = time.monotonic()
    uploads = [target.client(u).upload(photos.phone_photo(), Prefer="wait=30") for u in range(20)]
    done = gatherResults([Deferred.fromCoroutine(upload) for upload in uploads])
    for _ in range(times):
        await deferLater(reactor, 1)
        for pid in target.helpers()[:1]:
            os.kill(pid, number)
    found = collections.Counter(str(answer.get("status", status)) for status, answer in await done)
    return f"{dict(found)} after {time.monotonic() - began:.0f} s"


@dataclass(frozen=True)
class Attack:
    """An attack, and what it did to an earlier version."""

    what: str
    before: str
    run: Callable[[Target], Awaitable[str]]
    settings: Mapping[str, object] = field(default_factory=dict)


NO_LIMIT = {"web.max_connections_per_address": 0, "images.max_connections_per_address": 0}

ATTACKS = (
    Attack("none", "", idle),
    Attack("`Prefer: wait=` and 15,000 zeros, 4 clients", "1.3 s each; reads 10 s", prefer_zeros),
    Attack("monogram with 2,600 combining marks, 4 clients", "reads' p50 72 ms", monogram),
    Attack(
        "15 KB of commas in X-Forwarded-For, 4 clients",
        "150 ms each",
        forwarded,
        {"web.client_address_depth": 1},
    ),
    Attack("JSON in chunks of a byte, 4 clients", "100 ms each", tiny_chunks),
    Attack("two Transfer-Encoding headers", "accepted", two_codings),
    Attack("64 KiB of junk, 8 clients", "", junk),
    Attack(
        "8 clients upload with `respond-async` for 30 s, 40 users (before: 120 s)",
        "30,503 × 201; 7 minutes later 40 users wait",
        respond_async,
    ),
    Attack(
        "800 uploads that wait for 30 s, 40 users",
        "1,738 accepted; 3 minutes later 40 users wait",
        waiting,
        NO_LIMIT,
    ),
    Attack("1,000 connections that send a byte a second", "held", byte_a_second, NO_LIMIT),
    Attack("400 uploads of 5 MiB that stall", "+30 MiB", stalled, NO_LIMIT),
    Attack(
        "1,000 readers of 1 MB that do not read",
        "+138 MB; reads up to 4.7 s",
        never_read,
        NO_LIMIT,
    ),
    Attack("6,000 idle connections from one address", "all kept for 60 s", idle_connections),
    Attack("one user sets its name on 200 connections", "another's upload 0.8 s", names, NO_LIMIT),
    Attack("a helper is killed 8 times, 20 photos", "4 of 20 failed", helpers_killed),
    Attack("a helper is stopped, 20 photos", "its jobs wait for 20 s", helper_stopped),
)

HEAD = ("attack", "before", "after", "reads p50 / max", "memory")


async def measure(attack: Attack) -> list[str]:
    """Run an attack, and return its row of the table."""
    accounts = [
        {"token": f"user{n}", "uid": f"{n:032x}", "email": f"user{n}@example.com"}
        for n in range(USERS)
    ]
    settings = {"uploads.per_hour": 0, **attack.settings}
    environ = {"FXPROFILE_IDENTITY__DEV__ACCOUNTS": json.dumps(accounts)}
    async with Daemon(settings=settings, environ=environ) as daemon:
        target = Target(daemon)
        before, probe = memory(daemon), Probe(daemon.ports.web)
        try:
            after = await attack.run(target)
        finally:
            reads = probe.stop()
        grown = (memory(daemon) - before) >> 20
        if count := daemon.output.count("Traceback"):
            after += f"; {count} tracebacks"
    return [attack.what, attack.before, after, reads, f"{grown:+} MiB"]


async def run(chosen: Iterable[str], write: bool) -> None:
    """Run attacks, and print the table."""
    names = set(chosen)
    rows = []
    for attack in ATTACKS:
        if not names or attack.run.__name__ in names:
            rows.append(await measure(attack))
            print(*rows[-1], sep=" | ", flush=True)
    if write:
        write_section("load", table(HEAD, rows))


def main() -> None:
    """Run the attacks from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    choices = [attack.run.__name__ for attack in ATTACKS]
    parser.add_argument("attacks", nargs="*", help=f"of {', '.join(choices)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()

    async def main(_: Any) -> None:
        await run(options.attacks, options.write)

    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))


if __name__ == "__main__":
    main()
