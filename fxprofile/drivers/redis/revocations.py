"""Revocations of tokens in Redis, shared by all web processes."""

from __future__ import annotations

from typing import Final

import attrs
from zope.interface import implementer

from fxprofile.drivers.redis.connection import RedisConnection
from fxprofile.model.ports import IRevocations

# The time is that of Redis: the clocks of the web processes do not matter.
_REVOKE = """
local time = redis.call('TIME')
redis.call('SET', KEYS[1], time[1], 'EX', ARGV[1])
return 1
"""

#: The prefix of all keys.
_PREFIX: Final = "fxprofile:revoked:"

#: Seconds that a revocation is kept: longer than access tokens are valid.
KEEP: Final = 7 * 86_400


@implementer(IRevocations)
@attrs.define(eq=False, slots=False)
class RedisRevocations:
    """
    One key for each user.

    :param connection: to Redis; its owner starts and stops it.
    :param keep: seconds that a revocation is kept.
    """

    _connection: RedisConnection
    _keep: int = attrs.field(default=KEEP, kw_only=True)

    async def revoke(self, *, uid: str) -> None:
        """See :meth:`fxprofile.model.ports.IRevocations.revoke`."""
        await self._connection.script(_REVOKE, keys=[_PREFIX + uid], arguments=[self._keep])

    async def revoked_at(self, *, uid: str) -> float | None:
        """See :meth:`fxprofile.model.ports.IRevocations.revoked_at`."""
        text = await self._connection.call("GET", _PREFIX + uid)
        return float(text) if isinstance(text, str) and text.isdecimal() else None
