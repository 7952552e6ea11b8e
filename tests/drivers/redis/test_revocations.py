"""Revocations in Redis, against a server of its own."""

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
    """What processes tell each other of tokens."""

    def setUp(self) -> None:
        super().setUp()
        self.redis = self.server()

    def revocations(self, keep: int = 600) -> RedisRevocations:
        revocations = RedisRevocations(self.connect(self.redis.url()), keep=keep)
        verifyObject(IRevocations, revocations)
        return revocations

    def time(self) -> int:
        """The time of the server."""
        return int(self.redis.ask("TIME").split("\r\n")[2])

    async def test_told(self) -> None:
        """What one process tells another one knows: when it was, by the clock of the server."""
        here, there = self.revocations(), self.revocations()
        self.assertIsNone(await there.revoked_at(uid=ALICE))
        before = self.time()
        await here.revoke(uid=ALICE)
        first = await there.revoked_at(uid=ALICE)
        self.assertTrue(before <= first <= self.time())
        self.assertIsNone(await there.revoked_at(uid=BOB))

    async def test_ends_by_itself(self) -> None:
        """It is remembered for as long as told."""
        revocations = self.revocations(keep=60)
        await revocations.revoke(uid=ALICE)
        left = int(self.redis.ask("PTTL", f"fxprofile:revoked:{ALICE}")[1:])
        self.assertTrue(0 < left <= 60_000, left)
        self.redis.ask("PEXPIRE", f"fxprofile:revoked:{ALICE}", "0")
        self.assertIsNone(await revocations.revoked_at(uid=ALICE))

    async def test_down(self) -> None:
        """When nobody can tell, it is an error of the cache."""
        revocations = self.revocations()
        await revocations.revoke(uid=ALICE)
        self.redis.stop()
        with self.assertRaises(CacheError):
            await revocations.revoke(uid=ALICE)
        with self.assertRaises(CacheError):
            await revocations.revoked_at(uid=ALICE)

    async def test_nonsense(self) -> None:
        """What someone else put under our key is no time."""
        revocations = self.revocations()
        self.redis.ask("SET", f"fxprofile:revoked:{ALICE}", "yesterday")
        self.assertIsNone(await revocations.revoked_at(uid=ALICE))
