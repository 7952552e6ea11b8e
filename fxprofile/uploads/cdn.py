"""Ask a CDN, through a webhook, to drop the pictures of an avatar from its caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
from twisted.logger import Logger

from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.upstream import Upstream, UpstreamFailure
from fxprofile.model.keys import VARIANTS, image_url
from fxprofile.telemetry.metrics import Metrics

#: Seconds for one request to the webhook.
TIMEOUT: Final = 10.0


@attrs.define(eq=False, slots=False, repr=False)
class CdnPurge:
    """
    Posts the URLs of pictures that were taken down to a webhook, as ``{"urls": [...]}``.

    :param agent: sends the requests.
    :param url: the setting ``images.purge_url``.
    :param template: the setting ``images.url``.
    :param token: sent as a bearer token, if there is one.
    """

    _log = Logger()

    _agent: HttpAgent
    _metrics: Metrics
    _url: str
    _template: str = attrs.field(kw_only=True)
    _token: str | None = attrs.field(kw_only=True, default=None)

    def __attrs_post_init__(self) -> None:
        # Purging twice does no harm, so a closed connection is worth a second request.
        self._upstream = Upstream("images.purge_url", self._agent, timeout=TIMEOUT)

    async def purge(self, avatar_ids: Sequence[str]) -> str | None:
        """
        Purge every size of some avatars.

        :returns: None if the webhook accepted that; otherwise what is wrong, which is also logged
            and counted.
        """
        urls = [image_url(self._template, i, name) for i in avatar_ids for name in VARIANTS]
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        try:
            response = await self._upstream.request(
                "POST", self._url, headers=headers, body={"urls": urls}
            )
            if not 200 <= response.status < 300:
                raise UpstreamFailure(f"images.purge_url: status {response.status}")
        except UpstreamFailure as failure:
            self._metrics.upstream_errors.labels("cdn").inc()
            self._log.error(
                "Cannot purge {ids} from the CDN: {why}",
                ids=", ".join(avatar_ids),
                why=str(failure),
            )
            return str(failure)
        return None
