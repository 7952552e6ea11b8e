"""Who may upload now: rate limits, and the fraud and abuse server."""

from __future__ import annotations

from fxprofile.drivers.fxa.customs import Customs
from fxprofile.web.api import ApiRequest
from fxprofile.web.rate_limits import RateLimits, client_address


class Gate:
    """
    Lets uploads in, or not, by what is known from their headers.

    :param address_depth: the setting ``web.client_address_depth``.
    """

    def __init__(self, *, limits: RateLimits, customs: Customs, address_depth: int) -> None:
        self._limits = limits
        self._customs = customs
        self._address_depth = address_depth

    async def admit_upload(self, call: ApiRequest) -> None:
        """
        Count one more upload of this caller, and ask the fraud and abuse server.

        :raises ApiError: if it is one too many.
        """
        address = self._address(call)
        await self._limits.hit(uid=call.uid, address=address)
        await self._customs.check(action="avatarUpload", address=address, uid=call.uid)

    def _address(self, call: ApiRequest) -> str | None:
        headers = call.request.requestHeaders.getRawHeaders(b"X-Forwarded-For", [])
        peer = call.request.getClientAddress()
        return client_address(
            [value.decode("latin-1") for value in headers],
            getattr(peer, "host", None),
            self._address_depth,
        )
