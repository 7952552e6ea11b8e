"""
The HTTP server of the images listener.

It serves what strangers uploaded, and nothing else: on an origin of its own, with headers
that keep a browser from taking it for anything but a picture.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from fxprofile.aio import Threads
from fxprofile.images.hot import FRESH_SECONDS, MAX_BYTES, MAX_OBJECT_BYTES, HotPictures
from fxprofile.images.resource import ImagesResource
from fxprofile.interfaces import IBucket
from fxprofile.metrics import Metrics
from fxprofile.serving.channel import StreamingChannel, StreamingRequest
from fxprofile.serving.site import StreamingSite

#: How long a client may take for the headers of its next request, and how long it may take
#: nothing of the answer, in seconds.
TIMEOUT: Final = 60.0

#: The headers of every answer.
HEADERS: Final = (
    (b"Server", b"fxprofile"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; sandbox"),
    (b"Cross-Origin-Resource-Policy", b"cross-origin"),
    (b"Access-Control-Allow-Origin", b"*"),
)


def make_site(
    *,
    bucket: IBucket,
    max_age: int,
    clock: IReactorTime,
    threads: Threads,
    metrics: Metrics,
    max_bytes: int = MAX_BYTES,
    max_object: int = MAX_OBJECT_BYTES,
    fresh: float = FRESH_SECONDS,
    timeout: float = TIMEOUT,
) -> ImagesSite:
    """
    Make the protocol factory of the images listener.

    :param bucket: the public bucket.
    :param max_age: the setting ``images.max_age``, in seconds.
    :param clock: the reactor.
    :param threads: started; it reads the default avatar, once.
    :param metrics: where the answers are counted.
    :param max_bytes: how much of the bucket is held in memory.
    :param max_object: a longer object is not held in memory.
    :param fresh: how long a deleted avatar may still be served from memory, in seconds.
    :param timeout: see :data:`TIMEOUT`.
    """
    pictures = HotPictures(
        bucket=bucket, clock=clock, max_bytes=max_bytes, max_object=max_object, fresh=fresh
    )
    resource = ImagesResource(
        pictures=pictures,
        max_age=max_age,
        clock=clock,
        threads=threads,
        stall=timeout,
        metrics=metrics,
    )
    return ImagesSite(resource, clock=clock, timeout=timeout)


class ImagesChannel(StreamingChannel):
    """One connection."""

    def resetTimeout(self) -> None:
        """
        Leave the timeout as it is.

        It runs from the end of the last answer to the end of the next request, so that a
        client cannot stretch it with a byte now and then.
        """


class ImagesRequest(StreamingRequest):
    """A request whose answer has :data:`HEADERS`, whatever it is."""

    defaultContentType = None

    def write(self, data: bytes) -> None:
        if not self.startedWriting:
            for name, value in HEADERS:
                self.setHeader(name, value)
        super().write(data)

    def finish(self) -> None:
        channel: Any = self.channel
        super().finish()
        if not channel.persistent:
            # The channel only waits for the last bytes to leave, and would wait for ever.
            channel.setTimeout(channel.site.timeOut)


class ImagesSite(StreamingSite):
    """
    The listener's protocol factory; :func:`make_site` makes one.

    HTTP/1.1 only: whatever ends TLS in front of this speaks HTTP/2 to browsers.
    """

    protocol = ImagesChannel

    def __init__(self, resource: ImagesResource, *, clock: IReactorTime, timeout: float) -> None:
        super().__init__(resource, reactor=clock)
        self.requestFactory = ImagesRequest
        self.timeOut = timeout

    def acceptableProtocols(self) -> list[bytes]:
        """What is spoken over TLS."""
        return [b"http/1.1"]
