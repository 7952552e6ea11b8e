"""The customs server, which detects fraud and abuse across all accounts."""

from __future__ import annotations

import math
from typing import Final

import attrs
from twisted.logger import Logger

from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.upstream import (
    Upstream,
    UpstreamFailure,
)
from fxprofile.model.errors import RequestBlocked, TooManyRequests
from fxprofile.telemetry.metrics import Metrics

#: Seconds for a request; an upload waits for it.
TIMEOUT: Final = 1.0

#: The longest Retry-After that is passed on, in seconds.
_MAX_RETRY_AFTER: Final = 86_400


@attrs.define(eq=False, slots=False, repr=False)
class Customs:
    """
    Asks whether a user may do something now.

    It fails open: without a usable response the user may, and the failure is logged and
    counted.

    :param agent: sends the requests.
    :param url: of the server.
    """

    _log = Logger()

    _agent: HttpAgent
    _metrics: Metrics
    _url: str

    def __attrs_post_init__(self) -> None:
        # The server counts requests, so that none is sent twice.
        self._upstream = Upstream("customs", self._agent, timeout=TIMEOUT, retry=False)

    async def check(self, *, action: str, address: str | None, uid: str) -> None:
        """
        Check an action of a user.

        :param action: a word that the server knows, such as ``avatarUpload``.
        :param address: the client address, or None if it is unknown.
        :raises TooManyRequests: if the user is blocked until a known time.
        :raises RequestBlocked: if the user is blocked.
        """
        body = {"action": action, "ip": address or "", "uid": uid}
        try:
            response = await self._upstream.request(
                "POST", f"{self._url}/checkAuthenticated", body=body
            )
            members = response.members
            if response.status != 200 or members is None:
                raise UpstreamFailure(f"unexpected response, status {response.status}")
            blocked = members.get("block")
            if type(blocked) is not bool:
                raise UpstreamFailure("the response has no valid decision")
        except UpstreamFailure as failure:
            self._metrics.upstream_errors.labels("customs").inc()
            self._log.warn("Customs check failed; upload admitted: {why}", why=str(failure))
            return
        if blocked:
            retry_after = members.get("retryAfter")
            is_bool = isinstance(retry_after, bool)
            if isinstance(retry_after, int | float) and not is_bool and 0 < retry_after < math.inf:
                raise TooManyRequests(retry_after=min(math.ceil(retry_after), _MAX_RETRY_AFTER))
            raise RequestBlocked
