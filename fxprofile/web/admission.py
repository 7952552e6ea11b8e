"""Admission of uploads: rate limits, and the fraud and abuse server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from twisted.logger import Logger

from fxprofile.drivers.fxa.customs import Customs
from fxprofile.model.errors import DriverError, TooManyRequests
from fxprofile.model.ports import IRateWindows
from fxprofile.telemetry.metrics import Metrics
from fxprofile.web.api import ApiRequest

#: The rate limit of an address, as a multiple of a user's.
USERS_PER_ADDRESS: Final = 10

#: No address is longer, with its port.
_MAX_ADDRESS: Final = 64


class UploadAdmission:
    """
    Admits or refuses an upload by its headers.

    There is one sliding window per user and one per client address; an upload is refused if
    either is full, and a refused upload is not counted.  If hits cannot be counted, uploads
    are admitted: availability is worth more here than the limit.

    :param windows: count the uploads.
    :param customs: the fraud and abuse server, or None.
    :param per_hour: uploads per user and hour; 0: unlimited.
    :param address_depth: the setting ``web.client_address_depth``.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        windows: IRateWindows,
        customs: Customs | None,
        metrics: Metrics,
        per_hour: int,
        address_depth: int,
    ) -> None:
        self._windows = windows
        self._customs = customs
        self._metrics = metrics
        self._per_hour = per_hour
        self._address_depth = address_depth

    async def admit(self, call: ApiRequest) -> None:
        """
        Count an upload, and ask the fraud and abuse server.

        :raises TooManyRequests: if a rate limit is reached; it says when to try again.
        :raises RequestBlocked: if the fraud and abuse server blocks the user.
        """
        headers = call.request.requestHeaders.getRawHeaders(b"X-Forwarded-For", [])
        peer = call.request.getClientAddress()
        address = client_address(
            [value.decode("latin-1") for value in headers],
            getattr(peer, "host", None),
            self._address_depth,
        )
        await self.count(uid=call.uid, address=address)
        if self._customs is not None:
            await self._customs.check(action="avatarUpload", address=address, uid=call.uid)

    async def count(self, *, uid: str, address: str | None) -> None:
        """
        Count an upload against the rate limits.

        :param address: as :func:`client_address` returns it.
        :raises TooManyRequests: if a limit is reached; it says when to try again.
        """
        if not self._per_hour:
            return
        limits = {f"user/{uid}": self._per_hour}
        if address is not None:
            limits[f"address/{_network(address)}"] = self._per_hour * USERS_PER_ADDRESS
        try:
            wait = await self._windows.hit(limits=limits)
        except DriverError as error:
            self._metrics.upstream_errors.labels("limits").inc()
            self._log.warn("Upload not counted; admitting it: {error}", error=str(error))
            return
        if wait > 0:
            raise TooManyRequests(retry_after=math.ceil(wait))


def client_address(forwarded_for: Sequence[str], peer: str | None, depth: int) -> str | None:
    """
    Return the address that a request comes from.

    Each trusted proxy appends the address of its own client to the X-Forwarded-For header;
    entries further left may be forged by the client.  If an entry is not an address, the
    entry of the next proxy is used.

    :param forwarded_for: the values of all X-Forwarded-For headers, in order.
    :param peer: the address of the other end of the connection, if it has one.
    :param depth: how many proxies to trust; 0 ignores the header.
    :returns: an IPv4 or IPv6 address in its shortest form, without a port.
    """
    entries = ",".join(forwarded_for).rsplit(",", depth)[-depth:] if depth > 0 else []
    # A link-local peer address ends in the name of the interface.
    for entry in [*entries, (peer or "").partition("%")[0]]:
        address = _parse_address(entry)
        if address is not None:
            return str(address)
    return None


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip(" \t")
    if len(text) > _MAX_ADDRESS or "%" in text:
        return None
    text = text.removeprefix('"').removesuffix('"')
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isdecimal() and text.isascii()


def _network(address: str) -> str:
    """Return the network that counts as one address: a single host commonly has an IPv6 /64."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False).network_address)
    return address
