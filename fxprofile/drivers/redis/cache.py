"""A profile cache in Redis 5 or later, shared by all web processes."""

from __future__ import annotations

from typing import Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from fxprofile.drivers.redis.connection import RedisConnection
from fxprofile.model.ports import IProfileCache

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_GET = (
    _NOW
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return false end
local bar = string.find(text, '|', 1, true)
if tonumber(string.sub(text, 1, bar - 1)) <= now then return false end
return string.sub(text, bar + 1)
"""
)

# The whole hash lives as long as the text that was set last.
_SET = (
    _NOW
    + """
if ARGV[4] == '1' and (redis.call('HGET', KEYS[1], 'generation') or '') ~= ARGV[5] then
    return 0
end
local ends = string.format('%.0f', now + ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], ends .. '|' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[3], redis.call('PTTL', KEYS[1])))
return 1
"""
)

# The generation outlives the texts, for whoever is reading the profile meanwhile.
_DROP = """
local time = redis.call('TIME')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'generation', time[1] .. '.' .. time[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""

#: Milliseconds that a generation is remembered: far longer than reading a profile takes.
_GENERATION: Final = 60_000


@implementer(IProfileCache)
class RedisCache(Service):
    """
    Texts in Redis: one hash for each user, one field for each variant.

    :param connection: to Redis; started and stopped with this.
    :param ttl: seconds that a text is kept.
    :param prefix: of all keys.
    """

    name = "cache"

    def __init__(
        self, connection: RedisConnection, *, ttl: float, prefix: str = "fxprofile:profile:"
    ) -> None:
        self.connection = connection
        self._ttl = max(1, round(ttl * 1000))
        self._prefix = prefix

    def startService(self) -> None:
        super().startService()
        self.connection.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self.connection.stopService()

    async def get(self, *, uid: str, variant: str) -> str | None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        text = await self.connection.script(
            _GET, keys=[self._prefix + uid], arguments=[f"={variant}"]
        )
        # What is not UTF-8 was not set here, and comes as bytes.
        return text if isinstance(text, str) else None

    async def set(
        self, *, uid: str, variant: str, value: str, generation: str | None = None
    ) -> None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        await self.connection.script(
            _SET,
            keys=[self._prefix + uid],
            arguments=[
                f"={variant}",
                value,
                self._ttl,
                int(generation is not None),
                generation or "",
            ],
        )

    async def generation(self, *, uid: str) -> str:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        generation = await self.connection.call("HGET", self._prefix + uid, "generation")
        return generation if isinstance(generation, str) else ""

    async def drop(self, *, uid: str) -> None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        await self.connection.script(_DROP, keys=[self._prefix + uid], arguments=[_GENERATION])

    async def check(self) -> None:
        """See :class:`fxprofile.model.ports.IProfileCache`."""
        await self.connection.call("PING")
