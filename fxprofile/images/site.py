"""
The images listener: what strangers uploaded, on an origin of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from fxprofile.images.default_avatar import read_default_avatar
from fxprofile.images.memory_cache import HotPictures
from fxprofile.images.negotiation import Offers
from fxprofile.images.resource import HEADERS, ImagesResource
from fxprofile.model.ports import IBucket
from fxprofile.serving.site import StreamingSite
from fxprofile.telemetry.metrics import Metrics


def make_site(
    *,
    bucket: IBucket,
    max_age: int,
    clock: IReactorTime,
    metrics: Metrics,
    formats: Sequence[str] = ("png",),
) -> StreamingSite:
    """
    Make the protocol factory of the images listener.

    This reads the default avatar, which blocks for 15 KiB: call it before the reactor runs.

    :param bucket: the public bucket.
    :param max_age: the setting ``images.max_age``, in seconds.
    :param clock: the reactor.
    :param metrics: where the answers are counted.
    :param formats: the setting ``crunch.formats``: what is in the bucket.
    :raises OSError: if the package is not whole.
    """
    pictures = HotPictures(bucket=bucket, clock=clock, pinned=read_default_avatar())
    resource = ImagesResource(
        pictures=pictures,
        offers=Offers(formats, clock),
        max_age=max_age,
        clock=clock,
        metrics=metrics,
    )
    return StreamingSite(resource, reactor=clock, bad_request=bad_request())


def bad_request() -> bytes:
    """The whole response to something that is not HTTP, and so has no request."""
    headers = {
        **HEADERS,
        b"Server": b"fxprofile",
        b"Cache-Control": b"no-store",
        b"Content-Length": b"0",
        b"Connection": b"close",
    }
    lines = [b"HTTP/1.1 400 Bad Request", *(b"%b: %b" % header for header in headers.items())]
    return b"\r\n".join([*lines, b"", b""])
