"""Twisted's IAgent over a pool of persistent connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.client import URI
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from fxprofile.http_client.connection import Deadlines, Exchange, HttpConnection
from fxprofile.http_client.errors import ConnectFailed, DeadlineExceeded, describe
from fxprofile.http_client.response import Response, SentRequest

#: Connections to one server; further requests wait for one.
MAX_CONNECTIONS: Final = 100

#: Seconds that an idle connection is kept open; most servers close theirs after 5.
IDLE: Final = 4.0

#: Methods that may be sent again (RFC 9110, section 9.2.2).
IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE"})

#: Methods that expect content, so that a length of zero is sent (RFC 9110, section 8.6).
_WITH_CONTENT: Final = frozenset({b"POST", b"PUT", b"PATCH"})

#: Headers that the agent sets.
_OWN_HEADERS: Final = frozenset({b"accept-encoding", b"content-length"})

_DEFAULT: Final = Deadlines()


@implementer(IAgentEndpointFactory)
@attrs.define(eq=False, slots=False)
class HostEndpoints:
    """
    Endpoints of servers by their names, with TLS for ``https``.

    :param trust_root: Twisted's IOpenSSLTrustRoot; None for the platform's authorities.
    """

    _reactor: Any
    _trust_root: Any = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").removeprefix("[").removesuffix("]")
        endpoint = HostnameEndpoint(self._reactor, host, uri.port)
        if uri.scheme == b"http":
            return endpoint
        # Imported here: a process that calls no server over TLS does without it.
        from twisted.internet.ssl import optionsForClientTLS

        options = optionsForClientTLS(host, trustRoot=self._trust_root)
        wrapped: IStreamClientEndpoint = wrapClientTLS(options, endpoint)
        return wrapped


@implementer(IAgent)
@attrs.define(eq=False, slots=False)
class HttpAgent(Service):
    """
    Sends HTTP/1.1 requests, and keeps a pool of connections for each server.

    It works without being started; when it is stopped, it closes idle connections, and the
    others after their response.

    :param reactor: gives the time, and connects.
    :param endpoints: where requests connect to.
    :param max_connections: to one server.
    """

    name = "HTTP connections"

    reactor: Any
    endpoints: IAgentEndpointFactory = attrs.field(
        default=attrs.Factory(lambda self: HostEndpoints(self.reactor), takes_self=True)
    )
    max_connections: int = MAX_CONNECTIONS
    idle: float = IDLE
    _pools: dict[bytes, ConnectionPool] = attrs.field(factory=dict, init=False)

    def send(
        self,
        method: bytes,
        url: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes | IBodyProducer = b"",
        *,
        deadlines: Deadlines = _DEFAULT,
        idempotent: bool | None = None,
    ) -> Deferred[Response]:
        """
        Send a request.

        If a kept connection turns out to be closed, an idempotent request is sent once more,
        unless a part of its body was streamed.

        :param url: absolute, without a fragment.
        :param headers: without Host, Content-Length and Accept-Encoding, which are set here.
        :param body: in memory, or a producer of known length.
        :param idempotent: whether the request may be sent twice; by default the method decides.
        :returns: the response, whose body is then read or closed.  Cancelling it, or reading
            the body, closes the connection.
        :raises HttpError: if there is no response (by the Deferred).
        :raises ValueError: if the request is invalid.
        """
        slash = url.find(b"/", 8)
        origin, target = (url, b"/") if slash < 0 else (url[:slash], url[slash:])
        pool = self._pools.get(origin) or self._pool(origin)
        length = len(body) if isinstance(body, bytes) else body.length
        if not isinstance(length, int):
            raise ValueError("the length of the body is unknown")
        lines = [b"%b %b HTTP/1.1\r\n" % (method, target), pool.common_headers]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if length or method in _WITH_CONTENT:
            lines.append(b"Content-Length: %d\r\n" % length)
        lines.append(b"\r\n")
        head = b"".join(lines)
        # A line break inside a value would start another header, or another request.
        breaks = len(lines) + 1
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
            raise ValueError("a header or the URL contains a control character")
        if b" " in target or not method.isalpha():
            raise ValueError("the method or the URL is invalid")
        exchange = Exchange(
            method=method,
            head=head,
            body=body,
            deadlines=deadlines,
            ends=inf if deadlines.total == inf else self.reactor.seconds() + deadlines.total,
            total=deadlines.total,
            retriable=method in IDEMPOTENT if idempotent is None else idempotent,
            response=Deferred(lambda _: exchange.cancel()),
            expects_continue=b"\r\nexpect: 100-continue\r\n" in head.lower(),
        )
        pool.submit(exchange)
        return exchange.response

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        """See IAgent.  A compressed response is refused, because its size is not bounded."""
        sent = headers or Headers()
        pairs = [
            (name, value)
            for name, values in sent.getAllRawHeaders()
            if name.lower() not in _OWN_HEADERS
            for value in values
        ]

        def complete(response: Response) -> IResponse:
            response.request = SentRequest(method, uri, sent)
            return response.refuse_compression()

        body = b"" if bodyProducer is None else bodyProducer
        return self.send(method, uri, pairs, body).addCallback(complete)

    def stopService(self) -> Deferred[None]:
        """Close the connections that are idle."""
        super().stopService()
        pools, self._pools = list(self._pools.values()), {}
        closed = [lost for pool in pools for lost in pool.close()]
        return DeferredList(closed).addCallback(lambda _: None)

    def _pool(self, origin: bytes) -> ConnectionPool:
        uri = URI.fromBytes(origin + b"/")
        if uri.scheme not in (b"http", b"https") or not uri.host or b"@" in uri.netloc:
            raise ValueError("the URL is not an absolute http or https URL")
        if origin != b"%b://%b" % (uri.scheme, uri.netloc) or b"?" in origin or b"#" in origin:
            raise ValueError("the URL has no path")
        pool = ConnectionPool(self, self.endpoints.endpointForURI(uri), uri)
        return self._pools.setdefault(origin, pool)


class ConnectionPool:
    """
    The connections to one server.

    :ivar idle: the open ones without a request; the one used last is the next to be used.
    :ivar common_headers: of every request.
    """

    def __init__(self, agent: HttpAgent, endpoint: IStreamClientEndpoint, uri: URI) -> None:
        default = {b"http": b":80", b"https": b":443"}[uri.scheme]
        host = uri.netloc.removesuffix(default)
        self.common_headers = b"Host: %b\r\nAccept-Encoding: identity\r\n" % host
        self.idle: list[HttpConnection] = []
        self._agent = agent
        self._clock: IReactorTime = agent.reactor
        self._endpoint = endpoint
        self._open = 0
        self._waiting: deque[Exchange] = deque()
        self._is_closed = False

    def submit(self, exchange: Exchange) -> None:
        """Send a request on an idle connection or a new one, or let it wait for one."""
        if self.idle and not exchange.is_retry:
            self._start(exchange, self.idle.pop())
            return
        limit = min(exchange.deadlines.connect, exchange.ends - self._clock.seconds())
        exchange.timer = self._clock.callLater(max(0, limit), self._expire, exchange, limit)
        if self._open < self._agent.max_connections:
            self._connect(exchange)
        else:
            self._waiting.append(exchange)
            exchange.abort = lambda: self._waiting.remove(exchange)

    def _connect(self, exchange: Exchange) -> None:
        self._open += 1
        connecting = self._endpoint.connect(_ConnectionFactory(self._clock, self))
        exchange.abort = connecting.cancel
        connecting.addCallbacks(
            lambda connection: self._start(exchange, connection),
            lambda failure: self._refused(exchange, failure),
        )

    def _start(self, exchange: Exchange, connection: HttpConnection) -> None:
        exchange.stop_timer()
        exchange.abort = connection.abort
        connection.start(exchange)

    def _refused(self, exchange: Exchange, failure: Failure) -> None:
        exchange.fail(ConnectFailed(describe(failure.value)))
        self.closed(None)

    def _expire(self, exchange: Exchange, seconds: float) -> None:
        exchange.timer = None
        abort = exchange.abort
        exchange.fail(DeadlineExceeded(f"no connection in {seconds:g} s"))
        abort()

    def released(self, connection: HttpConnection) -> None:
        """See :class:`~fxprofile.http_client.connection.ConnectionOwner`."""
        if self._waiting:
            self._start(self._waiting.popleft(), connection)
        elif self._is_closed:
            connection.close()
        else:
            self.idle.append(connection)
            connection.keep(self._agent.idle)

    def withdraw(self, connection: HttpConnection) -> None:
        """See :class:`~fxprofile.http_client.connection.ConnectionOwner`."""
        if connection in self.idle:
            self.idle.remove(connection)

    def closed(self, connection: HttpConnection | None) -> None:
        """See :class:`~fxprofile.http_client.connection.ConnectionOwner`."""
        self._open -= 1
        if connection is not None:
            self.withdraw(connection)
        if self._waiting:
            self._connect(self._waiting.popleft())

    def close(self) -> list[Deferred[None]]:
        """
        Close each connection when it is idle.

        :returns: fire when those that are idle now are closed.
        """
        self._is_closed = True
        idle = list(self.idle)
        for connection in idle:
            connection.close()
        return [connection.lost for connection in idle]


class _ConnectionFactory(Factory):
    noisy = False

    def __init__(self, clock: IReactorTime, pool: ConnectionPool) -> None:
        self._arguments = (clock, pool)

    def buildProtocol(self, addr: object) -> HttpConnection:
        return HttpConnection(*self._arguments)
