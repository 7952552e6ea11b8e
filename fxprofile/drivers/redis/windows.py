"""Rate windows in Redis 5 or later, shared by all web processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
from twisted.logger import Logger
from zope.interface import implementer

from fxprofile.drivers.redis.connection import RedisConnection
from fxprofile.model.errors import CacheError
from fxprofile.model.ports import WINDOW_SECONDS, IRateWindows

# Each key is a list of the times of its latest hits in microseconds, newest first.  The time
# is that of Redis: the clocks of the web processes do not matter.
_HIT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait = 0
for i, key in ipairs(KEYS) do
    local oldest = redis.call('LINDEX', key, ARGV[i + 1] - 1)
    if oldest then wait = math.max(wait, oldest + ARGV[1] * 1000000 - now) end
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
    redis.call('LPUSH', key, string.format('%.0f', now))
    redis.call('LTRIM', key, 0, ARGV[i + 1] - 1)
    redis.call('EXPIRE', key, ARGV[1])
end
return 0
"""


@implementer(IRateWindows)
@attrs.define(eq=False, slots=False)
class RedisRateWindows:
    """
    The times of the latest hits of each key, as many as its limit allows.

    :param connection: to Redis; its owner starts and stops it.
    :param local: the windows of this process, which count all its hits and decide while Redis
        is unreachable.
    """

    _log = Logger()

    _connection: RedisConnection
    _local: IRateWindows

    async def hit(self, *, limits: Mapping[str, int], seconds: int = WINDOW_SECONDS) -> float:
        """See :meth:`fxprofile.model.ports.IRateWindows.hit`."""
        try:
            microseconds = await self._connection.script(
                _HIT,
                keys=[f"fxprofile:window:{key}" for key in limits],
                arguments=[seconds, *limits.values()],
            )
        except CacheError as error:
            self._log.warn("Rate limits of this process alone: {error}", error=str(error))
            return await self._local.hit(limits=limits, seconds=seconds)
        wait = math.ceil(int(microseconds) / 1e6)
        if wait == 0:
            await self._local.hit(limits=limits, seconds=seconds)
        return wait
