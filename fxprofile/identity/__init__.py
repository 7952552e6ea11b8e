"""Who a token speaks for: the drivers of :class:`fxprofile.interfaces.IIdentity`."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from fxprofile.config import Settings
from fxprofile.interfaces import IIdentity


def identity_from_config(settings: Settings, reactor: IReactorTime) -> IIdentity:
    """
    The driver that ``identity.driver`` names.

    A driver that has something to start and to stop is an ``IService`` as well, and
    whoever makes it gives it a parent.
    """
    from fxprofile.identity.dev import DevIdentity

    return DevIdentity(settings.identity.dev.accounts)
