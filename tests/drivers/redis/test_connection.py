"""The connection to Redis: reconnection, timeouts, credentials and addresses."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.ssl import KeyPair
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.app.services import Services
from fxprofile.drivers.memory.expiring import MemoryRateWindows
from fxprofile.model.errors import CacheError, ConfigError
from fxprofile.settings.load import load
from tests.contracts.cache import ALICE, cached, put
from tests.drivers.redis.redis_case import RedisCase
from tests.support.servers import hostile
from tests.support.servers.hostile import Connection, Hostile
from tests.support.servers.local import PASSWORD
from tests.support.servers.redis import RedisServer, missing

if missing() is None:
    from fxprofile.drivers.redis.cache import RedisProfileCache
    from fxprofile.drivers.redis.connection import RedisAddress, RedisConnection
    from fxprofile.drivers.redis.windows import RedisRateWindows


def connections(server: RedisServer) -> int:
    """Return how many connections a server has accepted."""
    answer = server.ask("INFO", "stats")
    (line,) = (x for x in answer.splitlines() if x.startswith("total_connections_received"))
    return int(line.partition(":")[2])


class RedisConnectionTests(RedisCase):
    """Commands fail in bounded time while Redis is unavailable, and work when it is back."""

    async def test_server_that_never_ran(self) -> None:
        """Without a server every command fails at once."""
        server = self.server()
        server.stop()
        cache = self.cache(server.url())
        for _ in range(3):
            await self.assertFails(cache)

    async def test_commands_need_a_running_service(self) -> None:
        """Commands fail before the service is started and after it was stopped."""
        connection = RedisConnection(reactor, RedisAddress.parse(self.server().url()))
        cache = RedisProfileCache(connection, ttl=60)
        await self.assertFails(cache)
        for _ in range(2):
            connection.startService()
            await cache.check()
            await connection.stopService()
            await self.assertFails(cache)

    async def test_commands_work_again_after_an_outage(self) -> None:
        """Commands fail while the server is down, and work once it runs again."""
        server = self.server()
        cache = self.cache(server.url())
        await put(cache, ALICE, "full", "1")
        server.stop()
        await self.assertFails(cache)
        server.start()
        await self.until_it_works(cache)
        self.assertIsNone(await cached(cache, ALICE, "full"))
        await put(cache, ALICE, "full", "2")
        self.assertEqual(await cached(cache, ALICE, "full"), "2")

    async def test_commands_in_flight_fail_when_the_connection_is_lost(self) -> None:
        """Commands that wait for a reply fail as soon as the connection is lost."""
        server = self.server()
        cache = self.cache(server.url(), timeout=50)
        await cache.check()
        server.freeze()
        calls = [Deferred.fromCoroutine(cache.check()) for _ in range(3)]
        server.stop()
        for call in calls:
            with self.assertRaises(CacheError):
                await call

    async def test_hanging_server_costs_one_timeout(self) -> None:
        """If the server hangs, the first command times out and the next ones fail at once."""
        server = self.server()
        cache = self.cache(server.url(), timeout=0.2)
        await self.until_it_works(cache)
        server.freeze()
        self.addCleanup(server.thaw)
        with self.assertRaises(CacheError) as raised:
            await cached(cache, ALICE, "full")
        self.assertIn("no reply in 0.2 s", str(raised.exception))
        for _ in range(50):
            with self.assertRaises(CacheError) as raised:
                await cached(cache, ALICE, "full")
            self.assertIn("no connection", str(raised.exception))
        server.thaw()
        await self.until_it_works(cache)

    async def test_concurrent_commands_share_the_first_connection(self) -> None:
        """Commands that arrive before the first connection wait for it and share it."""
        server = self.server()
        before = connections(server)
        cache = self.cache(server.url())
        calls = [Deferred.fromCoroutine(cache.check()) for _ in range(5)]
        calls[0].cancel()
        with self.assertRaises(CancelledError):
            await calls[0]
        for call in calls[1:]:
            await call
        # One of them is the connection that reads the statistics.
        self.assertEqual(connections(server) - before, 2)

    async def test_password_of_the_url_is_sent(self) -> None:
        """The password of the URL is sent to the server."""
        server = self.server(password=PASSWORD)
        cache = self.cache(server.url())
        await put(cache, ALICE, "full", "1")
        self.assertEqual(await cached(cache, ALICE, "full"), "1")

    async def test_wrong_password(self) -> None:
        """With a wrong password commands fail, and connections are tried with backoff."""
        server = self.server(password="another")
        cache = self.cache(server.url(password=PASSWORD))
        await self.assertFails(cache)
        before = connections(server)
        deadline = reactor.seconds() + 1
        while reactor.seconds() < deadline:
            await self.assertFails(cache)
            await deferLater(reactor, 0.01)
        self.assertLess(connections(server) - before, 12)

    async def test_missing_password(self) -> None:
        """If the server requires a password and there is none, commands fail."""
        server = self.server(password="another")
        self.assertIn(
            "no connection",
            await self.assertFails(self.cache(f"redis://127.0.0.1:{server.port}")),
        )

    async def test_unknown_database(self) -> None:
        """With the number of a database that does not exist, commands fail."""
        await self.assertFails(self.cache(self.server().url(database=999)))

    async def test_database_of_the_url(self) -> None:
        """The entries of one database are not seen in another."""
        server = self.server()
        await put(self.cache(server.url(database=3)), ALICE, "full", "1")
        self.assertIsNone(await cached(self.cache(server.url()), ALICE, "full"))
        self.assertEqual(await cached(self.cache(server.url(database=3)), ALICE, "full"), "1")

    async def test_unix_socket(self) -> None:
        """A ``unix://`` URL connects to a UNIX socket."""
        cache = self.cache(f"unix://{self.server().socket}")
        await put(cache, ALICE, "full", "1")
        self.assertEqual(await cached(cache, ALICE, "full"), "1")

    async def test_connection_to_a_replica_is_replaced(self) -> None:
        """A server that has become a replica is connected to anew: its name may have moved."""
        server = self.server()
        cache = self.cache(server.url())
        await cache.check()
        server.ask("REPLICAOF", "127.0.0.1", "1")
        before = connections(server)
        with self.assertRaises(CacheError) as raised:
            await cache.invalidate(uid=ALICE)
        self.assertIn("READONLY", str(raised.exception))
        await deferLater(reactor, 0)
        await self.until_it_works(cache)
        # One of them is the connection that reads the statistics.
        self.assertEqual(connections(server) - before, 2)
        server.ask("REPLICAOF", "NO", "ONE")
        await self.until_it_works(cache)
        await cache.invalidate(uid=ALICE)

    async def test_scripts_are_sent_again(self) -> None:
        """If the server has lost its scripts, they are sent again."""
        server = self.server()
        cache = self.cache(server.url())
        for value in ("1", "2"):
            await put(cache, ALICE, "full", value)
        server.ask("SCRIPT", "FLUSH")
        await put(cache, ALICE, "full", "3")
        self.assertEqual(await cached(cache, ALICE, "full"), "3")

    async def test_hostile_servers(self) -> None:
        """Commands fail in time if the server is silent, hangs up, or sends garbage."""

        def echo(connection: Connection) -> None:
            connection.write(b"-ERR unknown command, with args: " + connection.data + b"\r\n")

        for react in (hostile.silent, hostile.hang_up, hostile.reset, hostile.garbage, echo):
            server = Hostile(reactor, react)
            port, url = server.listen()
            self.addCleanup(port.stopListening)
            url = url.replace("http://", f"redis://:{PASSWORD}@")
            connection = self.connect(url, timeout=0.2)
            cache = RedisProfileCache(connection, ttl=60)
            await self.assertFails(cache)
            await deferLater(reactor, 0.3)
            await self.assertFails(cache)
            await connection.stopService()
        # Bytes that are not text end the connection by an error in the protocol.
        self.flushLoggedErrors(UnicodeDecodeError)

    async def test_untrusted_certificate(self) -> None:
        """Nothing is sent to a server whose TLS certificate is not trusted."""
        server = Hostile(reactor, hostile.silent)
        certificate = KeyPair.generate(size=2048).selfSignedCert(1, CN="localhost")
        port = reactor.listenSSL(0, server, certificate.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"rediss://:{PASSWORD}@localhost:{port.getHost().port}"
        connection = self.connect(url, timeout=2)
        await self.assertFails(RedisProfileCache(connection, ttl=60))
        await connection.stopService()
        self.assertEqual(server.received, [])
        # The server logs the client's refusal.
        self.flushLoggedErrors()

    async def test_password_is_never_shown(self) -> None:
        """The password is in no log, error or repr, even if the login fails."""
        server = self.server(password="another")
        connection = self.connect(server.url(password=PASSWORD))
        texts = [await self.assertFails(RedisProfileCache(connection, ttl=60))]
        texts += [repr(connection._address), repr(vars(connection))]
        await deferLater(reactor, 0.1)
        texts += [repr(event) for event in self.events]
        self.assertTrue(any("WRONGPASS" in text for text in texts))
        for text in texts:
            self.assertNotIn(PASSWORD, text)

    async def test_rate_windows_while_redis_is_down(self) -> None:
        """While Redis is down the process counts hits by itself."""
        server = self.server()
        server.stop()
        windows = RedisRateWindows(self.connect(server.url()), MemoryRateWindows(Clock()))
        self.assertEqual(await windows.hit(limits={"a": 1}), 0)
        self.assertGreater(await windows.hit(limits={"a": 1}), 0)

    async def test_stop_while_connecting(self) -> None:
        """Stopping at any stage of connecting fails waiting commands and leaves nothing open."""
        server = self.server()
        for turns in range(8):
            connection = RedisConnection(reactor, RedisAddress.parse(server.url()))
            connection.startService()
            waiting = Deferred.fromCoroutine(connection.call("PING"))
            waiting.addErrback(lambda failure: failure.trap(CacheError))
            for _ in range(turns):
                await deferLater(reactor, 0)
            await connection.stopService()
            await waiting


class ConfigTests(RedisCase):
    """The settings select and configure Redis."""

    async def test_cache_and_windows_share_a_connection(self) -> None:
        """The cache and the rate windows of a process use one connection."""
        server = self.server()
        settings = load(environ={}, overrides=["cache.driver=redis", f"cache.url={server.url()}"])
        services = Services(settings, reactor)
        cache, windows = services.cache, services.rate_windows
        self.assertIsInstance(cache, RedisProfileCache)
        self.assertIsInstance(windows, RedisRateWindows)
        before = connections(server)
        services.stack.startService()
        self.addCleanup(services.stack.stopService)
        await cache.check()
        self.assertEqual(await windows.hit(limits={"a": 1}), 0)
        # One of them is the connection that reads the statistics.
        self.assertEqual(connections(server) - before, 2)

    def test_malformed_url_stops_the_start(self) -> None:
        """A malformed ``cache.url`` is a ConfigError that does not repeat the URL."""
        settings = load(
            environ={}, overrides=["cache.driver=redis", f"cache.url=http://:{PASSWORD}@host"]
        )
        with self.assertRaises(ConfigError) as raised:
            _ = Services(settings, reactor).cache
        self.assertTrue(str(raised.exception).startswith("cache.url: "))
        self.assertNotIn(PASSWORD, str(raised.exception))


class AddressTests(SynchronousTestCase):
    """Parsing ``cache.url``."""

    skip = missing()

    def test_all_parts_of_a_url(self) -> None:
        """Host, port, path, TLS, database, user and password are parsed."""
        for url, expected in {
            "redis://host": ("host", 6379, "", False, None, None, None),
            "redis://host:1234/5": ("host", 1234, "", False, 5, None, None),
            "redis://host/": ("host", 6379, "", False, None, None, None),
            "rediss://host": ("host", 6379, "", True, None, None, None),
            "redis://:p%40ss%2F@host": ("host", 6379, "", False, None, None, "p@ss/"),
            "redis://me:secret@[::1]:1/0": ("::1", 1, "", False, 0, "me", "secret"),
            "unix:///run/redis.sock": ("", 6379, "/run/redis.sock", False, None, None, None),
        }.items():
            address = RedisAddress.parse(url)
            self.assertEqual(
                (
                    address.host,
                    address.port,
                    address.path,
                    address.tls,
                    address.database,
                    address.username,
                    address.password,
                ),
                expected,
                url,
            )
            address.endpoint(reactor)

    def test_malformed_urls(self) -> None:
        """A malformed URL is a ConfigError that does not repeat it."""
        for url in (
            "",
            "host",
            "http://secret",
            "redis://",
            "redis:///secret",
            "redis://host:secret",
            "redis://host:99999",
            "redis://host/secret",
            "redis://host/1/2",
            "redis://host?password=secret",
            "redis://host#secret",
            "redis://[secret",
            "unix://secret/path",
            "unix://",
        ):
            with self.assertRaises(ConfigError, msg=url) as raised:
                RedisAddress.parse(url)
            self.assertNotIn("secret", str(raised.exception))

    def test_repr_hides_the_password(self) -> None:
        """The repr of an address does not contain the password."""
        self.assertNotIn("secret", repr(RedisAddress.parse("redis://me:secret@host")))
