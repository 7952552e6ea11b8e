"""How often a user, and an address, may upload; and which address a request has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from limits import RateLimitItem, RateLimitItemPerHour
from limits.aio.strategies import MovingWindowRateLimiter
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.drivers.memory.windows import MovingWindows
from fxprofile.model.errors import DriverError, TooManyRequests
from fxprofile.telemetry.metrics import Metrics

#: No address is longer, with its port.
_MAX_ADDRESS: Final = 64


class RateLimits:
    """
    Moving windows of an hour: one for each user, one for each address.

    An upload is refused if either is full, and a refused one is not counted.  When
    the place where hits are counted fails, uploads go on: a service that loses no
    upload does not refuse them because it cannot count.

    :param windows: where hits are counted.  It never blocks.
    :param clock: the clock of the windows.
    :param per_user: uploads an hour; 0 for no limit.
    :param per_address: the same, for all users of an address together.
    """

    _log = Logger()

    def __init__(
        self,
        windows: MovingWindows,
        clock: IReactorTime,
        metrics: Metrics,
        *,
        per_user: int,
        per_address: int,
    ) -> None:
        self._limiter = MovingWindowRateLimiter(windows)
        self._clock = clock
        self._metrics = metrics
        self._per_user = RateLimitItemPerHour(per_user, namespace="uploads-user")
        self._per_address = RateLimitItemPerHour(per_address, namespace="uploads-address")

    async def hit(self, *, uid: str, address: str | None) -> None:
        """
        Count an upload.

        :param address: as :func:`client_address` gives it.
        :raises TooManyRequests: if it is one too many; it says when to come again.
        """
        limits = [(self._per_user, uid)]
        if address is not None:
            limits.append((self._per_address, _neighbourhood(address)))
        limits = [(limit, whose) for limit, whose in limits if limit.amount]
        try:
            # Both are looked at before either is counted: who is refused by one of
            # them has used up nothing of the other.
            for limit, whose in limits:
                if not await self._limiter.test(limit, whose):
                    raise await self._refusal(limit, whose)
            for limit, whose in limits:
                if not await self._limiter.hit(limit, whose):
                    raise await self._refusal(limit, whose)
        except DriverError as error:
            self._metrics.upstream_errors.labels("limits").inc()
            self._log.warn("Uploads are not counted: {error}", error=str(error))

    async def _refusal(self, limit: RateLimitItem, whose: str) -> TooManyRequests:
        stats = await self._limiter.get_window_stats(limit, whose)
        seconds = math.ceil(stats.reset_time - self._clock.seconds())
        return TooManyRequests(retry_after=max(1, seconds))


def client_address(forwarded_for: Sequence[str], peer: str | None, depth: int) -> str | None:
    """
    The address that a request comes from.

    Each trusted proxy appends the address that it was called from to the
    X-Forwarded-For header; whatever is further left a client can have made up.  If an
    entry is no address, the one of the proxy after it is the best that is known.

    :param forwarded_for: the values of all X-Forwarded-For headers, in their order.
    :param peer: the address of the other end of the connection, if it has one.
    :param depth: how many proxies to trust; 0 to leave the header unread.
    :returns: an IPv4 or IPv6 address in its shortest form, without a port.
    """
    entries = ",".join(forwarded_for).rsplit(",", depth)[-depth:] if depth > 0 else []
    # A link-local peer has the name of the interface behind it.
    for entry in [*entries, (peer or "").partition("%")[0]]:
        address = _address(entry)
        if address is not None:
            return str(address)
    return None


def _address(text: str) -> IPv4Address | IPv6Address | None:
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


def _neighbourhood(address: str) -> str:
    """What counts as one address: a single host commonly has 2**64 of IPv6."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False).network_address)
    return address
