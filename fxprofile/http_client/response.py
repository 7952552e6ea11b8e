"""Responses, and the streams of their bodies."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any, Final, Protocol, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, ITransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IClientRequest, IResponse
from zope.interface import implementer

from fxprofile.deferreds.producer import StreamProducer
from fxprofile.http_client.errors import HttpError, MalformedResponse, ResponseTooLong

#: Bytes of a body that are buffered before the server has to wait.
BUFFER: Final = 1 << 16

#: Names and values of headers; the names are in lower case.
HeaderList = Sequence[tuple[bytes, bytes]]


class BodySource(Protocol):
    """The connection that a body arrives on."""

    def resume(self) -> None:
        """Continue to read the body after its buffer was full."""

    def limit_time(self, seconds: float) -> None:
        """Fail unless the body has ended after so many seconds."""

    def abort(self) -> None:
        """Close the connection at once."""


@implementer(IClientRequest)
@attrs.frozen
class SentRequest:
    """The request of a response, as Twisted's interfaces have it."""

    method: bytes
    absoluteURI: bytes
    headers: Headers


@implementer(IResponse)
class Response:
    """
    A response, and its body as an asynchronous iterator with back-pressure.

    The body is read by iteration, by :meth:`read` or by :meth:`deliverBody`; a response that
    is not read to its end must be closed.

    :ivar status: the status code.
    :ivar raw_headers: with names in lower case.
    :ivar length: of the body in bytes, as announced; UNKNOWN_LENGTH if it is not.
    """

    version = (b"HTTP", 1, 1)
    # The IAgent replaces it.
    request = SentRequest(b"GET", b"", Headers())
    previousResponse: IResponse | None = None

    def __init__(
        self, status: int, phrase: bytes, raw_headers: HeaderList, source: BodySource
    ) -> None:
        self.status = self.code = status
        self.phrase = phrase
        self.raw_headers = raw_headers
        length = self.header(b"content-length")
        self.length: Any = UNKNOWN_LENGTH if length is None else int(length)
        self._source: BodySource | None = source
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._error: BaseException | None = None
        self._waiter: Deferred[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the last value of a header, by its name in lower case."""
        found = None
        for own, value in self.raw_headers:
            if own == name:
                found = value
        return found

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has neither a length nor chunks."""
        return self.length is UNKNOWN_LENGTH and self.header(b"transfer-encoding") is None

    @cached_property
    def headers(self) -> Headers:
        """The headers as Twisted has them."""
        headers = Headers()
        for name, value in self.raw_headers:
            headers.addRawHeader(name, value)
        return headers

    def setPreviousResponse(self, response: IResponse) -> None:
        """See IResponse."""
        self.previousResponse = response

    def refuse_compression(self) -> Response:
        """
        Return the response itself.

        :raises MalformedResponse: if it is compressed: its length does not bound its size.
        """
        if self.header(b"content-encoding") not in (None, b"", b"identity"):
            self.abort()
            raise MalformedResponse("the response is compressed")
        return self

    async def read(self, limit: int, seconds: float | None = None) -> bytes:
        """
        Return the whole body.

        :param seconds: that it may take to arrive; None if only its progress is timed.
        :raises ResponseTooLong: if it has more than ``limit`` bytes.
        :raises HttpError: if it ends early.
        """
        pieces: list[bytes] = []
        if seconds is not None and self._source is not None:
            self._source.limit_time(seconds)
        room = limit - (self.length if self._source and self.length is not UNKNOWN_LENGTH else 0)
        if room >= 0:
            room = limit
            if self._source is None and self._error is None:
                pieces, self._pieces = list(self._pieces), deque()
                room -= sum(map(len, pieces))
            else:
                async for piece in self:
                    pieces.append(piece)
                    room -= len(piece)
                    if room < 0:
                        break
        if room < 0:
            self.abort()
            raise ResponseTooLong(f"the response is longer than {limit} bytes")
        return b"".join(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """
        :raises HttpError: once, if the body ends early.
        """
        while not self._pieces:
            if self._source is None:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._waiter = Deferred()
            try:
                await self._waiter
            except BaseException:
                self.abort()
                raise
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if not self._pieces and self._source is not None:
            self._source.resume()
        return piece

    async def aclose(self) -> None:
        """Drop the rest of the body, and the connection unless all of it has arrived."""
        self.abort()

    def abort(self) -> None:
        """The same as :meth:`aclose`, at once."""
        self._pieces.clear()
        self._error = None
        source, self._source = self._source, None
        if source is not None:
            source.abort()
        self.wake()

    def deliverBody(self, protocol: IProtocol) -> None:
        """See IResponse."""
        delivery = _Delivery(self)
        protocol.makeConnection(cast(ITransport, delivery))
        Deferred.fromCoroutine(delivery.run(protocol)).addErrback(lambda _: self.abort())

    # For the connection.

    def received(self, piece: bytes) -> bool:
        """Accept a piece, and return whether the buffer is full."""
        self._pieces.append(piece)
        self._size += len(piece)
        return self._size >= BUFFER

    def ended(self, error: BaseException | None = None) -> None:
        """Accept the end of the body."""
        self._source = None
        self._error = error

    def wake(self) -> None:
        """Continue the reader that waits for more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)


class _Delivery(StreamProducer):
    """Passes a body to a protocol, whose transport it is."""

    disconnecting = False

    def __init__(self, response: Response) -> None:
        self._response = response

    async def run(self, protocol: IProtocol) -> None:
        try:
            async for piece in self._response:
                protocol.dataReceived(piece)
                await self.writable()
            reason = Failure(ResponseDone())
        except HttpError as error:
            reason = Failure(ResponseFailed([Failure(error)]))
        protocol.connectionLost(reason)

    def stopProducing(self) -> None:
        self._response.abort()
        self.resumeProducing()

    loseConnection = abortConnection = stopProducing
