"""A Redis server for a test, and connections to it."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from fxprofile.model.errors import CacheError
from tests.contracts.cache import ALICE
from tests.support.servers.redis import RedisServer, missing

if missing() is None:
    from fxprofile.drivers.redis.cache import RedisProfileCache
    from fxprofile.drivers.redis.connection import RedisAddress, RedisConnection


class RedisCase(TestCase):
    """A server, and connections to it."""

    skip = missing()
    timeout = 60

    def setUp(self) -> None:
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def server(self, **arguments: Any) -> RedisServer:
        server = RedisServer(**arguments)
        self.addCleanup(server.remove)
        server.start()
        return server

    def connect(self, url: str, timeout: float = 5) -> RedisConnection:
        connection = RedisConnection(reactor, RedisAddress.parse(url), timeout=timeout)
        connection.startService()
        self.addCleanup(connection.stopService)
        return connection

    def cache(self, url: str, *, ttl: float = 60, timeout: float = 5) -> RedisProfileCache:
        return RedisProfileCache(self.connect(url, timeout), ttl=ttl)

    async def until_it_works(self, cache: RedisProfileCache) -> None:
        """Wait until the cache answers; the time of the test is the limit."""
        while True:
            try:
                return await cache.check()
            except CacheError:
                await deferLater(reactor, 0.02)

    async def assertFails(self, cache: RedisProfileCache) -> str:
        """Every call fails with the error of a cache; its text."""
        texts = []
        for call in (
            cache.lookup(uid=ALICE, variant="full"),
            cache.store(uid=ALICE, variant="full", value="1", generation=""),
            cache.invalidate(uid=ALICE),
            cache.check(),
        ):
            with self.assertRaises(CacheError) as raised:
                await call
            texts.append(str(raised.exception))
        return " ".join(texts)


#: Lets time pass for a server, by moving the expiry of its keys and the times in them.
SHIFT = """
local seconds = tonumber(ARGV[1])
for _, key in ipairs(redis.call('KEYS', '*')) do
    local left = redis.call('PTTL', key) - seconds * 1000
    if redis.call('TYPE', key).ok == 'list' then
        local hits = redis.call('LRANGE', key, 0, -1)
        for i, hit in ipairs(hits) do
            redis.call('LSET', key, i - 1, string.format('%.0f', hit - seconds * 1000000))
        end
    else
        local members = redis.call('HGETALL', key)
        for i = 1, #members, 2 do
            local ends, text = string.match(members[i + 1], '^(%d+)(|.*)$')
            if ends then
                local earlier = string.format('%.0f', ends - seconds * 1000)
                redis.call('HSET', key, members[i], earlier .. text)
            end
        end
    end
    if left > 0 then redis.call('PEXPIRE', key, left) else redis.call('DEL', key) end
end
"""
