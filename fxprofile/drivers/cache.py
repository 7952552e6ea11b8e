"""
What is kept for a while: the drivers of :class:`fxprofile.model.ports.IProfileCache`, and
the places where rate limits are counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import ConfigError
from fxprofile.model.ports import IProfileCache, IRevocations
from fxprofile.settings.model import Settings

if TYPE_CHECKING:
    from fxprofile.model.ports import IRateWindows


def cache_from_config(settings: Settings, reactor: IReactorTime) -> IProfileCache:
    """
    The driver that ``cache.driver`` names.

    A driver that has something to start and to stop is an ``IService`` as well, and
    whoever makes it gives it a parent.

    :raises ConfigError: if ``cache.url`` is of no use, or the library is not installed.
    """
    if settings.cache.driver == "redis":
        if settings.cache.url is None:
            raise ConfigError("cache.url: must be set when cache.driver is redis")
        try:
            from fxprofile.drivers.redis.cache import RedisProfileCache
            from fxprofile.drivers.redis.connection import RedisAddress, RedisConnection
        except ImportError as error:
            raise ConfigError(f"cache.driver: redis needs fxprofile[redis]: {error}") from None

        address = RedisAddress.parse(settings.cache.url.get_secret_value())
        return RedisProfileCache(RedisConnection(reactor, address), ttl=settings.cache.ttl)

    from fxprofile.drivers.memory.cache import MemoryProfileCache

    return MemoryProfileCache(reactor, ttl=settings.cache.ttl)


def revocations_from_config(settings: Settings, cache: IProfileCache) -> IRevocations | None:
    """
    What web processes tell each other of tokens: in Redis if the cache is there, else nothing.

    :param cache: what :func:`cache_from_config` gave; its connection is shared.
    """
    if settings.cache.driver == "redis":
        from fxprofile.drivers.redis.cache import RedisProfileCache
        from fxprofile.drivers.redis.revocations import KEEP, RedisRevocations

        if isinstance(cache, RedisProfileCache):
            keep = max(KEEP, math.ceil(settings.identity.token_cache_seconds))
            return RedisRevocations(cache.connection, keep=keep)
    return None


def windows_from_config(
    settings: Settings, reactor: IReactorTime, cache: IProfileCache
) -> IRateWindows:
    """
    Where rate limits are counted: in Redis if the cache is there, else in memory.

    :param cache: what :func:`cache_from_config` gave; its connection is shared.
    """
    if settings.cache.driver == "redis":
        from fxprofile.drivers.redis.cache import RedisProfileCache
        from fxprofile.drivers.redis.windows import RedisRateWindows

        if isinstance(cache, RedisProfileCache):
            return RedisRateWindows(cache.connection)

    from fxprofile.drivers.memory.windows import MemoryRateWindows

    return MemoryRateWindows(reactor)
