"""Which connections a listener accepts: how many in all, of an address, and by descriptors."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.telemetry.metrics import Metrics

#: Descriptors that connections may not use: files, databases and other servers need them.
RESERVE = 64

#: Seconds between two log lines about refused connections.
LOG_EVERY = 60


def network_of(address: str) -> str:
    """
    Return the network that counts as one address: a single host commonly has an IPv6 /64.

    :param address: IPv4 or IPv6.  An IPv6 listener may have IPv4 peers, whose addresses are
        mapped (RFC 4291, section 2.5.5.2): they have one network, and are not one host.
    """
    parsed = ip_address(address)
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    prefix = 64 if parsed.version == 6 else 32
    return str(ip_network((parsed, prefix), strict=False).network_address)


def descriptors_left() -> int:
    """Return about how many descriptors the process can still open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        # The lowest number that is free.
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return 0
    os.close(lowest)
    return limit - lowest


@attrs.define(kw_only=True, eq=False, slots=False)
class ConnectionLimits:
    """
    The open connections of a listener, and whether it accepts another.

    :param listener: its label in metrics.
    :param maximum: connections in all; 0: unlimited.
    :param per_address: connections of one peer address, or IPv6 /64; 0: unlimited.
    :param left: returns how many descriptors can still be opened.
    :ivar pause: called if descriptors run low; the listener pauses for a while then.
    """

    _log = Logger()

    _clock: IReactorTime
    _metrics: Metrics
    _listener: str
    maximum: int = 0
    per_address: int = 0
    _left: Callable[[], int] = descriptors_left
    pause: Callable[[], object] = attrs.field(init=False, default=lambda: None)
    _total: int = attrs.field(init=False, default=0)
    _open: Counter[str] = attrs.field(init=False, factory=Counter)
    _refused: int = attrs.field(init=False, default=0)
    _logged: float = attrs.field(init=False, default=float("-inf"))

    def __attrs_post_init__(self) -> None:
        self._metrics.connections.labels(self._listener)
        for reason in ("descriptors", "total", "address"):
            self._metrics.refused_connections.labels(self._listener, reason)

    def admit(self, host: str | None) -> bool:
        """
        Return whether a connection of this peer is accepted; :meth:`released` ends it.

        :param host: None if the peer has no address, as on a UNIX socket.
        """
        key = _key(host)
        if self._left() < RESERVE:
            self.pause()
            return self._refuse("descriptors", "file descriptors run low")
        if self.maximum and self._total >= self.maximum:
            return self._refuse("total", f"{self.maximum} are open")
        if key and self.per_address and self._open[key] >= self.per_address:
            return self._refuse("address", f"{self.per_address} of {host} are open")
        self._open[key] += 1
        self._count(1)
        return True

    def released(self, host: str | None) -> None:
        """Note that an accepted connection has ended."""
        key = _key(host)
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]
        self._count(-1)

    def _count(self, change: int) -> None:
        self._total += change
        self._metrics.connections.labels(self._listener).set(self._total)

    def _refuse(self, reason: str, detail: str) -> bool:
        self._metrics.refused_connections.labels(self._listener, reason).inc()
        self._refused += 1
        now = self._clock.seconds()
        if now - self._logged >= LOG_EVERY:
            self._log.warn(
                "Connections refused since the last message: {count}; {reason}",
                count=self._refused,
                reason=detail,
            )
            self._logged, self._refused = now, 0
        return False


def _key(host: str | None) -> str:
    try:
        return network_of(host.partition("%")[0]) if host else ""
    except ValueError:
        return ""
