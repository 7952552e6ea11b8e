"""Rate limits per user and client address, and the address of a client."""

from __future__ import annotations

import math
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import attrs
from twisted.logger import Logger

from fxprofile.model.errors import DriverError, TooManyRequests
from fxprofile.model.ports import IRateWindows
from fxprofile.serving.channel import StreamingRequest
from fxprofile.serving.connections import network_of
from fxprofile.telemetry.metrics import Metrics

#: The rate limit of an address, as a multiple of a user's.
USERS_PER_ADDRESS: Final = 10

#: No address is longer, with its port.
_MAX_ADDRESS: Final = 64

# An IPv6 address in brackets or an IPv4 address, with a port; or any address without one.
_ADDRESS: Final = re.compile(r'"?(?:\[([^]]+)\](?::\d+)?|([^:"]+):\d+|([^"]+))"?', re.ASCII)


@attrs.define(kw_only=True, eq=False, slots=False)
class RateLimiter:
    """
    Limits the calls of a kind per user and per client address.

    There is one sliding window per user and one per client address; a call is refused if either
    is full, and a refused call is not counted.  If hits cannot be counted, calls are admitted:
    availability is worth more here than the limit.

    :param windows: count the calls.
    :param name: of the kind of call.
    :param limit: calls per user in a window; 0: unlimited.
    :param seconds: the length of a window, at most an hour.
    """

    _log = Logger()

    _windows: IRateWindows
    _metrics: Metrics
    _name: str
    limit: int
    _seconds: int

    async def count(self, *, uid: str, address: str | None) -> None:
        """
        Count a call.

        :param address: as :func:`client_address` returns it.
        :raises TooManyRequests: if a limit is reached; it says when to try again.
        """
        if not self.limit:
            return
        limits = {f"{self._name}/user/{uid}": self.limit}
        if address is not None:
            network = network_of(address)
            limits[f"{self._name}/address/{network}"] = self.limit * USERS_PER_ADDRESS
        try:
            wait = await self._windows.hit(limits=limits, seconds=self._seconds)
        except DriverError as error:
            self._metrics.upstream_errors.labels("limits").inc()
            self._log.warn(
                "{name} not counted; admitting it: {error}", name=self._name, error=error
            )
            return
        if wait > 0:
            raise TooManyRequests(retry_after=math.ceil(wait))


def address_of(request: StreamingRequest, depth: int) -> str | None:
    """
    Return the address that a request comes from, see :func:`client_address`.

    :param depth: the setting ``web.client_address_depth``.
    """
    peer = getattr(request.getClientAddress(), "host", None)
    # Each proxy appends an entry or a header: no earlier headers than these count.
    hops = request.requestHeaders.getRawHeaders(b"X-Forwarded-For", [])
    last = b",".join(hops[-depth:] if depth else [])
    return client_address(last.decode("latin-1"), peer, depth)


def client_address(forwarded_for: str, peer: str | None, depth: int) -> str | None:
    """
    Return the address that a request comes from.

    Each trusted proxy appends the address of its own client to the X-Forwarded-For header;
    entries further left may be forged by the client.  If an entry is not an address, the
    entry of the next proxy is used.

    :param forwarded_for: the X-Forwarded-For header; several are joined by commas.
    :param peer: the address of the other end of the connection, if it has one.
    :param depth: how many proxies to trust; 0 ignores the header.
    :returns: an IPv4 or IPv6 address in its shortest form, without a port.
    """
    entries = forwarded_for.rsplit(",", depth)[-depth:] if depth > 0 else []
    # A link-local peer address ends in the name of the interface.
    for entry in [*entries, (peer or "").partition("%")[0]]:
        address = _parse_address(entry.strip(" \t"))
        if address is not None:
            return str(address)
    return None


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    match = _ADDRESS.fullmatch(text) if len(text) <= _MAX_ADDRESS else None
    if match is None or "%" in text:
        return None
    try:
        address = ip_address(match[match.lastindex or 0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
