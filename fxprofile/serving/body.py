"""
A request body that is read as it comes.

The transport is read only when somebody asks for the next piece, so that a slow bucket
slows its client down, and no more than one read of the socket waits in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from fxprofile.model.errors import ClientGone, RequestTimeout

#: Seconds that a client may take over each :data:`PROGRESS` bytes.  A client that sends
#: a byte now and then is stalled too.
PATIENCE = 15
PROGRESS = 8192


class RequestBody:
    """
    The body of one request, as a :class:`fxprofile.model.ports.Body`.

    :param transport: is paused while nobody asks.
    :param continue_: sends ``100 Continue``, if the client waits for that.
    """

    def __init__(self, *, transport: Any, clock: IReactorTime, continue_: Any = None) -> None:
        self.complete = False
        self._transport = transport
        self._clock = clock
        self._continue = continue_
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        self._asking: Deferred[None] | None = None
        self._waited = 0.0
        self._progress = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        :raises ClientGone: if the client went away.
        :raises RequestTimeout: if it sends too slowly.
        """
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            await self._ask()
        return self._pieces.pop(0)

    async def aclose(self) -> None:
        """Take no more of it; what still comes is dropped."""
        if not self.complete and self._error is None:
            self._error = ClientGone("the body was given up")
        self._pieces.clear()

    async def read(self, limit: int) -> bytes | None:
        """
        All of it, or None if it is longer than ``limit`` bytes.
        """
        data = bytearray()
        async for piece in self:
            data += piece
            if len(data) > limit:
                await self.aclose()
                return None
        return bytes(data)

    async def _ask(self) -> None:
        if self._continue is not None:
            self._continue()
            self._continue = None
        self._transport.resumeProducing()
        started = self._clock.seconds()
        late = self._clock.callLater(max(0, PATIENCE - self._waited), self._stalled)
        self._asking = Deferred()
        try:
            await self._asking
        finally:
            self._asking = None
            if late.active():
                late.cancel()
        self._waited += self._clock.seconds() - started
        if self._progress >= PROGRESS:
            self._progress = 0
            self._waited = 0

    def _stalled(self) -> None:
        self._fail(RequestTimeout())

    def received(self, data: bytes) -> None:
        """The client has sent some more."""
        self._continue = None
        if self._error is not None:
            return
        self._pieces.append(data)
        self._progress += len(data)
        self._transport.pauseProducing()
        self._wake()

    def completed(self) -> None:
        """The client has sent it all."""
        self.complete = True
        self._wake()

    def lost(self) -> None:
        """The client has gone."""
        if not self.complete:
            self._fail(ClientGone("the client went away in mid-body"))

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._pieces.clear()
        self._wake()

    def _wake(self) -> None:
        if self._asking is not None and not self._asking.called:
            self._asking.callback(None)
