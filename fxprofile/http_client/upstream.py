"""
JSON requests to servers that are not trusted, bounded in time and size.

Every request ends within its timeout, even if the server is down, accepts the connection and
stays silent, sends byte by byte or without end, sends garbage, redirects, or sends a compression
bomb.  treq bounds neither the size of a response nor the time until its last byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, Never, TypeVar

import attrs
from treq.client import HTTPClient
from treq.cookies import IndexableCookieJar
from twisted.application.service import Service
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

#: The most bytes of a response.
MAX_BYTES: Final = 1 << 16

#: Concurrent requests to one server; further ones wait.
MAX_IN_FLIGHT: Final = 100

#: Seconds that an idle connection is kept open; the servers close theirs after 5.
IDLE: Final = 4

#: Errors of requests that never got a response, as on idle connections that were closed.
_RETRIED: Final = (RequestTransmissionFailed, ResponseNeverReceived)


class UpstreamFailure(Exception):
    """A server gave no usable response.  The text repeats nothing that was sent to it."""


@dataclass(frozen=True)
class JsonResponse:
    """
    A response.

    :ivar members: the JSON object in the body, or None if the body is anything else.
    """

    status: int
    members: Mapping[str, object] | None


async def within(
    clock: IReactorTime, seconds: float, work: Coroutine[Deferred[object], object, T]
) -> T:
    """
    Run work with a timeout.

    :raises UpstreamFailure: if it takes longer than ``seconds``; the work is cancelled.
    """

    def fail(result: object, timeout: float) -> Never:
        raise UpstreamFailure(f"no response in {seconds:g} s")

    return await Deferred.fromCoroutine(work).addTimeout(seconds, clock, fail)


class HttpConnections(Service):
    """
    Connections to other servers; idle ones are closed when the service stops.

    :ivar pool: the idle connections.
    :ivar client: sends requests; it keeps no cookies and accepts no compressed responses.
    """

    name = "HTTP connections"

    def __init__(self, reactor: Any) -> None:
        self.pool = HTTPConnectionPool(reactor)
        self.pool.maxPersistentPerHost = MAX_IN_FLIGHT
        self.pool.cachedConnectionTimeout = IDLE
        self.pool.retryAutomatically = False
        no_cookies = IndexableCookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
        agent = _PlainAgent(Agent(reactor, pool=self.pool))
        self.client = HTTPClient(agent, cookiejar=no_cookies)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        closed: Deferred[None] = self.pool.closeCachedConnections()
        return closed


@implementer(IAgent)
class _PlainAgent:
    """An agent that refuses compressed responses, whose size is not bounded by their length."""

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
            raise UpstreamFailure("the response is compressed")
        return response


@attrs.define(eq=False, slots=False)
class Upstream:
    """
    A server that responds in JSON.

    :param name: of the server, for errors.
    :param client: sends the requests.
    :param timeout: seconds for a request, from the call to the last byte of the response.
    :param retry: whether a request is sent again if its connection was lost before any
        response.
    """

    _name: str
    _client: HTTPClient
    _clock: IReactorTime
    _timeout: float = attrs.field(kw_only=True)
    _retry: bool = attrs.field(kw_only=True, default=True)
    _slots: DeferredSemaphore = attrs.field(
        init=False, factory=lambda: DeferredSemaphore(MAX_IN_FLIGHT)
    )

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, str] | None = None,
    ) -> JsonResponse:
        """
        Send a request.

        :param body: sent as JSON.
        :raises UpstreamFailure: if there is no complete response in time, or it is too long.
        """
        options: dict[str, Any] = {
            "headers": {"Accept": "application/json", **(headers or {})},
            "allow_redirects": False,
            "unbuffered": True,
            # treq would use the global reactor otherwise.
            "reactor": self._clock,
        }
        if body is not None:
            options["json"] = body
        send = partial(self._client.request, method, url, **options)
        try:
            return await within(self._clock, self._timeout, self._exchange(send))
        except UpstreamFailure as failure:
            raise UpstreamFailure(f"{self._name}: {failure}") from None

    async def _exchange(self, send: Callable[[], Deferred[Any]]) -> JsonResponse:
        try:
            async with self._slots:
                try:
                    response = await send()
                except _RETRIED as error:
                    if not self._retry or _is_cancellation(error):
                        raise
                    response = await send()
                reader = _Reader(MAX_BYTES)
                response.deliverBody(reader)
                return JsonResponse(status=response.code, members=_members(await reader.done))
        except UpstreamFailure:
            raise
        except Exception as error:
            if _is_cancellation(error):
                raise CancelledError from None
            raise UpstreamFailure(_describe(error)) from None


class _Reader(Protocol):
    """
    Collects a body.

    :param limit: the most bytes; the connection of a longer body is closed.
    :ivar done: the body.  Cancelling it closes the connection.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.done: Deferred[bytes] = Deferred(lambda _: self._close())
        # With a limit of 0 the body is discarded, and nothing waits for it.
        if not limit:
            self.done.addErrback(lambda _: None)

    def dataReceived(self, data: bytes) -> None:
        if self.done.called:
            return
        self._data += data
        if len(self._data) > self._limit:
            self.done.errback(UpstreamFailure(f"the response is longer than {self._limit} bytes"))
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        # Without a length, the end of the connection is the end of the body.
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(UpstreamFailure("the response was cut short"))

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _members(body: bytes) -> Mapping[str, object] | None:
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
    """Return the names of errors: their texts might repeat what was sent."""
    reasons = ", ".join(type(reason).__name__ for reason in _reasons(error))
    return f"{type(error).__name__} ({reasons})" if reasons else type(error).__name__


def as_text(value: object) -> str:
    """
    Return a member of a response that must be a text.

    :raises ValueError: if it is not a string, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise ValueError("not a string")
    value.encode()
    return value


def as_number(value: object) -> float:
    """
    Return a member of a response that must be a number from 0 to 2**53.

    :raises ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not 0 <= value <= 2**53 or math.isnan(value):
        raise ValueError("not a number from 0 to 2**53")
    return value


def as_texts(value: object) -> tuple[str, ...]:
    """
    Return a member of a response that must be a list of texts.

    :raises ValueError: if it is not.
    """
    if not isinstance(value, list):
        raise ValueError("not a list")
    return tuple(as_text(item) for item in value)
