"""Moving windows in Redis 5 or later: limits that hold across all web processes."""

from __future__ import annotations

from typing import Final

from twisted.internet.interfaces import IReactorTime

from fxprofile.drivers.memory.windows import MovingWindows
from fxprofile.drivers.redis.connection import RedisConnection

# A list of the times of the hits in microseconds, newest first.  The time is that of
# Redis, so that the clocks of the web processes do not matter.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

_ACQUIRE = (
    _NOW
    + """
local limit, expiry, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if amount > limit then return 0 end
local blocking = redis.call('LINDEX', KEYS[1], limit - amount)
if blocking and tonumber(blocking) > now - expiry * 1000000 then return 0 end
for _ = 1, amount do redis.call('LPUSH', KEYS[1], string.format('%.0f', now)) end
redis.call('LTRIM', KEYS[1], 0, limit - 1)
redis.call('EXPIRE', KEYS[1], expiry)
return 1
"""
)

_WINDOW = (
    _NOW
    + """
local after = now - tonumber(ARGV[2]) * 1000000
local hits, age = 0, 0
for _, hit in ipairs(redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)) do
    if tonumber(hit) <= after then break end
    hits = hits + 1
    age = now - tonumber(hit)
end
return {hits, string.format('%.0f', age)}
"""
)

#: How many keys Redis looks at in one go.
_STEP: Final = 1000


class RedisWindows(MovingWindows):
    """
    The hits of each name in its window, as a list that Redis lets expire.

    :param connection: to Redis; whoever made it starts and stops it.
    :param clock: that of the limits which use this.
    :param prefix: of all keys.
    """

    def __init__(
        self,
        connection: RedisConnection,
        clock: IReactorTime,
        *,
        prefix: str = "fxprofile:window:",
    ) -> None:
        super().__init__()
        self._connection = connection
        self._clock = clock
        self._prefix = prefix

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See :class:`fxprofile.drivers.memory.windows.MemoryWindows`."""
        counted = await self._connection.script(
            _ACQUIRE, keys=[self._prefix + key], arguments=[limit, expiry, amount]
        )
        return bool(counted)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See :class:`fxprofile.drivers.memory.windows.MemoryWindows`."""
        hits, age = await self._connection.script(
            _WINDOW, keys=[self._prefix + key], arguments=[limit, expiry]
        )
        return self._clock.seconds() - int(age) / 1e6, int(hits)

    async def clear(self, key: str) -> None:
        """Forget the hits of a name."""
        await self._connection.call("DEL", self._prefix + key)

    async def reset(self) -> int:
        """Forget all hits, and say of how many names."""
        names, cursor = 0, "0"
        while True:
            cursor, keys = await self._connection.call(
                "SCAN", cursor, "MATCH", f"{self._prefix}*", "COUNT", _STEP
            )
            if keys:
                names += int(await self._connection.call("DEL", *keys))
            if cursor == "0":
                return names

    async def check(self) -> bool:
        """
        See whether Redis answers.

        :raises CacheError: if not.
        """
        await self._connection.call("PING")
        return True
