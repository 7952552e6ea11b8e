"""The customs server: fraud and abuse that only a view of all accounts can show."""

from __future__ import annotations

import math
from typing import Any, Final

from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import HTTPConnectionPool

from fxprofile.http_client.upstream import (
    Answer,
    Upstream,
    UpstreamFailure,
    client_for,
    pool_for,
)
from fxprofile.model.errors import RequestBlocked, TooManyRequests
from fxprofile.telemetry.metrics import Metrics

#: Seconds that the server may take; a user waits for it.
TIMEOUT: Final = 1.0

#: The longest wait that is passed on, in seconds.
_MAX_RETRY_AFTER: Final = 86_400


def customs_server(url: str, reactor: Any, metrics: Metrics) -> Customs:
    """Return the driver of the customs server at this URL, with connections of its own."""
    pool = pool_for(reactor)
    client = client_for(reactor, pool, TIMEOUT)
    return Customs(client, reactor, metrics, url, pool=pool)


class Customs(Service):
    """
    Asks whether a user may do something now.

    It is open on failure: when the server gives no usable answer the user may, and it
    is logged and counted.

    :param client: sends the requests.
    :param url: of the server.
    :param pool: the connections of the client, closed when the service stops.
    """

    name = "customs"
    _log = Logger()

    def __init__(
        self,
        client: HTTPClient,
        clock: IReactorTime,
        metrics: Metrics,
        url: str,
        *,
        pool: HTTPConnectionPool | None = None,
    ) -> None:
        # Asking counts there, so it is not done twice.
        self._upstream = Upstream("customs", client, clock, timeout=TIMEOUT, retry=False)
        self._metrics = metrics
        self._url = url
        self._pool = pool

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._pool is None:
            return succeed(None)
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def check(self, *, action: str, address: str | None, uid: str) -> None:
        """
        Ask.

        :param action: what the user wants to do, in a word that the server knows.
        :param address: where the request comes from.
        :raises TooManyRequests: if not now.
        :raises RequestBlocked: if not at all.
        """
        body = {"action": action, "ip": address or "", "uid": uid}
        try:
            blocked, retry_after = _verdict(
                await self._upstream.ask("POST", f"{self._url}/checkAuthenticated", body=body)
            )
        except UpstreamFailure as failure:
            self._metrics.upstream_errors.labels("customs").inc()
            self._log.warn("Going on without customs: {why}", why=str(failure))
            return
        if blocked and retry_after is not None:
            raise TooManyRequests(retry_after=retry_after)
        if blocked:
            raise RequestBlocked


def _verdict(answer: Answer) -> tuple[bool, int | None]:
    members = answer.members
    if answer.status != 200 or members is None:
        raise UpstreamFailure(f"unexpected answer, status {answer.status}")
    blocked = members.get("block")
    if type(blocked) is not bool:
        raise UpstreamFailure("the answer does not say whether to block")
    return blocked, _seconds(members.get("retryAfter"))


def _seconds(value: Any) -> int | None:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        return None
    return min(math.ceil(value), _MAX_RETRY_AFTER)
