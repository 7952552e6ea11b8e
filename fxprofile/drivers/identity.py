"""Who a token speaks for: the drivers of :class:`fxprofile.model.ports.IIdentity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.ports import IIdentity, IRevocations
from fxprofile.settings.model import Settings
from fxprofile.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from fxprofile.drivers.fxa.customs import Customs


def identity_from_config(
    settings: Settings,
    reactor: IReactorTime,
    metrics: Metrics,
    revocations: IRevocations | None = None,
) -> IIdentity:
    """
    The driver that ``identity.driver`` names.

    :param revocations: what web processes tell each other of tokens, if they do.

    A driver that has something to start and to stop is an ``IService`` as well, and
    whoever makes it gives it a parent.
    """
    if settings.identity.driver == "fxa":
        from fxprofile.drivers.fxa.identity import FxaIdentity
        from fxprofile.http_client.upstream import client_for, pool_for

        pool = pool_for(reactor)
        client = client_for(reactor, pool, settings.identity.timeout)
        return FxaIdentity(
            client, reactor, metrics, settings.identity, pool=pool, revocations=revocations
        )

    from fxprofile.drivers.dev.identity import DevIdentity

    return DevIdentity(settings.identity.dev.accounts)


def customs_from_config(
    settings: Settings, reactor: IReactorTime, metrics: Metrics
) -> Customs | None:
    """
    Return the customs server of ``customs.url``, or None if that is unset.

    It is an ``IService``; the caller gives it a parent.
    """
    if settings.customs.url is None:
        return None
    from fxprofile.drivers.fxa.customs import TIMEOUT, Customs
    from fxprofile.http_client.upstream import client_for, pool_for

    pool = pool_for(reactor)
    client = client_for(reactor, pool, TIMEOUT)
    return Customs(client, reactor, metrics, settings.customs.url, pool=pool)
