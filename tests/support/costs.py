"""
What an upload costs on the embedded drivers: transactions that write, syncs, and calls in threads.

The combined role without its listeners and repair loops runs in the calling process, with a fake
cruncher: the real one makes one call in a thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from twisted.internet.task import deferLater

from fxprofile.app.services import Services
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.filesystem.bucket import FilesystemBucket
from fxprofile.model.avatars import Avatar, Status
from fxprofile.settings.model import Settings
from tests.drivers.sql.traced import trace
from tests.support.fakes.cruncher import FakeCruncher

#: Seconds until an upload and the deletion that follows it must be over.
PATIENCE = 60


@dataclass
class Costs:
    """
    What uploads cost.

    :ivar transactions: how many wrote.  Each is one commit, and one sync of SQLite's log.
    :ivar syncs: of files, folders and the log.
    :ivar hops: calls in threads.
    """

    transactions: int = 0
    syncs: int = 0
    hops: int = 0

    def __sub__(self, other: Costs) -> Costs:
        return Costs(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


class CountedUploads:
    """
    Uploads of one user, each of which replaces the one before.

    :param reactor: runs.
    :param directory: an empty folder.
    :param sections: of the settings.
    """

    def __init__(self, reactor: Any, directory: Path, **sections: Mapping[str, object]) -> None:
        self._reactor = reactor
        self._file = directory / "profile.db"
        embedded = {
            "storage": {"directory": directory / "buckets"},
            "queue": {"driver": "memory"},
        }
        database = {"url": f"sqlite:///{self._file}"}
        settings = Settings(database=database, **{**embedded, **sections})
        self._services = Services(settings, reactor, cruncher=FakeCruncher())
        self._counted = Costs()
        self._is_synced = True

    async def start(self) -> None:
        """Start the services, and open the database."""
        services: Any = self._services
        _ = services.results_poller, services.jobs_poller
        for bucket in (services.private_bucket, services.public_bucket):
            if isinstance(bucket, FilesystemBucket):
                bucket.make_folder()
                # Its clean-up calls threads when it likes.
                bucket.disownServiceParent()
        services.stack.startService()
        await services.database.ready()
        assert services.database._pools is not None
        trace(services.database._pools.engine, self._executes)

    async def stop(self) -> None:
        """Stop the services."""
        await self._services.stack.stopService()

    def _executes(self, statement: str) -> None:
        if statement.startswith("PRAGMA synchronous"):
            self._is_synced = statement.endswith("FULL")
        elif statement == "BEGIN IMMEDIATE":
            self._counted.transactions += 1
            self._counted.syncs += self._is_synced

    def counting(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        """Return a sync that is counted."""

        def counted(descriptor: int) -> None:
            self._counted.syncs += 1
            sync(descriptor)

        return counted

    def costs(self) -> Costs:
        """Return the costs so far."""
        services, counted = self._services, self._counted
        assert services.database._pools is not None
        pools: Any = services.database._pools
        threads = {services.files, pools.readers, pools.writers}
        return Costs(counted.transactions, counted.syncs, sum(each.calls for each in threads))

    async def upload(self, photo: bytes) -> Avatar:
        """
        Upload a photo as the API does, and wait until the avatar that it replaces is deleted.

        The backlog of all users, which the API reads once a second, has just been read.
        """
        services, uid = self._services, "a" * 32
        async with services.shedder.admitted(uid=uid, length=len(photo)) as keep:
            accepted = await services.intake.accept(
                uid=uid, body=BytesBody(photo), length=len(photo), keep=keep
            )
        avatar = await services.selection.wait(accepted, PATIENCE)
        assert avatar.status is Status.READY, avatar
        for _ in range(PATIENCE * 100):
            if self._is_idle():
                return avatar
            await deferLater(self._reactor, 0.01)
        raise AssertionError("the avatar that was replaced is not deleted")

    def _is_idle(self) -> bool:
        """Return whether no row is pending, and no message is left."""
        queues: Any = (self._services.jobs_queue, self._services.results_queue)
        if any(queue._entries for queue in queues):
            return False
        return not self._pending()

    def _pending(self) -> int:
        """Return how many rows are pending."""
        with closing(sqlite3.connect(self._file)) as connection:
            pending = "SELECT count(*) FROM avatars WHERE owed_since IS NOT NULL"
            return connection.execute(pending).fetchone()[0]


async def costs_of(
    reactor: Any, directory: Path, photo: bytes, uploads: int, patch: Callable[..., object]
) -> list[Costs]:
    """
    Return the costs of each of several uploads.

    :param directory: an empty folder.
    :param patch: sets an attribute for the time of the test.
    """
    counted = CountedUploads(reactor, directory)
    for name in ("fsync", "fdatasync"):
        patch(os, name, counted.counting(getattr(os, name)))
    await counted.start()
    costs = []
    try:
        # The first one replaces nothing, and the folders are made.
        await counted.upload(photo)
        for _ in range(uploads):
            await counted._services.shedder.look()
            before = counted.costs()
            await counted.upload(photo)
            costs.append(counted.costs() - before)
    finally:
        await counted.stop()
    return costs
