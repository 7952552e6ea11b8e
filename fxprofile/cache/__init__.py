"""Profiles as they were read: the drivers of :class:`fxprofile.interfaces.IProfileCache`."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from fxprofile.config import Settings
from fxprofile.interfaces import IProfileCache


def cache_from_config(settings: Settings, reactor: IReactorTime) -> IProfileCache:
    """
    The driver that ``cache.driver`` names.

    A driver that has something to start and to stop is an ``IService`` as well, and
    whoever makes it gives it a parent.
    """
    from fxprofile.cache.memory import MemoryCache

    return MemoryCache(reactor, ttl=settings.cache.ttl)
