"""The API's listener, put together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from fxprofile.serving.site import StreamingSite
from fxprofile.web.api import Api, bad_length, bad_request


class Endpoints(Protocol):
    """A group of endpoints."""

    def add_to(self, api: Api) -> None:
        """Register them."""


def make_site(api: Api, groups: Iterable[Endpoints], clock: IReactorTime) -> StreamingSite:
    """
    Make the protocol factory of the API's listener.

    :param clock: the reactor.
    """
    for group in groups:
        group.add_to(api)
    return StreamingSite(
        api.resource(), reactor=clock, bad_request=bad_request(), bad_length=bad_length()
    )
