"""What a read costs, in counts that are the same on every machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.app.services import Services
from fxprofile.model.avatars import Variant
from fxprofile.model.profiles import Credentials
from fxprofile.settings.model import Settings
from tests.drivers.sql.traced import trace

ALICE = "a11ce000a11ce000a11ce000a11ce000"
AVATAR = "a" * 32

Read = Callable[[], Awaitable[object]]


class ReadCostTests(TestCase):
    """
    ``/v1/profile`` and ``/v1/avatar`` of a user with an avatar, on SQLite and a cache in memory.

    ``docs/performance.md`` says what the counts are.
    """

    timeout = 60

    async def setUp(self) -> None:
        directory = self.make_directory()
        settings = Settings(
            storage={"directory": directory / "buckets"},
            database={"url": f"sqlite:///{directory / 'profile.db'}"},
            queue={"driver": "memory"},
        )
        services: Any = Services(settings, reactor)
        self.profiles, self.invalidator = services.profiles, services.invalidator
        self.credentials = Credentials(ALICE, ("profile",))
        store, self.database = services.store, services.database
        services.stack.startService()
        self.addCleanup(services.stack.stopService)
        await self.database.ready()
        await store.accept(avatar_id=AVATAR, uid=ALICE, now=1)
        pictures = {"default": Variant(200, 150, 1000)}
        await store.ready(avatar_id=AVATAR, variants=pictures, placeholder="L" * 28, now=2)
        self.statements: list[str] = []
        trace(self.database._pools.engine, self._executes)

    def make_directory(self) -> Path:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        return directory

    def _executes(self, statement: str) -> None:
        if not statement.startswith(("BEGIN", "COMMIT")):
            self.statements.append(statement)

    async def costs(self, read: Read) -> tuple[int, int]:
        """Return how many statements and calls in threads a read takes."""
        pools = self.database._pools
        self.statements.clear()
        before = sum(threads.calls for threads in {pools.readers, pools.writers})
        await read()
        calls = sum(threads.calls for threads in {pools.readers, pools.writers}) - before
        return len(self.statements), calls

    async def check(self, read: Read) -> None:
        self.assertEqual(await self.costs(read), (1, 1))
        for _ in range(3):
            self.assertEqual(await self.costs(read), (0, 0))
        await self.invalidator.invalidate(ALICE)
        self.assertEqual(await self.costs(read), (1, 1))

    async def avatar(self) -> Any:
        return await self.profiles.avatar(token="alice", credentials=self.credentials)

    async def test_a_profile(self) -> None:
        """A profile takes one statement in one call of a thread; a cached one takes neither."""
        await self.check(lambda: self.profiles.view(token="alice", credentials=self.credentials))

    async def test_an_avatar(self) -> None:
        """An avatar takes one statement in one call of a thread; a cached one takes neither."""
        await self.check(self.avatar)
        shown, pending = await self.avatar()
        self.assertEqual((shown["id"], shown["placeholder"], pending), (AVATAR, "L" * 28, None))

    async def test_an_avatar_beside_a_pending_upload(self) -> None:
        """While an upload is pending, each read takes one statement in one call of a thread."""
        await self.avatar()
        pending = "b" * 32
        await self.profiles._store.accept(avatar_id=pending, uid=ALICE, now=3)
        await self.invalidator.invalidate(ALICE)
        for _ in range(3):
            self.assertEqual(await self.costs(self.avatar), (1, 1))
        self.assertEqual((await self.avatar())[1], pending)
