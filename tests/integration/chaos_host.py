"""A daemon on its embedded drivers, and faults of its host.  Most need root."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from tests.integration.chaos import USERS, Service
from tests.support.daemon import Daemon

#: Size of the disk of the daemon.
DISK = "64m"


class HostWorld(Service):
    """The daemon has a small file system of its own."""

    def __init__(self) -> None:
        self.tokens = [f"user{number}" for number in range(USERS)]
        self.daemon = Daemon(Path(tempfile.mkdtemp(prefix="fxprofile-disk-")))

    async def start(self) -> None:
        """Mount the file system, and start the daemon."""
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.daemon.directory)
        accounts = [
            {"token": token, "uid": f"{number:032x}", "email": f"{token}@example.com"}
            for number, token in enumerate(self.tokens)
        ]
        self.daemon.settings = {"uploads.per_hour": 0}
        self.daemon.environ = {"FXPROFILE_IDENTITY__DEV__ACCOUNTS": json.dumps(accounts)}
        await self.daemon.start()

    async def stop(self) -> None:
        """Stop the daemon, and remove its files."""
        await self.daemon.remove()
        _run("umount", "--lazy", self.daemon.directory)
        self.daemon.directory.rmdir()

    @asynccontextmanager
    async def full_disk(self) -> AsyncIterator[None]:
        """Fill the disk to the last page."""
        filler = self.daemon.directory / "filler"
        _fill(filler)
        try:
            yield
        finally:
            filler.unlink()

    @asynccontextmanager
    async def read_only_bucket(self) -> AsyncIterator[None]:
        """Make the file system of the private bucket read-only."""
        bucket = self.daemon.directory / "var/buckets/fxprofile-private"
        _run("mount", "--bind", bucket, bucket)
        _run("mount", "-o", "remount,bind,ro", bucket)
        try:
            yield
        finally:
            _run("umount", "--lazy", bucket)

    @asynccontextmanager
    async def no_descriptors(self) -> AsyncIterator[None]:
        """Allow the daemon no further descriptor than it has."""
        pid = self.daemon.pid
        assert pid is not None
        used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    @asynccontextmanager
    async def locked_database(self) -> AsyncIterator[None]:
        """Hold SQLite's exclusive lock in another process."""
        path = self.daemon.directory / "var/profile.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")


def _run(*command: str | Path) -> None:
    """Run a command that does not take long."""
    subprocess.run(command, check=True)


def _fill(path: Path) -> None:
    """Write a file until there is no room."""
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
