"""Revocations of tokens in Redis, shared by all web processes."""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from fxprofile.drivers.redis.connection import RedisConnection
from fxprofile.model.ports import IRevocations

# The time is that of Redis: the clocks of the web processes do not matter.
_REVOKE = """
local time = redis.call('TIME')
redis.call('SET', KEYS[1], time[1], 'EX', ARGV[1])
return 1
"""

#: Seconds that a revocation is kept: longer than access tokens are valid.
KEEP: Final = 7 * 86_400


@implementer(IRevocations)
class RedisRevocations:
    """
    One key for each user.

    :param connection: to Redis; its owner starts and stops it.
    :param keep: seconds that a revocation is kept.
    :param prefix: of all keys.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        keep: int = KEEP,
        prefix: str = "fxprofile:revoked:",
    ) -> None:
        self._connection = connection
        self._keep = keep
        self._prefix = prefix

    async def revoke(self, *, uid: str) -> None:
        """See :meth:`fxprofile.model.ports.IRevocations.revoke`."""
        await self._connection.script(_REVOKE, keys=[self._prefix + uid], arguments=[self._keep])

    async def revoked_at(self, *, uid: str) -> float | None:
        """See :meth:`fxprofile.model.ports.IRevocations.revoked_at`."""
        text = await self._connection.call("GET", self._prefix + uid)
        return float(text) if isinstance(text, str) and text.isdecimal() else None
