"""
A connection to Redis.

txredisapi speaks the protocol.  Its own connection pool gives up for good when a login fails
once, as it may while Redis starts, and Twisted's ``ClientService`` raises an error when a
connection is lost that is still logging in; so reconnection is done here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from txredisapi import RedisError, RedisProtocol, ResponseError

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.model.errors import CacheError, ConfigError

#: Seconds for one command, and for a new connection.  A user waits for it, and can do without.
TIMEOUT: Final = 0.5

#: The pause before reconnecting, in seconds.
RETRIES: Final = Backoff(first=0.05, cap=5, shortest=0.5)

#: Errors after which a new connection may reach a better server.
_ELSEWHERE: Final = ("LOADING", "MASTERDOWN", "NOAUTH", "READONLY")


@attrs.frozen
class RedisAddress:
    """The address of a Redis server, with its credentials."""

    host: str
    port: int
    path: str
    tls: bool
    database: int | None
    username: str | None
    password: str | None = attrs.field(repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """
        Parse a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL.

        :param url: ``redis://[[user]:password@]host[:port][/database]``; unusual characters of
            the user name and the password are percent-encoded.
        :raises ConfigError: if it is malformed; the text does not repeat the URL.
        """
        try:
            parts = urlsplit(url)
            unix = parts.scheme == "unix"
            if parts.scheme not in ("redis", "rediss", "unix") or parts.query or parts.fragment:
                raise ValueError("unknown scheme, or a query")
            if bool(parts.hostname) is unix or (unix and not parts.path.startswith("/")):
                raise ValueError("no host, or no path")
            number = "" if unix else parts.path.strip("/")
            return cls(
                host=parts.hostname or "",
                port=parts.port or 6379,
                path=parts.path if unix else "",
                tls=parts.scheme == "rediss",
                database=int(number) if number else None,
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
            )
        except ValueError:
            raise ConfigError(
                "cache.url: must be redis://[[user]:password@]host[:port][/database],"
                " rediss://… or unix:///path"
            ) from None

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Return the endpoint of the server."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path)
        plain = HostnameEndpoint(reactor, self.host, self.port)
        if not self.tls:
            return plain
        from twisted.internet.ssl import optionsForClientTLS

        return wrapClientTLS(optionsForClientTLS(self.host), plain)


@attrs.define(eq=False, slots=False, repr=False)
class RedisConnection(Service):
    """
    A connection that commands share and that is made again when it is lost.

    While Redis is down commands fail at once; they make a new connection in background, with
    exponential backoff.

    :param reactor: connects, and provides the time.
    :param timeout: seconds for one command, and for a new connection to become usable.
    """

    name = "redis"
    _log = Logger()

    _reactor: Any
    _address: RedisAddress
    _timeout: float = TIMEOUT
    _protocol: RedisProtocol | None = attrs.field(default=None, init=False)
    _connects: SingleFlight[None, RedisProtocol] = attrs.field(factory=SingleFlight, init=False)
    _attempt: Deferred[RedisProtocol] | None = attrs.field(default=None, init=False)
    # Consecutive failures, a lost connection included, and when to try again.
    _failures: int = attrs.field(default=0, init=False)
    _retry_at: float = attrs.field(default=0.0, init=False)

    def startService(self) -> None:
        super().startService()
        self._failures = 0

    def stopService(self) -> Deferred[None]:
        super().stopService()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._protocol is None:
            return succeed(None)
        lost: Deferred[None] = self._protocol.whenDisconnected()
        self._protocol.transport.loseConnection()
        return lost

    async def call(self, *command: str | int) -> object:
        """
        Run a command.

        :raises CacheError: if it fails, or there is no reply in time.
        """
        return await self._run(lambda protocol: protocol.execute_command(*command))

    async def script(
        self, text: str, *, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        """
        Run a Lua script, which Redis executes atomically.

        :raises CacheError: if it fails, or there is no reply in time.
        """
        return await self._run(lambda protocol: protocol.eval(text, keys, arguments))

    async def _run(self, send: Callable[[RedisProtocol], Deferred[Any]]) -> Any:
        protocol = self._protocol or await self._connected()
        try:
            return await send(protocol).addTimeout(self._timeout, self._reactor)
        except DeferredTimeout:
            # Other replies on this connection would be late as well.
            self._abort(protocol, f"no reply in {self._timeout:g} s")
            raise CacheError(f"Redis: no reply in {self._timeout:g} s") from None
        except ResponseError as error:
            if _code(error) in _ELSEWHERE:
                self._abort(protocol, _code(error))
            raise CacheError(f"Redis: {_code(error)}") from None
        except (RedisError, OSError) as error:
            raise CacheError(f"Redis: {type(error).__name__}") from None

    async def _connected(self) -> RedisProtocol:
        """Return the protocol; wait for the first connection, but not while Redis is down."""
        if self.running and self._failures == 0:
            return await self._connects.join(None, self._connect)
        if self.running and self._reactor.seconds() >= self._retry_at:
            self._connects.join(None, self._connect).addErrback(lambda _: None)
        raise CacheError("Redis: no connection")

    async def _connect(self) -> RedisProtocol:
        self._attempt = Deferred.fromCoroutine(self._open())
        try:
            protocol = await self._attempt.addTimeout(self._timeout, self._reactor)
        except CancelledError:
            raise CacheError("Redis: connecting was cancelled") from None
        except Exception as error:
            self._failed(_code(error) if isinstance(error, ResponseError) else type(error).__name__)
            raise CacheError("Redis: no connection") from None
        finally:
            self._attempt = None
        self._protocol = protocol
        self._failures = 0
        protocol.whenDisconnected().addCallback(self._lost, "the connection was lost")
        self._log.info("Connected to Redis")
        return protocol

    async def _open(self) -> RedisProtocol:
        """Connect, log in, and check that the server replies."""
        factory = Factory.forProtocol(partial(RedisProtocol, charset="utf-8", convertNumbers=False))
        factory.noisy = False
        protocol: RedisProtocol = await self._address.endpoint(self._reactor).connect(factory)
        try:
            if self._address.password is not None:
                await protocol.auth(self._address.password, self._address.username)
            if self._address.database is not None:
                await protocol.select(self._address.database)
            await protocol.ping()
        except BaseException:
            protocol.transport.abortConnection()
            raise
        return protocol

    def _abort(self, protocol: RedisProtocol, why: str) -> None:
        self._lost(protocol, why)
        protocol.transport.abortConnection()

    def _lost(self, protocol: RedisProtocol, why: str) -> None:
        if protocol is self._protocol:
            self._protocol = None
            self._failed(why)

    def _failed(self, why: str) -> None:
        if not self.running:
            return
        if self._failures == 0:
            self._log.warn("Redis is unavailable: {why}", why=why)
        self._failures += 1
        self._retry_at = self._reactor.seconds() + RETRIES.delay(self._failures)


def _code(error: ResponseError) -> str:
    """Return the first word of an error; the rest may repeat what was sent."""
    match = re.match(r"[A-Z]{3,20}\b", str(error))
    return match.group() if match else "ERR"
