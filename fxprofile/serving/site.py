"""A listener: a site on an endpoint, which ends in an orderly way."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime, IStreamServerEndpoint
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import Site

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import ConfigError
from fxprofile.serving.channel import StreamingChannel, StreamingRequest

#: Seconds that a connection may be idle.
IDLE = 60

#: Seconds that requests in hand may take when the listener stops.
GRACE = 20

_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Connection: close\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class StreamingSite(Site):
    """
    Answers each request when its headers are in.

    :param bad_request: the whole answer to what is not HTTP.
    :param bad_length: the same, if what is wrong is the length of a body: it is no number,
        is said twice, or is not the only thing that says where the body ends.
    """

    protocol: Any = StreamingChannel
    displayTracebacks = False
    noisy = False

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        bad_request: bytes = _BAD_REQUEST,
        bad_length: bytes = _BAD_REQUEST,
    ) -> None:
        super().__init__(
            resource,
            requestFactory=StreamingRequest,
            reactor=reactor,
            timeout=IDLE,
            parsePOSTFormSubmission=False,
        )
        self.bad_request = bad_request
        self.bad_length = bad_length
        self.stopping = False
        self.channels: set[StreamingChannel] = set()

    def log(self, request: Any) -> None:
        """Leave the log of requests to the resources, who know what is secret."""

    def acceptableProtocols(self) -> list[bytes]:
        """What is spoken over TLS: whatever stands in front of this speaks the rest."""
        return [b"http/1.1"]

    def close_idle(self) -> None:
        """Close the connections that wait for a request, and let no other wait for one."""
        self.stopping = True
        for channel in list(self.channels):
            if channel.requests:
                channel.persistent = False
            elif not channel.lingering:
                channel.loseConnection()

    def abort_all(self) -> None:
        """Close every connection at once."""
        for channel in list(self.channels):
            channel.transport.abortConnection()


class Listener(Service):
    """
    A site on an endpoint.

    :param where: the setting that named the endpoint, for the log.
    :param description: what that setting says.
    """

    def __init__(
        self,
        *,
        endpoint: IStreamServerEndpoint,
        site: StreamingSite,
        clock: IReactorTime,
        where: str,
        description: str = "",
    ) -> None:
        self.setName(where)
        self._description = description
        self._endpoint = endpoint
        self._site = site
        self._clock = clock
        self._opening: Deferred[None] | None = None
        self._port: IListeningPort | None = None
        self._problem: BaseException | None = None

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._begin()

    def startService(self) -> None:
        super().startService()
        if self._opening is None:
            self._begin()

    def _begin(self) -> None:
        self._opening = Deferred.fromCoroutine(self._open())
        # ready() tells it to whoever asks.
        self._opening.addErrback(self._note)

    async def _open(self) -> None:
        try:
            self._port = await self._endpoint.listen(self._site)
        except CannotListenError as error:
            reason = getattr(error.socketError, "strerror", None) or error.socketError
            raise self._cannot(reason) from None
        except (OSError, OverflowError, ValueError) as error:
            # There is no such port, or no such address.
            raise self._cannot(getattr(error, "strerror", None) or error) from None

    def _cannot(self, reason: object) -> ConfigError:
        return ConfigError(f"{self.name}: cannot listen at {self._description}: {reason}")

    def _note(self, failure: Failure) -> None:
        self._problem = failure.value

    async def ready(self) -> None:
        """
        Wait until it listens.

        :raises ConfigError: if it cannot.
        """
        if self._opening is not None:
            waiter: Deferred[None] = Deferred()
            self._opening.addBoth(lambda _: waiter.callback(None))
            await waiter
        self.check()

    def check(self) -> None:
        """
        Look whether it is known already that it cannot listen.

        :raises ConfigError: if it is.
        """
        if self._problem is not None:
            raise self._problem

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        port, self._port = self._port, None
        if port is None:
            return
        await maybeDeferred(port.stopListening)
        deadline = self._clock.seconds() + GRACE
        self._site.close_idle()
        while self._site.channels and self._clock.seconds() < deadline:
            await sleep(self._clock, 0.05)
        self._site.abort_all()
