"""What a Twisted server endpoint string says of its listener."""

from __future__ import annotations

import re

_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|localhost|::1")


def is_loopback(endpoint: str) -> bool:
    """Return whether only this machine can reach the listener of a server endpoint string."""
    interfaces = _interfaces(endpoint)
    # If there are several, the last one counts; all of them must be loopback addresses.
    return endpoint.startswith("unix:") or (
        bool(interfaces) and all(_LOOPBACK.fullmatch(host) for host in interfaces)
    )


def listener_url(endpoint: str) -> str | None:
    """
    Return the URL at which this machine reaches the listener of a server endpoint string.

    :returns: None if the string has no TCP port that a client can use, as ``unix:`` has none.
    """
    found = re.match(r"(tcp6?|ssl):(?:(?:.*:)?port=)?(\d{1,5})(?::|$)", endpoint)
    if found is None or not 0 < int(found[2]) < 65536:
        return None
    host = (_interfaces(endpoint) or [""])[-1]
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - all interfaces include the loopback one
        host = "::1" if found[1] == "tcp6" else "127.0.0.1"
    scheme = "https" if found[1] == "ssl" else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{found[2]}"


def _interfaces(endpoint: str) -> list[str]:
    found = re.findall(r":interface=((?:\\.|[^:\\])*)", endpoint)
    return [host.replace("\\", "") for host in found]
