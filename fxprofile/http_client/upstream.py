"""
Ask a server that answers in JSON, and believe nothing of it.

Whatever the other side does, an answer or a failure comes within the time that is
allowed: a server may be dead, accept and say nothing, drip bytes, send garbage or
without end, redirect, or compress a bomb.
"""

from __future__ import annotations

import json
import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, TypeVar

from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

T = TypeVar("T")

#: A longer answer is not read to its end.
MAX_BYTES: Final = 1 << 16

#: How many requests one server is asked at one time; further ones wait.
MAX_IN_FLIGHT: Final = 100

#: Seconds that an idle connection is kept.  The servers keep theirs for 5.
IDLE: Final = 4

#: The requests that may be sent twice.
_RETRIED: Final = (RequestTransmissionFailed, ResponseNeverReceived)


class UpstreamFailure(Exception):
    """A server gave no usable answer.  The text holds nothing of what was sent to it."""


@dataclass(frozen=True)
class Answer:
    """
    What a server said.

    :ivar members: the JSON object of the body, or None if it is anything else.
    """

    status: int
    members: Mapping[str, Any] | None


async def within(clock: IReactorTime, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """
    Do this in so many seconds, or not at all.

    :raises UpstreamFailure: if it takes longer; the work is cancelled.
    """
    working = Deferred.fromCoroutine(work)
    late = clock.callLater(seconds, working.cancel)
    try:
        return await working
    except CancelledError:
        if late.active():
            raise
        raise UpstreamFailure(f"no answer in {seconds:g} s") from None
    finally:
        if late.active():
            late.cancel()


def pool_for(reactor: Any, size: int = MAX_IN_FLIGHT) -> HTTPConnectionPool:
    """
    A pool of connections; whoever has it closes it.

    :param size: how many idle connections to one server are kept.
    """
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = size
    pool.cachedConnectionTimeout = IDLE
    pool.retryAutomatically = False
    return pool


def client_for(reactor: Any, pool: HTTPConnectionPool, timeout: float) -> HTTPClient:
    """
    A client that keeps no cookies and takes no compressed answers.

    :param timeout: seconds that a connection may take to come about.
    """
    agent = Agent(reactor, connectTimeout=timeout, pool=pool)
    no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    return HTTPClient(_PlainAgent(agent), cookiejar=no_cookies)


@implementer(IAgent)
class _PlainAgent:
    """Asks for answers as they are: a few compressed bytes may stand for gigabytes."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        plain = Headers() if headers is None else headers.copy()
        plain.setRawHeaders(b"accept-encoding", [b"identity"])
        response = self._agent.request(method, uri, plain, bodyProducer)
        return response.addCallback(self._uncompressed)

    def _uncompressed(self, response: IResponse) -> IResponse:
        codings = response.headers.getRawHeaders(b"content-encoding", [])
        if any(coding.strip().lower() not in (b"", b"identity") for coding in codings):
            response.deliverBody(_Reader(0))
            raise UpstreamFailure("the answer is compressed")
        return response


class Upstream:
    """
    One server.

    :param name: what errors call it.
    :param client: sends the requests.
    :param timeout: seconds for a request, from the call to the last byte of the answer.
    :param retry: whether a request may be sent once more when its connection was lost
        before any answer, as happens to idle ones.
    """

    def __init__(
        self,
        name: str,
        client: HTTPClient,
        clock: IReactorTime,
        *,
        timeout: float,
        retry: bool = True,
    ) -> None:
        self._name = name
        self._client = client
        self._clock = clock
        self._timeout = timeout
        self._retry = retry
        self._turns = DeferredSemaphore(MAX_IN_FLIGHT)

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> Answer:
        """
        Send a request.

        :param body: goes as JSON.
        :raises UpstreamFailure: if there is no answer, not in time, or if it is cut
            short or too long.
        """
        arguments: dict[str, Any] = {"headers": {"Accept": "application/json", **(headers or {})}}
        if body is not None:
            arguments["json"] = dict(body)
        try:
            return await within(self._clock, self._timeout, self._in_turn(method, url, arguments))
        except UpstreamFailure as failure:
            raise UpstreamFailure(f"{self._name}: {failure}") from None

    async def _in_turn(self, method: str, url: str, arguments: Mapping[str, Any]) -> Answer:
        await self._turns.acquire()
        try:
            return await self._exchange(method, url, arguments)
        except UpstreamFailure:
            raise
        except Exception as error:
            if _is_cancellation(error):
                raise CancelledError from None
            raise UpstreamFailure(_describe(error)) from None
        finally:
            self._turns.release()

    async def _exchange(self, method: str, url: str, arguments: Mapping[str, Any]) -> Answer:
        try:
            response = await self._send(method, url, arguments)
        except _RETRIED as error:
            if not self._retry or _is_cancellation(error):
                raise
            response = await self._send(method, url, arguments)
        reader = _Reader(MAX_BYTES)
        response.deliverBody(reader)
        return Answer(status=response.code, members=_members(await reader.done))

    def _send(self, method: str, url: str, arguments: Mapping[str, Any]) -> Deferred[Any]:
        return self._client.request(
            method,
            url,
            allow_redirects=False,
            unbuffered=True,
            # treq would take the global reactor otherwise.
            reactor=self._clock,  # type: ignore[arg-type]
            **arguments,
        )


class _Reader(Protocol):
    """
    Collects a body.

    :param limit: bytes; a longer body is given up.
    :ivar done: the body.  Cancelling it closes the connection.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._close())
        # Nobody may wait for it, when the headers were enough to refuse the answer.
        if not limit:
            self.done.addErrback(lambda _: None)

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._data += data
        if len(self._data) > self._limit:
            self.done.errback(UpstreamFailure(f"the answer is longer than {self._limit} bytes"))
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        # Without a length, the end of the connection is the end of the body.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(UpstreamFailure("the answer was cut short"))

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _members(body: bytes) -> Mapping[str, Any] | None:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _reasons(error: BaseException) -> list[BaseException]:
    return [failure.value for failure in getattr(error, "reasons", ())]


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, CancelledError | ConnectingCancelledError):
        return True
    return any(_is_cancellation(reason) for reason in _reasons(error))


def _describe(error: BaseException) -> str:
    """The names of what happened: texts might repeat what was sent."""
    reasons = ", ".join(type(reason).__name__ for reason in _reasons(error))
    return f"{type(error).__name__} ({reasons})" if reasons else type(error).__name__


def as_text(value: object) -> str:
    """
    A text that an answer holds.

    :raises ValueError: if it is none, or cannot be sent on.
    """
    if not isinstance(value, str):
        raise ValueError("not a text")
    value.encode()
    return value


def as_number(value: object) -> float:
    """
    A number, zero or more, that an answer holds.

    :raises ValueError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not 0 <= value <= 2**53 or math.isnan(value):
        raise ValueError("not a number that makes sense")
    return value


def as_texts(value: object) -> tuple[str, ...]:
    """
    A list of texts that an answer holds.

    :raises ValueError: if it is none.
    """
    if not isinstance(value, list):
        raise ValueError("not a list")
    return tuple(as_text(item) for item in value)
