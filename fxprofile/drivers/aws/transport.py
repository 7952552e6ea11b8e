"""
Requests over HTTP, by treq.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from fxprofile.drivers.aws.bodies import BytesProducer, PlainStream, Receiver, StreamProducer
from fxprofile.drivers.aws.watchdog import Watchdog

#: Seconds for a connection to be made.
CONNECT_TIMEOUT: Final = 5.0

#: Seconds in which the other side has to show a sign of life.
READ_TIMEOUT: Final = 30.0

#: Seconds that an idle connection is kept: less than AWS keeps it.
IDLE_TIMEOUT: Final = 5

#: Idle connections that are kept for a host.
IDLE_CONNECTIONS: Final = 32


class Unreachable(Exception):
    """No answer came, or not the whole of it."""


class Silent(Unreachable):
    """The other side gave no sign of life for too long."""


class EarlyAnswer(Exception):
    """The other side says that all is well before it has all of the body."""


@dataclass(frozen=True)
class Reply:
    """
    The head of an answer, and its body, which has to be read or closed.

    :ivar headers: with names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: ReplyBody


class ReplyBody:
    """
    The :class:`fxprofile.model.ports.Body` of an answer.

    :param clock: ends the wait for a piece that does not come.
    """

    def __init__(self, receiver: Receiver, clock: IReactorTime, timeout: float) -> None:
        self._receiver = receiver
        self._clock = clock
        self._timeout = timeout
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        waiting = Deferred.fromCoroutine(self._receiver.next())
        watchdog = Watchdog(self._clock, self._timeout, waiting.cancel)
        watchdog.touch()
        piece = b""
        try:
            piece = await waiting
        except CancelledError:
            if watchdog.barked:
                raise Silent(f"nothing came for {self._timeout:g} s") from None
            raise
        except Exception as error:
            raise Unreachable(f"the answer ended early: {describe(error)}") from error
        finally:
            watchdog.end()
            if not piece:
                self._over = True
                self._receiver.give_up()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        if not self._over:
            self._over = True
            self._receiver.give_up()


class Transport:
    """
    Sends requests, and keeps connections for the next ones.

    :param http: in place of our own connections.
    """

    def __init__(self, reactor: Any, http: HTTPClient | None = None) -> None:
        self._reactor = reactor
        self._http = http
        self._pool: HTTPConnectionPool | None = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | PlainStream,
        timeout: float = READ_TIMEOUT,
    ) -> Reply:
        """
        Send a request and wait for the head of the answer.

        :param timeout: seconds in which the other side has to show a sign of life.
        :raises Unreachable: if it does not answer.
        :raises EarlyAnswer: if it praises a body that it has not seen the end of.
        :raises Exception: whatever the stream raises.
        """
        watchdog = Watchdog(self._reactor, timeout, lambda: sending.cancel())
        producer: BytesProducer | StreamProducer
        if isinstance(body, bytes):
            producer = BytesProducer(body)
        else:
            producer = StreamProducer(body, watchdog)
        # Methods without a body say nothing of its length.
        data = producer if producer.length or method in ("PUT", "POST") else None
        sending: Deferred[Any] = self._client().request(
            method,
            url,
            headers=Headers({name: [value] for name, value in headers.items()}),
            data=data,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        watchdog.touch()
        cancelled = False

        def cancel(_: object) -> None:
            # Twisted gives many errors for this, after the state of the connection.
            nonlocal cancelled
            cancelled = True
            sending.cancel()

        answered: Deferred[Any] = Deferred(cancel)
        sending.addBoth(answered.callback)
        try:
            response = await answered
        except Exception as error:
            if cancelled:
                raise CancelledError from None
            if producer.failure is not None:
                producer.failure.raiseException()
            if watchdog.barked:
                raise Silent(f"no sign of life for {timeout:g} s") from None
            raise Unreachable(describe(error)) from error
        finally:
            watchdog.end()
        receiver = Receiver()
        response.deliverBody(receiver)
        reply_body = ReplyBody(receiver, self._reactor, timeout)
        if data is not None and not producer.finished:
            # It has made up its mind, and nobody listens to the rest.
            producer.stopProducing()
            if response.code < 300:
                await reply_body.aclose()
                raise EarlyAnswer
        head = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        if response.length is not UNKNOWN_LENGTH:
            # Twisted keeps this one to itself, but for a HEAD.
            head.setdefault("content-length", str(response.length))
        return Reply(status=response.code, headers=head, body=reply_body)

    async def close(self) -> None:
        """Close the connections that are idle."""
        pool, self._pool = self._pool, None
        if pool is not None:
            self._http = None
            await pool.closeCachedConnections()

    def _client(self) -> HTTPClient:
        if self._http is None:
            self._pool = HTTPConnectionPool(self._reactor)
            self._pool.maxPersistentPerHost = IDLE_CONNECTIONS
            self._pool.cachedConnectionTimeout = IDLE_TIMEOUT
            self._http = HTTPClient(
                Agent(self._reactor, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)
            )
        return self._http


def describe(error: BaseException) -> str:
    """An error of the network in one line, with those that it stands for."""
    if reasons := _reasons(error):
        return "; ".join(map(describe, reasons))
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _reasons(error: BaseException) -> list[BaseException]:
    """The errors that one of Twisted's stands for."""
    reasons: list[Failure] = getattr(error, "reasons", None) or []
    return [reason.value for reason in reasons if reason.value is not None]
