"""
The client of a process.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client import AwsClient
from fxprofile.settings.model import Settings

_clients: WeakKeyDictionary[Threads, AwsClient] = WeakKeyDictionary()


def client_of(settings: Settings, *, reactor: Any, threads: Threads) -> AwsClient:
    """
    The client that all drivers share which have the same threads, so that credentials are
    found once and connections are used by all.

    It lives as long as they do.
    """
    client = _clients.get(threads)
    if client is None:
        client = _clients[threads] = AwsClient(reactor, threads, settings.aws.region)
    return client
