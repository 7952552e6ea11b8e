"""Revocations in Redis, tested with a real server."""

from __future__ import annotations

from zope.interface.verify import verifyObject

from fxprofile.model.errors import CacheError
from fxprofile.model.ports import IRevocations
from tests.contracts.cache import ALICE, BOB
from tests.drivers.redis.redis_case import RedisCase
from tests.support.servers.redis import missing

if missing() is None:
    from fxprofile.drivers.redis.revocations import RedisRevocations


class RedisRevocationsTests(RedisCase):
    """Revocations that web processes share in Redis."""

    def setUp(self) -> None:
        super().setUp()
        self.redis = self.server()

    def revocations(self, keep: int = 600) -> RedisRevocations:
        revocations = RedisRevocations(self.connect(self.redis.url()), keep=keep)
        verifyObject(IRevocations, revocations)
        return revocations

    def time(self) -> int:
        """Return the time of the server."""
        return int(self.redis.ask("TIME").split("\r\n")[2])

    async def test_revocation_is_visible_in_other_processes(self) -> None:
        """Another process reads the time of a revocation, by the clock of the server."""
        here, there = self.revocations(), self.revocations()
        self.assertIsNone(await there.revoked_at(uid=ALICE))
        before = self.time()
        await here.revoke(uid=ALICE)
        first = await there.revoked_at(uid=ALICE)
        self.assertTrue(before <= first <= self.time())
        self.assertIsNone(await there.revoked_at(uid=BOB))

    async def test_revocations_expire(self) -> None:
        """A revocation is kept for the given time."""
        revocations = self.revocations(keep=60)
        await revocations.revoke(uid=ALICE)
        left = int(self.redis.ask("PTTL", f"fxprofile:revoked:{ALICE}")[1:])
        self.assertTrue(0 < left <= 60_000, left)
        self.redis.ask("PEXPIRE", f"fxprofile:revoked:{ALICE}", "0")
        self.assertIsNone(await revocations.revoked_at(uid=ALICE))

    async def test_outage_raises_cache_error(self) -> None:
        """While Redis is down, both methods raise CacheError."""
        revocations = self.revocations()
        await revocations.revoke(uid=ALICE)
        self.redis.stop()
        with self.assertRaises(CacheError):
            await revocations.revoke(uid=ALICE)
        with self.assertRaises(CacheError):
            await revocations.revoked_at(uid=ALICE)

    async def test_foreign_data_is_ignored(self) -> None:
        """A value that this driver did not write counts as no revocation."""
        revocations = self.revocations()
        self.redis.ask("SET", f"fxprofile:revoked:{ALICE}", "yesterday")
        self.assertIsNone(await revocations.revoked_at(uid=ALICE))
