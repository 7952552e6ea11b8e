"""
Upload images while processes are killed, and count what is lost.

    python -m benchmarks.soak --uploads=2000 --every=2

One web, one images and two worker processes share a folder.  Every two seconds a random one is
killed with SIGKILL and restarted, unless it is just starting.  When all uploads are answered the
killing stops, the repair loops run until no job or result is left, and objects of uploads that
were never accepted are deleted, as fxprofile-admin orphans does after two days.  The figures:

- lost: uploads that were answered with 201 and are neither ready nor replaced
- broken: selected avatars without their three pictures
- wrong: users whose avatar is not the newest accepted upload
- orphans: objects that no row needs

The status is 1 if any of these is not 0.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater, react

from fxprofile.admin.orphans import sweep_of
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.ports import IQueue
from fxprofile.settings.load import load
from tests.integration import photos
from tests.integration.client import Client
from tests.support.daemon import Daemon, Ports

ROLES = ("web", "worker", "worker", "images")

#: Seconds until the service must be quiet.
PATIENCE = 900


class Soak:
    """One run of the soak."""

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self.reactor = reactor
        self.options = options
        self.random = random.Random(options.seed)
        self.directory = Path(tempfile.mkdtemp(prefix="fxprofile-soak-"))
        self.daemons: list[Daemon] = []
        # Killed daemons that do not answer again yet.
        self.down: dict[Daemon, Deferred[None]] = {}
        self.accepted: dict[str, list[str]] = collections.defaultdict(list)
        self.figures: collections.Counter[str] = collections.Counter()
        self.left = options.uploads
        self.images = [photos.jpeg(side, side) for side in (120, 300, 640)]

    async def run(self) -> bool:
        """Run the soak, print its figures, and return whether nothing was lost."""
        began = time.monotonic()
        await self.start()
        killing = Deferred.fromCoroutine(self.kill_now_and_then())
        killing.addErrback(lambda failure: failure.trap(CancelledError) and None)
        users = [f"user{number}" for number in range(self.options.users)]
        await gatherResults([Deferred.fromCoroutine(self.user(token)) for token in users])
        killing.cancel()
        uploaded = time.monotonic()
        await gatherResults(list(self.down.values()), consumeErrors=True)
        await self.settle(users)
        await self.count(users)
        self.figures["seconds of uploading"] = round(uploaded - began)
        self.figures["seconds until quiet"] = round(time.monotonic() - uploaded)
        for daemon in self.daemons:
            await daemon.kill()
        for name, figure in self.figures.items():
            print(f"{figure:8}  {name}")
        return not any(self.figures[name] for name in ("lost", "broken", "wrong", "orphans"))

    async def start(self) -> None:
        accounts = [
            {"token": f"user{n}", "uid": f"{n:032x}", "email": f"user{n}@example.com"}
            for n in range(self.options.users)
        ]
        environ = {"FXPROFILE_IDENTITY__DEV__ACCOUNTS": json.dumps(accounts)}
        settings = {
            "uploads.per_hour": 0,
            "limits.writes_per_minute": 0,
            "uploads.wait": 1,
            "queue.visibility_timeout": 5,
        }
        ports = Ports()
        for role in ROLES:
            daemon = Daemon(
                self.directory, role=role, settings=settings, environ=environ, ports=ports
            )
            await daemon.start()
            self.daemons.append(daemon)

    async def kill_now_and_then(self) -> None:
        while True:
            await deferLater(self.reactor, self.options.every)
            daemon = self.random.choice(self.daemons)
            if daemon not in self.down:
                self.down[daemon] = Deferred.fromCoroutine(self.replace(daemon))

    async def replace(self, daemon: Daemon) -> None:
        """Kill a process and start it again, as a service manager would."""
        await daemon.kill()
        self.figures[f"{daemon.role} killed"] += 1
        try:
            await daemon.start()
        finally:
            del self.down[daemon]

    async def user(self, token: str) -> None:
        client = Client(self.daemons[0], token)
        while self.left > 0:
            self.left -= 1
            try:
                status, answer = await client.upload(self.random.choice(self.images))
            except Exception:
                # The connection broke: whether it was accepted is unknown, so try again.
                self.figures["unanswered"] += 1
                self.left += 1
                await deferLater(self.reactor, 0.2)
                continue
            if status == 201:
                self.figures["accepted"] += 1
                self.accepted[token].append(answer["id"])
            else:
                self.figures[f"refused with {status}"] += 1
                self.left += 1
                await deferLater(self.reactor, 0.2)

    def files(self) -> set[str]:
        root = self.directory / "var" / "buckets"
        return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}

    async def selected(self, token: str) -> str | None:
        _, avatar = await Client(self.daemons[0], token).ask("GET", "/v1/avatar")
        avatar_id: str = avatar["id"]
        return None if avatar_id == DEFAULT_AVATAR_ID else avatar_id

    async def wanted_files(self, users: list[str]) -> set[str]:
        chosen = [await self.selected(token) for token in users]
        return {
            f"fxprofile-public/a/{avatar}{size}"
            for avatar in chosen
            if avatar
            for size in ("", "_small", "_large")
        }

    async def settle(self, users: list[str]) -> None:
        """Wait until the service is quiet, and delete the objects that no row needs."""
        var = self.directory / "var"
        overrides = [
            f"database.url=sqlite:///{var}/profile.db",
            f"storage.directory={var}/buckets",
            "queue.driver=database",
        ]
        tools = Tools(load(overrides=overrides, environ={}), self.reactor)
        tools.stack.startService()
        try:
            await tools.open_database()
            queues = [tools.jobs_queue, tools.results_queue]
            await self.until_quiet(users, queues)
            await self.sweep(tools)
            await self.until_quiet(users, queues)
        finally:
            await tools.stack.stopService()

    async def until_quiet(self, users: list[str], queues: list[IQueue]) -> None:
        """
        Wait until no upload is pending, no picture is to be deleted, and no job or result is
        waiting or in flight.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            public = {name for name in self.files() if name.startswith("fxprofile-public/")}
            pending = 0
            for token in users:
                _, avatar = await Client(self.daemons[0], token).ask("GET", "/v1/avatar")
                pending += "pending" in avatar
            for queue in queues:
                depth = await queue.depth()
                pending += depth.visible + depth.in_flight
            if not pending and public == await self.wanted_files(users):
                return
            await deferLater(self.reactor, 1)

    async def sweep(self, tools: Tools) -> None:
        """Send delete jobs for the orphans, and wait until they are done."""
        # Nothing is in flight, so no grace period is needed.
        sweep = sweep_of(tools, grace=0)
        swept = await sweep.remove(await sweep.find())
        self.figures["orphans of uploads that were never accepted"] = swept
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and (await sweep.find()).orphans:
            await deferLater(self.reactor, 1)

    async def count(self, users: list[str]) -> None:
        for name in ("lost", "broken", "wrong", "orphans"):
            self.figures[name] = 0
        for token, ids in self.accepted.items():
            client = Client(self.daemons[0], token)
            states = {avatar_id: await client.status(avatar_id) for avatar_id in ids}
            self.figures["lost"] += sum(s not in ("ready", "replaced") for s in states.values())
            chosen = await self.selected(token)
            # A newer upload whose response was lost may have been accepted.
            self.figures["wrong"] += chosen is None or chosen in ids[:-1]
        wanted, there = await self.wanted_files(users), self.files()
        self.figures["broken"] = len({name[:51] for name in wanted - there})
        self.figures["orphans"] = len(there - wanted)
        for name in sorted(there - wanted):
            print(f"orphan: {name}")


def main() -> None:
    """Run the soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--uploads", type=int, default=2000)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    good: list[bool] = []

    async def run(reactor: Any) -> None:
        soak = Soak(reactor, options)
        try:
            good.append(await soak.run())
        finally:
            for daemon in soak.daemons:
                await daemon.kill()
            shutil.rmtree(soak.directory, ignore_errors=True)

    try:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor)))
    except SystemExit as end:
        sys.exit(end.code or (0 if good == [True] else 1))


if __name__ == "__main__":
    main()
