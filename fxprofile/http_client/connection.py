"""HTTP/1.1 on one connection (RFC 9112), parsed by llhttp."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Final
from typing import Protocol as Interface

import attrs
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.http_client.bodies import IterableBody
from fxprofile.http_client.errors import (
    ConnectionCut,
    DeadlineExceeded,
    EarlyResponse,
    HttpError,
    MalformedResponse,
    describe,
)
from fxprofile.http_client.response import BUFFER, Response

#: The most bytes of the headers of a response, those of 1xx responses and trailers included.
MAX_HEAD: Final = 1 << 16

#: Bytes that a header or a response costs beside its name and value: ``: `` and the line end.
_OVERHEAD: Final = 4

#: Seconds to wait for ``100 Continue`` before the body is sent nevertheless (RFC 9110, 10.1.1).
CONTINUE_WAIT: Final = 1.0

#: The most interim (1xx) responses to one request.
MAX_INTERIM: Final = 16

#: Seconds that an orderly close may take, as of TLS.
CLOSE_WAIT: Final = 1.0


@attrs.frozen
class Deadlines:
    """
    How many seconds a server may take.

    :ivar connect: until a connection is made, or one in the pool becomes free.
    :ivar head: from the end of the request to the end of the response's headers.
    :ivar progress: between two pieces of the response, or while it accepts no more of the
        request.  The time that our own body or our reader takes does not count.
    :ivar total: from the call to the end of the response.
    """

    connect: float = 5.0
    head: float = 30.0
    progress: float = 30.0
    total: float = inf


@attrs.define(eq=False, repr=False)
class Exchange:
    """
    A request, and the response that is awaited.

    :ivar head: the request line and the headers, as they are sent.
    :ivar retriable: whether it is sent again if a kept connection turns out to be closed.
    :ivar ends: when the total deadline expires, in seconds of the clock.
    :ivar total: the seconds of that deadline.
    :ivar response: fires when the head of the response has arrived.
    :ivar is_retry: whether it is sent for the second time.
    :ivar timer: until there is a connection; from then on the connection has the time.
    :ivar abort: gives up, depending on where the request is.
    """

    method: bytes
    head: bytes
    body: bytes | IBodyProducer
    deadlines: Deadlines
    ends: float
    total: float
    retriable: bool
    response: Deferred[Response]
    expects_continue: bool = False
    is_retry: bool = False
    is_cancelled: bool = False
    timer: IDelayedCall | None = None
    abort: Callable[[], object] = bool

    def stop_timer(self) -> None:
        """Stop the time until a connection is made."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def cancel(self) -> None:
        """Give up, wherever the request is."""
        self.stop_timer()
        self.is_cancelled = True
        self.abort()

    def fail(self, error: BaseException | None) -> None:
        """End without a response, unless the request was cancelled or has expired."""
        self.stop_timer()
        if not self.is_cancelled:
            self.is_cancelled = True
            self.response.errback(Failure(error))


class ConnectionOwner(Interface):
    """The pool of a connection."""

    def released(self, connection: HttpConnection) -> None:
        """The connection can serve another request."""

    def withdraw(self, connection: HttpConnection) -> None:
        """The connection is being closed, and must not be used."""

    def closed(self, connection: HttpConnection) -> None:
        """The connection has ended."""

    def submit(self, exchange: Exchange) -> None:
        """Send a request, perhaps once more."""


@implementer(IPushProducer)
class HttpConnection(Protocol):
    """
    A connection that serves one request after the other.

    It has one timer, which is moved only if a deadline comes before it.

    :ivar lost: fires when the connection has ended.
    """

    transport: Any

    def __init__(self, clock: IReactorTime, owner: ConnectionOwner) -> None:
        self._clock = clock
        self._owner = owner
        self._exchange: Exchange | None = None
        self._parser: HttpResponseParser | None = None
        self._response: Response | None = None
        self._producer: IBodyProducer | None = None
        self._timer: IDelayedCall | None = None
        self._deadline = inf
        self.lost: Deferred[None] = Deferred()
        self._has_served = self._is_paused = self._is_closing = self._is_lost = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def start(self, exchange: Exchange) -> None:
        """Send a request on this idle connection."""
        self._exchange = exchange
        self._parser = HttpResponseParser(self)
        self._response = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._phrase = b""
        self._received = 0
        self._room = MAX_HEAD
        self._interim = 0
        self._is_complete = self._is_reusable = self._is_early = False
        # Whether the server asked for the body of the request, and whether it is sent.
        self._may_continue = self._is_continued = False
        body = exchange.body
        if isinstance(body, bytes) and len(body) <= BUFFER:
            self.transport.write(exchange.head + body)
            self._expect(exchange.deadlines.head)
            return
        if isinstance(body, bytes):
            body = IterableBody(BytesBody(body), len(body))
        self._producer = body
        self.transport.write(exchange.head)
        if exchange.expects_continue:
            self._expect(CONTINUE_WAIT)
        else:
            self._send_body()

    def keep(self, seconds: float) -> None:
        """Stay open without a request for so many seconds."""
        self._expect(seconds)

    def limit_time(self, seconds: float) -> None:
        """Fail unless the response has ended after so many seconds."""
        exchange = self._exchange
        if exchange is not None:
            ends = self._clock.seconds() + seconds
            if ends < exchange.ends:
                exchange.ends, exchange.total = ends, seconds
            self._expect(inf if self._is_paused else exchange.deadlines.progress)

    def resume(self) -> None:
        """Read on after :meth:`pauseProducing` of the transport."""
        if self._is_paused:
            self._is_paused = False
            if self._exchange is not None:
                self._expect(self._exchange.deadlines.progress)
            self.transport.resumeProducing()

    # The body of the request.

    def _send_body(self) -> None:
        exchange, producer = self._exchange, self._producer
        if exchange is None or producer is None or self._is_continued:
            return
        self._is_continued = True
        self._expect(inf)
        self._unsent = int(producer.length)

        def ended(outcome: Failure | None) -> None:
            if self._exchange is not exchange or self._producer is not producer:
                return
            self._producer = None
            self.transport.unregisterProducer()
            if isinstance(outcome, Failure):
                self._fail(outcome.value)
            elif self._unsent:
                self._fail(ValueError(f"the request lacks {self._unsent} announced bytes"))
            else:
                self._expect(exchange.deadlines.head)

        self.transport.registerProducer(self, True)
        maybeDeferred(producer.startProducing, self).addBoth(ended)

    def write(self, data: bytes) -> None:
        """Send a piece of the body (IConsumer)."""
        if self._producer is None:
            return
        self._unsent -= len(data)
        if self._unsent < 0:
            raise ValueError("the body of the request is longer than announced")
        self.transport.write(data)

    def pauseProducing(self) -> None:
        """The server accepts no more at present."""
        if self._producer is not None and self._exchange is not None:
            self._expect(self._exchange.deadlines.progress)
            self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """The server accepts more."""
        if self._producer is not None:
            self._expect(inf)
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The connection has ended; :meth:`connectionLost` follows."""

    def _stop_body(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None and self._is_continued:
            self.transport.unregisterProducer()
            producer.stopProducing()

    # The response, as the parser reports it.

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._is_reusable = False

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_header(self, name: bytes, value: bytes) -> None:
        self._room -= len(name) + len(value) + _OVERHEAD
        if self._room < 0:
            raise MalformedResponse("the headers of the response are too long")
        # Trailers are ignored.
        if self._response is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser is None or self._exchange is None or self._is_complete:
            return
        status = parser.get_status_code()
        if status < 200:
            self._headers, self._phrase = [], b""
            self._may_continue = self._may_continue or status == 100
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise MalformedResponse("too many interim responses")
            return
        response = Response(status, self._phrase, self._headers, self)
        coding = response.header(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise MalformedResponse("unknown transfer coding")
        self._response = response
        if self._exchange.method == b"HEAD":
            # llhttp does not know that no body follows.
            self._is_complete = True
            self._is_reusable = parser.should_keep_alive()

    def on_body(self, piece: bytes) -> None:
        if self._is_complete or self._response is None:
            self._is_reusable = False
        elif self._response.received(piece) and not self._is_paused:
            self._is_paused = True
            self.transport.pauseProducing()

    def on_message_complete(self) -> None:
        if self._response is not None and not self._is_complete and self._parser is not None:
            self._is_complete = True
            self._is_reusable = (
                self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
            )

    def dataReceived(self, data: bytes) -> None:
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            # Bytes that belong to no request.
            self._abort_transport()
            return
        self._received += len(data)
        problem: HttpError | None = None
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            cause = error.__context__
            problem = cause if isinstance(cause, HttpError) else MalformedResponse(describe(error))
        response = self._response
        if problem is None and response is None and self._received > MAX_HEAD:
            problem = MalformedResponse("the headers of the response are too long")
        if response is not None and self._producer is not None:
            # The server ignores the rest of the request.
            self._is_early = True
            self._stop_body()
            if response.status < 300:
                problem = EarlyResponse("success was reported before the end of the request")
                self._is_complete = False
        if self._is_complete and response is not None:
            is_reusable = self._is_reusable and problem is None and not self._is_early
            if exchange.method == b"HEAD" and not data.endswith(b"\r\n\r\n"):
                is_reusable = False
            self._finish(exchange, response, is_reusable)
        elif problem is not None:
            self._fail(problem)
        elif response is not None:
            self._expect(inf if self._is_paused else exchange.deadlines.progress)
            self._notify(exchange, response)
        elif self._may_continue:
            self._send_body()

    def _notify(self, exchange: Exchange, response: Response) -> None:
        """Pass the response on, or more of its body."""
        if exchange.response.called:
            response.wake()
        else:
            exchange.response.callback(response)

    def _finish(self, exchange: Exchange, response: Response, is_reusable: bool) -> None:
        self._exchange = self._parser = None
        self._has_served = True
        response.ended()
        if self._is_paused:
            self.resume()
        # First, because the reader may have another request for this connection.
        if is_reusable:
            self._owner.released(self)
        else:
            self.close()
        self._notify(exchange, response)

    # The end.

    def close(self) -> None:
        """Close the idle connection."""
        if not self._is_lost:
            self._owner.withdraw(self)
            self.transport.loseConnection()
            self._is_closing = True
            self._expect(CLOSE_WAIT)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_lost = True
        exchange, response = self._exchange, self._response
        if exchange is not None:
            if (
                response is not None
                and response.ends_with_connection
                and reason.check(ConnectionDone)
            ):
                self._finish(exchange, response, is_reusable=False)
            else:
                self._fail(ConnectionCut(describe(reason.value)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.closed(self)
        self.lost.callback(None)

    def _fail(self, error: BaseException | None) -> None:
        exchange, response = self._exchange, self._response
        if exchange is None:
            return
        self.abort()
        if response is not None and exchange.response.called:
            response.ended(error)
            response.wake()
        elif (
            isinstance(error, ConnectionCut)
            and self._has_served
            and not self._received
            and exchange.retriable
            and not exchange.is_retry
            and (isinstance(exchange.body, bytes) or not self._is_continued)
        ):
            exchange.is_retry = True
            self._owner.submit(exchange)
        else:
            exchange.fail(error)

    def abort(self) -> None:
        """Close the connection at once, and give up its request."""
        self._exchange = self._parser = None
        self._stop_body()
        self._abort_transport()

    def _abort_transport(self) -> None:
        if not self._is_lost:
            self._owner.withdraw(self)
            self.transport.abortConnection()

    # The time.

    def _expect(self, seconds: float) -> None:
        """Set the deadline of what happens next."""
        now = self._clock.seconds()
        deadline = now + seconds
        if self._exchange is not None and self._exchange.ends < deadline:
            deadline = self._exchange.ends
        self._deadline = deadline
        if deadline == inf or self._is_lost:
            return
        if self._timer is None:
            self._timer = self._clock.callLater(max(0, deadline - now), self._tick)
        elif self._timer.getTime() > deadline:
            self._timer.reset(max(0, deadline - now))

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if self._deadline > now:
            if self._deadline < inf:
                self._timer = self._clock.callLater(self._deadline - now, self._tick)
            return
        exchange = self._exchange
        if exchange is None:
            if self._is_closing:
                self._abort_transport()
            else:
                self.close()
        elif exchange.ends <= now:
            self._fail(DeadlineExceeded(f"no complete response in {exchange.total:g} s"))
        elif self._producer is not None and not self._is_continued:
            self._send_body()
        elif self._response is None and self._producer is None:
            self._fail(DeadlineExceeded(f"no response in {exchange.deadlines.head:g} s"))
        else:
            self._fail(DeadlineExceeded(f"no progress for {exchange.deadlines.progress:g} s"))
