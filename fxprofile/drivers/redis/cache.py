"""A profile cache in Redis 5 or later, shared by all web processes."""

from __future__ import annotations

from typing import Final

import attrs
from zope.interface import implementer

from fxprofile.drivers.redis.connection import RedisConnection
from fxprofile.model.ports import CacheLookup, IProfileCache

# One hash for each user: "generation", "changed" (the latest change of the account that a
# lookup reported in this generation), and for each variant "=variant" with "expiry|text".
# The time is that of Redis, in milliseconds.
_ADVANCE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function advance(changed, keep)
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'generation', time[1] .. '.' .. time[2])
    redis.call('HSET', KEYS[1], 'changed', changed)
    redis.call('PEXPIRE', KEYS[1], keep)
end
"""

_LOOKUP = (
    _ADVANCE
    + """
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'changed') or 0) then
    advance(ARGV[2], ARGV[3])
end
local generation = redis.call('HGET', KEYS[1], 'generation') or ''
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return {generation} end
local bar = string.find(entry, '|', 1, true)
if tonumber(string.sub(entry, 1, bar - 1)) <= now then return {generation} end
return {generation, string.sub(entry, bar + 1)}
"""
)

# The whole hash lives as long as the entry that was stored last.
_STORE = (
    _ADVANCE
    + """
if (redis.call('HGET', KEYS[1], 'generation') or '') ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + ARGV[3]) .. '|' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[3], redis.call('PTTL', KEYS[1])))
"""
)

_INVALIDATE = _ADVANCE + "advance(0, ARGV[1])"

#: The prefix of all keys.
_PREFIX: Final = "fxprofile:profile:"

#: Milliseconds that a generation outlives its entries: far longer than reading a profile takes.
_GENERATION_TTL: Final = 60_000


@implementer(IProfileCache)
@attrs.define(eq=False, slots=False)
class RedisProfileCache:
    """
    One hash for each user, with one field for each variant.

    :param connection: to Redis; its owner starts and stops it.
    :param ttl: seconds that an entry lives.
    """

    _connection: RedisConnection
    _ttl: float = attrs.field(kw_only=True)

    async def lookup(self, *, uid: str, variant: str, changed_at: int = 0) -> CacheLookup:
        """See :meth:`fxprofile.model.ports.IProfileCache.lookup`."""
        generation, *values = await self._connection.script(
            _LOOKUP,
            keys=[_PREFIX + uid],
            arguments=[f"={variant}", changed_at, _GENERATION_TTL],
        )
        # A value that is not UTF-8 was not stored here, and arrives as bytes.
        value = values[0] if values and isinstance(values[0], str) else None
        return CacheLookup(value, str(generation))

    async def store(self, *, uid: str, variant: str, value: str, generation: str) -> None:
        """See :meth:`fxprofile.model.ports.IProfileCache.store`."""
        await self._connection.script(
            _STORE,
            keys=[_PREFIX + uid],
            arguments=[f"={variant}", value, max(1, round(self._ttl * 1000)), generation],
        )

    async def invalidate(self, *, uid: str) -> None:
        """See :meth:`fxprofile.model.ports.IProfileCache.invalidate`."""
        await self._connection.script(
            _INVALIDATE, keys=[_PREFIX + uid], arguments=[_GENERATION_TTL]
        )

    async def check(self) -> None:
        """See :meth:`fxprofile.model.ports.IProfileCache.check`."""
        await self._connection.call("PING")
