"""A listener: a site on an endpoint, with a graceful stop."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure

from fxprofile.deferreds.tasks import sleep
from fxprofile.model.errors import ConfigError
from fxprofile.serving.channel import StreamingSite

#: How long accepting pauses when descriptors run low, in seconds.
PAUSE = 1

#: How long connections without a request stay open when the listener stops, in seconds.
DRAIN = 1

#: How long requests in flight may take when the listener stops, in seconds.
GRACE = 20


@attrs.define(kw_only=True, eq=False, slots=False)
class Listener(Service):
    """
    A site on an endpoint.

    :param where: the setting that names the endpoint, for error messages.
    :param description: the value of that setting.
    """

    name: str = attrs.field(alias="where")
    _endpoint: IStreamServerEndpoint
    _site: StreamingSite
    _clock: IReactorTime
    _description: str = ""
    _opening: Deferred[None] | None = attrs.field(init=False, default=None)
    _port: Any = attrs.field(init=False, default=None)
    _paused: IDelayedCall | None = attrs.field(init=False, default=None)
    _problem: BaseException | None = attrs.field(init=False, default=None)

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._open()

    def startService(self) -> None:
        super().startService()
        if self._opening is None:
            self._open()

    def _open(self) -> None:
        # check() and ready() raise the problem.
        self._opening = Deferred.fromCoroutine(self._listen()).addErrback(self._note)

    async def _listen(self) -> None:
        try:
            self._port = await self._endpoint.listen(self._site)
            if self._site.limits is not None:
                self._site.limits.pause = self._pause
        except (CannotListenError, OSError, OverflowError, ValueError) as error:
            # The last three: the port or the address does not exist.
            cause = getattr(error, "socketError", error)
            reason = getattr(cause, "strerror", None) or cause
            where = f"{self.name}: cannot listen at {self._description}"
            raise ConfigError(f"{where}: {reason}") from None

    def hold(self) -> tuple[int, int]:
        """
        Accept no connections: other processes do, which inherit the socket.

        :returns: its descriptor, and its address family.
        :raises ConfigError: if it is not open.
        """
        self.check()
        if self._port is None:
            raise ConfigError(f"{self.name}: is not open")
        self._port.stopReading()
        return self._port.fileno(), self._port.addressFamily

    def _pause(self) -> None:
        """Leave new connections to the kernel for a while."""
        if self._paused is None and self._port is not None:
            self._port.stopReading()
            self._paused = self._clock.callLater(PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = None
        if self._port is not None:
            self._port.startReading()

    def _note(self, failure: Failure) -> None:
        self._problem = failure.value

    async def ready(self) -> None:
        """
        Wait until it listens.

        :raises ConfigError: if it cannot.
        """
        if self._opening is not None:
            await self._opening
        self.check()

    def check(self) -> None:
        """
        Raise the problem that is already known, if any.

        :raises ConfigError: if it cannot listen.
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
        if self._paused is not None:
            self._paused.cancel()
        if port is None:
            return
        await maybeDeferred(port.stopListening)
        deadline = self._clock.seconds() + GRACE
        # A client may be sending a request on a connection that is idle as yet.
        self._site.drain()
        while self._site.channels and self._clock.seconds() < deadline - GRACE + DRAIN:
            await sleep(self._clock, 0.05)
        self._site.close_idle()
        while self._site.channels and self._clock.seconds() < deadline:
            await sleep(self._clock, 0.05)
        self._site.abort_all()
