"""``fxprofile-admin capacity``: measure what this machine carries."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from fxprofile.admin.shared.commands import AdminCommand, Answer, Problem, with_tools
from fxprofile.admin.shared.output import Members, pairs
from fxprofile.admin.shared.tools import Tools, gathered
from fxprofile.deferreds.tasks import sleep
from fxprofile.http_client.errors import HttpError
from fxprofile.model.keys import VARIANTS

#: A photo of 1,600 by 1,200 pixels.
PHOTO: Final = files("fxprofile.admin") / "samples" / "photo.jpeg"

#: How much of what was measured is planned for.
UTILIZATION: Final = 0.7
#: Readers, and uploads for each crunch slot, at the same time: enough to leave nothing idle.
_READERS: Final = 8
_UPLOADS_PER_SLOT: Final = 2
#: Seconds for which the daemon may start, and after which a stopped one is killed.
_START: Final = 60.0
_STOP: Final = 30.0
_MAX_BODY: Final = 1 << 20

#: Starts twistd, which ends with this process.
_BOOT: Final = (
    "import sys; from fxprofile.crunch.sandbox.process import die_with; "
    "die_with(int(sys.argv.pop(1))); from twisted.scripts.twistd import run; run()"
)

Ask = Callable[[int], Awaitable[object]]


@click.command(cls=AdminCommand)
@click.option(
    "--seconds", default=60.0, type=click.FloatRange(1, 3600), help="How long to measure."
)
@click.option(
    "--signups-per-second",
    "signups",
    type=click.FloatRange(0, min_open=True),
    help="Plan for so many new users a second, each with one upload.",
)
@click.option(
    "--reads-per-signup",
    "reads",
    default=10.0,
    type=click.FloatRange(0),
    help="Plan for so many reads of profiles for each new user.",
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is uploaded, a JPEG; by default a photo of 2 megapixels.",
)
@with_tools
async def capacity(
    tools: Tools, seconds: float, signups: float | None, reads: float, photo: Path | None
) -> Answer:
    """
    Measure how many uploads and reads a second this machine carries.

    Starts a daemon with all roles on files and SQLite in a temporary folder, with the crunch
    settings of the service. Reads profiles, uploads photos, and does both, each for a third of the
    time. The daemon of the service, its database and its buckets are not used, but share the
    machine: stop it, or measure another machine of the same kind.
    """
    body = await tools.files.run((photo or PHOTO).read_bytes)
    slots = tools.settings.crunch.processes
    async with _daemon(tools) as ports:
        load = _Load(tools, ports, body)
        stored = await load.stored()
        third = seconds / 3
        read_rate, read_time = await load.rate(third, load.read, _READERS)
        upload_rate, upload_time = await load.rate(third, load.upload, slots * _UPLOADS_PER_SLOT)
        busy = tools.reactor.seconds() + third
        _, (_, busy_time) = await gathered(
            lambda work: work,
            (
                load.rate(busy - tools.reactor.seconds(), load.upload, slots * _UPLOADS_PER_SLOT),
                load.rate(busy - tools.reactor.seconds(), load.read, 2),
            ),
            2,
        )
    found: Members = {
        "crunch_processes": slots,
        "uploads_per_second": round(upload_rate, 2),
        "upload_milliseconds": round(upload_time * 1000, 1),
        "reads_per_second": round(read_rate, 1),
        "read_milliseconds": round(read_time * 1000, 1),
        "read_milliseconds_while_uploading": round(busy_time * 1000, 1),
        "received_gigabytes_per_day": round(upload_rate * len(body) * 86400 / 1e9, 2),
        "stored_gigabytes_per_day": round(upload_rate * stored * 86400 / 1e9, 2),
    }
    if signups is not None:
        found |= machines(signups, reads, upload_rate, read_rate)
    return Answer(found, pairs(found))


def machines(signups: float, reads: float, upload_rate: float, read_rate: float) -> Members:
    """
    Return how many machines like the one measured are needed, with a reserve.

    :param signups: a second, each with an upload.
    :param reads: for each sign-up.
    """
    workers = signups / (upload_rate * UTILIZATION)
    webs = signups * reads / (read_rate * UTILIZATION)
    return {
        "signups_per_second": signups,
        "reads_per_signup": reads,
        "worker_machines": math.ceil(workers),
        "web_machines": math.ceil(webs),
        "combined_machines": math.ceil(workers + webs),
    }


@dataclass
class _Load:
    """Requests to the daemon, by development users."""

    tools: Tools
    ports: Sequence[int]
    photo: bytes

    async def read(self, user: int) -> None:
        """Read a profile."""
        await self._ask(b"GET", "/v1/profile", user)

    async def upload(self, user: int) -> str:
        """Upload the photo, wait until it is ready, and return the path of its picture."""
        headers = [(b"Content-Type", b"image/jpeg"), (b"Prefer", b"wait=30")]
        answer = await self._ask(b"POST", "/v1/avatar/upload", user, headers, self.photo)
        members = json.loads(answer)
        if members["status"] != "ready":
            raise Problem("an upload was not processed within 30 s: measure on an idle machine")
        return "/a/" + str(members["id"])

    async def stored(self) -> int:
        """Return the bytes of the pictures of an upload."""
        path = await self.upload(0)
        suffixes = [suffix for suffix, _ in VARIANTS.values()]
        pictures = [await self._ask(b"GET", path + end, 0, port=1) for end in suffixes]
        return sum(map(len, pictures))

    async def rate(self, seconds: float, ask: Ask, clients: int) -> tuple[float, float]:
        """
        Send requests for some seconds, each client one after the other.

        :returns: how many were answered in a second, and the seconds that 95 % of them took at
            most.
        """
        clock = self.tools.reactor
        began = clock.seconds()
        times: list[float] = []

        async def client(user: int) -> None:
            while (start := clock.seconds()) < began + seconds:
                await ask(user)
                times.append(clock.seconds() - start)

        await gathered(client, range(clients), clients)
        times.sort()
        return len(times) / (clock.seconds() - began), times[int(len(times) * 0.95)]

    async def _ask(
        self,
        method: bytes,
        path: str,
        user: int,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        port: int = 0,
    ) -> bytes:
        """
        Send a request, and return the body of the response.

        :raises Problem: if that fails.
        """
        url = f"http://127.0.0.1:{self.ports[port]}{path}"
        token = (b"Authorization", b"Bearer user%d" % user)
        try:
            response = await self.tools.http.send(method, url.encode(), [token, *headers], body)
            answer = await response.read(_MAX_BODY)
        except HttpError as error:
            raise Problem(f"{path} of the trial daemon: {error}") from None
        if response.status not in (200, 201):
            raise Problem(f"{path} of the trial daemon: {response.status} {answer[:200]!r}")
        return answer


@asynccontextmanager
async def _daemon(tools: Tools) -> AsyncIterator[Sequence[int]]:
    """
    Run a daemon with all roles in a temporary folder.

    :returns: the ports of its API and of its images.
    :raises Problem: with the end of its output, if it does not start.
    """
    process = _DaemonProcess()
    with (
        TemporaryDirectory(prefix="fxprofile-capacity-") as folder,
        _reserved_ports(3) as ports,
    ):
        environ = {n: value for n, value in os.environ.items() if not n.startswith("FXPROFILE_")}
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        transport = tools.reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-c", _BOOT, str(os.getpid()), *_arguments(tools, ports)],
            env=environ,
            path=folder,
        )
        try:
            deadline = tools.reactor.seconds() + _START
            while not await _is_ready(tools, ports[0]):
                if process.ended.called or tools.reactor.seconds() > deadline:
                    output = process.output.decode(errors="replace").strip()
                    raise Problem(f"the trial daemon did not start: {output}")
                await sleep(tools.reactor, 0.1)
            yield ports
        finally:
            if not process.ended.called:
                transport.signalProcess("TERM")
                late = tools.reactor.callLater(_STOP, transport.signalProcess, "KILL")
                await process.ended
                if late.active():
                    late.cancel()


def _arguments(tools: Tools, ports: Sequence[int]) -> list[str]:
    """Return the command line of the daemon: the crunch settings of the service, and no limits."""
    users = max(_READERS, tools.settings.crunch.processes * _UPLOADS_PER_SLOT)
    accounts = [
        {"token": f"user{n}", "uid": f"{n:032x}", "email": f"user{n}@example.com"}
        for n in range(users)
    ]
    api, images, admin = (f"tcp:{port}:interface=127.0.0.1" for port in ports)
    crunch = tools.settings.crunch.model_dump(mode="json")
    settings: Members = {
        **{f"crunch.{name}": value for name, value in crunch.items() if value is not None},
        "web.listen": api,
        "images.listen": images,
        "admin.listen": admin,
        "images.url": f"http://127.0.0.1:{ports[1]}/a/{{id}}",
        "identity.dev.accounts": accounts,
        "uploads.per_hour": 0,
        "limits.writes_per_minute": 0,
        "logging.level": "error",
    }
    options = [
        f"--set={name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in settings.items()
    ]
    return ["--nodaemon", "--pidfile=", "fxprofile", *options]


async def _is_ready(tools: Tools, port: int) -> bool:
    with suppress(HttpError):
        url = b"http://127.0.0.1:%d/__lbheartbeat__" % port
        response = await tools.http.send(b"GET", url)
        await response.read(_MAX_BODY)
        return response.status == 200
    return False


@contextmanager
def _reserved_ports(number: int) -> Iterator[Sequence[int]]:
    """
    Reserve ports of 127.0.0.1, at which only a server that is told to can listen.

    A socket stays bound to each without listening, so that the kernel gives it to no other process
    that asks for a free one.  A server that sets SO_REUSEADDR, as Twisted's do, can listen there.
    """
    with ExitStack() as sockets:
        holders = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
            # Only after binding: before, the port could be one that is reserved in the same way.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield [holder.getsockname()[1] for holder in holders]


class _DaemonProcess(ProcessProtocol):
    """
    The process of the daemon.

    :ivar output: the end of what it has written.
    :ivar ended: fires when it has ended.
    """

    def __init__(self) -> None:
        self.output = b""
        self.ended: Deferred[None] = Deferred()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self.output = (self.output + data)[-2000:]

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(None)
