"""
A connection to Redis.

txredisapi speaks the protocol; the connection is kept here, because a pool of
txredisapi gives up for good when a login fails once, as it may while Redis starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisError, RedisProtocol, ResponseError

from fxprofile.model.errors import CacheError, ConfigError
from fxprofile.settings.model import Settings

#: Seconds for one command.  A user waits for it, and can do without.
TIMEOUT: Final = 0.5

#: Answers after which another connection, to another server, may do better.
_ELSEWHERE: Final = ("LOADING", "MASTERDOWN", "NOAUTH", "READONLY")


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis server is, out of a URL, which may hold a secret."""

    host: str
    port: int
    path: str
    tls: bool
    database: int | None
    username: str | None
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """
        Read ``redis://``, ``rediss://`` (with TLS) or ``unix://`` URLs.

        ``redis://[[user]:password@]host[:port][/database]``; a user or password with
        unusual characters is percent-encoded.

        :raises ConfigError: without the URL in its text.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
            username, password = (
                unquote(p) if p else None for p in (parts.username, parts.password)
            )
            if parts.query or parts.fragment:
                raise ValueError
            if parts.scheme == "unix":
                if parts.hostname or not parts.path.startswith("/"):
                    raise ValueError
                host, path, database = "", parts.path, None
            elif parts.scheme in ("redis", "rediss") and parts.hostname:
                host, path = parts.hostname, ""
                number = parts.path.strip("/")
                database = int(number) if number else None
            else:
                raise ValueError
        except ValueError:
            raise ConfigError(
                "cache.url: must be redis://[[user]:password@]host[:port][/database],"
                " rediss://… or unix:///path"
            ) from None
        return cls(
            host=host,
            port=port,
            path=path,
            tls=parts.scheme == "rediss",
            database=database,
            username=username,
            password=password,
        )

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """What connects to the server."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=5)
        plain = HostnameEndpoint(reactor, self.host, self.port, timeout=5)
        return wrapClientTLS(optionsForClientTLS(self.host), plain) if self.tls else plain


def redis_connection(settings: Settings, reactor: Any) -> RedisConnection:
    """
    The connection to the server of ``cache.url``.

    :raises ConfigError: if the URL is unset or malformed.
    """
    if settings.cache.url is None:
        raise ConfigError("cache.url: must be set when cache.driver is redis")
    address = RedisAddress.parse(settings.cache.url.get_secret_value())
    return RedisConnection(reactor, address)


class RedisConnection(Service):
    """
    One connection, which comes back when it is lost.

    A command that finds no connection fails at once: nobody waits for Redis to come
    back.  Commands share the connection and do not wait for each other.

    :param reactor: connects, and tells the time.
    :param timeout: seconds for one command, and for a new connection to become usable.
    """

    name = "redis"
    _log = Logger()

    def __init__(self, reactor: Any, address: RedisAddress, *, timeout: float = TIMEOUT) -> None:
        self._reactor = reactor
        self._address = address
        self._timeout = timeout
        self._client: ClientService | None = None
        # The protocol that can be used, and the one that is being tried.
        self._protocol: Any = None
        self._trying: Deferred[None] | None = None
        self._rejected = 0
        self._down = True
        self._waiting: list[Deferred[None]] = []
        self._waking: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._down = False
        self._client = ClientService(
            self._address.endpoint(self._reactor),
            _Factory(self._address),
            retryPolicy=self._lost,
            clock=self._reactor,
            prepareConnection=self._made,
        )
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        client, self._client = self._client, None
        self._give_up()
        self._went_down()
        if self._waking is not None:
            self._waking.cancel()
            self._wake_failed()
        return succeed(None) if client is None else client.stopService()

    async def call(self, *command: str | int) -> Any:
        """
        Send a command.

        :raises CacheError: if there is no answer, or a refusal.
        """
        return await self._bounded(lambda protocol: protocol.execute_command(*command))

    async def script(
        self, text: str, *, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        """
        Run a Lua script, which Redis does in one go.

        :raises CacheError: if there is no answer, or a refusal.
        """
        return await self._bounded(lambda protocol: protocol.eval(text, keys, arguments))

    async def _bounded(self, send: Any) -> Any:
        if self._protocol is None:
            await self._connected()
        protocol = self._protocol
        if protocol is None:
            raise CacheError("Redis: no connection")
        try:
            answer: Deferred[Any] = send(protocol)
            return await answer.addTimeout(self._timeout, self._reactor)
        except CancelledError:
            raise
        except DeferredTimeout:
            # Whatever else is on its way there would be late as well.
            self._say_down(f"no answer in {self._timeout:g} s")
            self._went_down()
            protocol.transport.abortConnection()
            raise CacheError(f"Redis: no answer in {self._timeout:g} s") from None
        except ResponseError as error:
            code = _code(error)
            if code in _ELSEWHERE:
                protocol.transport.abortConnection()
            raise CacheError(f"Redis: {code}") from None
        except (RedisError, OSError) as error:
            raise CacheError(f"Redis: {type(error).__name__}") from None

    async def _connected(self) -> None:
        """Wait for the first connection, but not for one that was lost."""
        if self._down:
            raise CacheError("Redis: no connection")
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        try:
            await waiter.addTimeout(self._timeout, self._reactor)
        except DeferredTimeout:
            raise CacheError("Redis: no connection") from None
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _made(self, protocol: Any) -> None:
        """There is a connection; see whether it is of use."""
        self._trying = trying = Deferred.fromCoroutine(self._try(protocol))
        trying.addTimeout(self._timeout, self._reactor)
        trying.addErrback(self._reject, protocol)

    async def _try(self, protocol: Any) -> None:
        # It logs in and selects the database by itself, if it has to.
        await protocol.whenConnected()
        await protocol.ping()
        self._trying = None
        self._rejected = 0
        self._protocol = protocol
        self._down = False
        self._log.info("Connected to Redis")
        self._wake(None)

    def _reject(self, failure: Failure, protocol: Any) -> None:
        if failure.check(CancelledError):
            return
        self._trying = None
        self._rejected += 1
        error = failure.value
        self._say_down(_code(error) if isinstance(error, ResponseError) else type(error).__name__)
        protocol.transport.abortConnection()

    def _lost(self, attempt: int) -> float:
        """There is no connection; say when to try again."""
        self._say_down("the connection was lost, or could not be made")
        if self._trying is not None:
            # A connection that could be made and was of no use is a failure as well.
            self._rejected += 1
        self._give_up()
        self._went_down()
        return _DELAYS(max(attempt, self._rejected))

    def _give_up(self) -> None:
        trying, self._trying = self._trying, None
        if trying is not None:
            trying.cancel()

    def _say_down(self, why: str) -> None:
        if not self._down:
            self._log.warn("There is no Redis: {why}", why=why)

    def _went_down(self) -> None:
        self._protocol = None
        self._down = True
        if self._waiting and self._waking is None:
            # Not here: the client service calls this, and must not be called by those who
            # wake before it is done.
            self._waking = self._reactor.callLater(0, self._wake_failed)

    def _wake_failed(self) -> None:
        self._waking = None
        self._wake(Failure(CacheError("Redis: no connection")))

    def _wake(self, outcome: Failure | None) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(outcome)


_DELAYS = backoffPolicy(initialDelay=0.05, maxDelay=5.0, factor=2.0, jitter=lambda: 0.0)


class _Factory(Factory):
    """Makes the protocol and hears what it has to say."""

    noisy = False
    _log = Logger()

    #: The protocol asks for it.
    isLazy = False

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    def buildProtocol(self, addr: Any) -> Any:
        protocol = RedisProtocol(
            charset="utf-8",
            password=self._address.password,
            username=self._address.username,
            dbid=self._address.database,
            convertNumbers=False,
        )
        protocol.factory = self
        return protocol

    def stopTrying(self) -> None:
        """It could not log in and closes the connection; there will be others."""

    def connectionError(self, why: str) -> None:
        """What it tells of this is not repeated: some servers repeat what they were sent."""
        self._log.warn("Redis refuses the login or the database of cache.url")


def _code(error: ResponseError) -> str:
    """The first word of an error; the rest may repeat what was sent."""
    match = re.match(r"[A-Z]{3,20}\b", str(error))
    return match.group() if match else "ERR"
