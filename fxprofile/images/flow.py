"""
Bytes from a bucket to a client, no faster than the client takes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.web.http import Request
from zope.interface import implementer

from fxprofile.errors import StorageError
from fxprofile.interfaces import Body


async def send(
    *,
    request: Request,
    body: Body,
    length: int,
    begin: Callable[[], None],
    clock: IReactorTime,
    stall: float,
) -> None:
    """
    Write a body to a client.

    Each piece is asked for when the one before has left our hands.  A client that takes
    nothing for too long is cut off.  Cancel this when the client is gone.

    :param begin: sets the status and the headers.  It is called when there is something to
        write, so that a bucket that fails before leaves the answer open.
    :param length: how many bytes the headers promise.
    :param stall: seconds.
    :raises StorageError: if the bucket fails, or gives more or fewer bytes; when the headers
        are out, only cutting the connection tells the client.
    """
    flow = _Flow(request, clock, stall)
    sent = 0
    try:
        async for piece in body:
            if sent + len(piece) > length:
                raise StorageError(f"more than {length} bytes came")
            if piece and not sent:
                begin()
                request.registerProducer(flow, True)
            sent += len(piece)
            request.write(piece)
            await flow.open()
        if sent < length:
            raise StorageError(f"{sent} of {length} bytes came")
        if not length:
            begin()
    finally:
        flow.stopProducing()
        if request.producer is not None and request.channel is not None:
            request.unregisterProducer()


def cut_off(request: Request) -> None:
    """End the connection of a request at once, so that its client sees that it was cut."""
    transport: Any = request.transport
    transport.abortConnection()


@implementer(IPushProducer)
class _Flow:
    """The taps of a response: the transport closes and opens them."""

    def __init__(self, request: Request, clock: IReactorTime, stall: float) -> None:
        self._request = request
        self._clock = clock
        self._stall = stall
        self._waiting: Deferred[None] | None = None
        self._closed = False
        self._timer: IDelayedCall | None = None

    def open(self) -> Deferred[None]:
        """Fires when the client can take more."""
        if not self._closed:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def pauseProducing(self) -> None:
        self._closed = True
        if self._timer is None:
            self._timer = self._clock.callLater(self._stall, self._give_up)

    def resumeProducing(self) -> None:
        self.stopProducing()
        self._closed = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        # Whoever waits is cancelled by the end of the request.
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _give_up(self) -> None:
        self._timer = None
        cut_off(self._request)
