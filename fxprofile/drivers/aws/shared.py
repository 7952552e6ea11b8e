"""
The AWS client of the process.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from twisted.internet.interfaces import IReactorTime

from fxprofile import __version__
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.client import AwsClient
from fxprofile.settings.model import Settings

_clients: WeakKeyDictionary[Threads, AwsClient] = WeakKeyDictionary()


def client_of(settings: Settings, *, reactor: IReactorTime, threads: Threads) -> AwsClient:
    """
    Return the client that all drivers with the same threads share, so that credentials are
    searched once and connections are reused.
    """
    client = _clients.get(threads)
    if client is None:
        client = _clients[threads] = AwsClient(
            reactor, threads, settings.aws.region, user_agent=f"fxprofile/{__version__}"
        )
    return client
