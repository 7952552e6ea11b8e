"""A Redis that is down, slow or refuses, and where it is."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import KeyPair
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.app.services import Services
from fxprofile.model.errors import CacheError, ConfigError
from fxprofile.settings.load import load
from tests.contracts.cache import ALICE
from tests.drivers.redis.redis_case import RedisCase
from tests.support.servers import hostile
from tests.support.servers.hostile import Connection, Hostile
from tests.support.servers.local import PASSWORD
from tests.support.servers.redis import RedisServer, missing

if missing() is None:
    from fxprofile.drivers.redis.cache import RedisCache
    from fxprofile.drivers.redis.connection import RedisAddress, RedisConnection
    from fxprofile.drivers.redis.windows import RedisRateWindows


class TroubleTests(RedisCase):
    """Redis is down, slow, or refuses."""

    async def test_never_there(self) -> None:
        """A server that is not there is an error at once, again and again."""
        server = self.server()
        server.stop()
        cache = self.cache(server.url())
        for _ in range(3):
            await self.assertFails(cache)

    async def test_not_started(self) -> None:
        """A cache that is not started, or was stopped, fails."""
        url = self.server().url()
        cache = RedisCache(RedisConnection(reactor, RedisAddress.parse(url)), ttl=60)
        await self.assertFails(cache)
        cache.startService()
        await cache.check()
        await cache.stopService()
        await self.assertFails(cache)
        cache.startService()
        await cache.check()
        await cache.stopService()

    async def test_down_and_up_again(self) -> None:
        """While the server is down calls fail at once, and when it is back they work."""
        server = self.server()
        cache = self.cache(server.url())
        await cache.set(uid=ALICE, variant="profile", value="1")
        server.stop()
        await self.assertFails(cache)
        server.start()
        await self.until_it_works(cache)
        self.assertIsNone(await cache.get(uid=ALICE, variant="profile"))
        await cache.set(uid=ALICE, variant="profile", value="2")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "2")

    async def test_calls_in_hand(self) -> None:
        """Calls that wait for an answer when the connection is lost fail at once."""
        server = self.server()
        cache = self.cache(server.url(), timeout=50)
        await cache.check()
        server.freeze()
        calls = [Deferred.fromCoroutine(cache.check()) for _ in range(3)]
        server.stop()
        for call in calls:
            with self.assertRaises(CacheError):
                await call

    async def test_slow(self) -> None:
        """A server that hangs costs one wait; after it calls fail without waiting."""
        server = self.server()
        cache = self.cache(server.url(), timeout=0.2)
        await self.until_it_works(cache)
        server.freeze()
        self.addCleanup(server.thaw)
        with self.assertRaises(CacheError) as raised:
            await cache.get(uid=ALICE, variant="profile")
        self.assertIn("no answer in 0.2 s", str(raised.exception))
        started = reactor.seconds()
        for _ in range(50):
            with self.assertRaises(CacheError):
                await cache.get(uid=ALICE, variant="profile")
        self.assertLess(reactor.seconds() - started, 0.2 * 50)
        server.thaw()
        await self.until_it_works(cache)

    async def test_password(self) -> None:
        """The password of the URL lets us in."""
        server = self.server(password=PASSWORD)
        cache = self.cache(server.url())
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")

    async def test_wrong_password(self) -> None:
        """A wrong one is an error in time, and does not make us try in a frenzy."""
        server = self.server(password="another")
        cache = self.cache(server.url(password=PASSWORD))
        await self.assertFails(cache)
        before = self.connections(server)
        await deferLater(reactor, 1)
        self.assertLess(self.connections(server) - before, 8)

    def connections(self, server: RedisServer) -> int:
        """How many connections a server has had."""
        answer = server.ask("INFO", "stats")
        (line,) = (x for x in answer.splitlines() if x.startswith("total_connections_received"))
        return int(line.partition(":")[2])

    async def test_needs_a_password(self) -> None:
        """A server that wants one which we have not is an error."""
        server = self.server(password="another")
        self.assertIn(
            "no connection",
            await self.assertFails(self.cache(f"redis://127.0.0.1:{server.port}")),
        )

    async def test_wrong_database(self) -> None:
        """A database that there is not is an error."""
        await self.assertFails(self.cache(self.server().url(database=999)))

    async def test_database(self) -> None:
        """Databases are apart."""
        server = self.server()
        await self.cache(server.url(database=3)).set(uid=ALICE, variant="v", value="1")
        self.assertIsNone(await self.cache(server.url()).get(uid=ALICE, variant="v"))
        self.assertEqual(await self.cache(server.url(database=3)).get(uid=ALICE, variant="v"), "1")

    async def test_socket(self) -> None:
        """A server may be on a UNIX socket."""
        cache = self.cache(f"unix://{self.server().socket}")
        await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "1")

    async def test_became_a_replica(self) -> None:
        """After a failover the connection is made anew: its name may mean another server."""
        server = self.server()
        cache = self.cache(server.url())
        await cache.check()
        server.ask("REPLICAOF", "127.0.0.1", "1")
        before = self.connections(server)
        with self.assertRaises(CacheError) as raised:
            await cache.set(uid=ALICE, variant="profile", value="1")
        self.assertIn("READONLY", str(raised.exception))
        await deferLater(reactor, 0)
        await self.until_it_works(cache)
        # One of them is the one that asks.
        self.assertEqual(self.connections(server) - before, 2)
        server.ask("REPLICAOF", "NO", "ONE")
        await self.until_it_works(cache)
        await cache.set(uid=ALICE, variant="profile", value="1")

    async def test_scripts_are_lost(self) -> None:
        """A server that has forgotten our scripts learns them again."""
        server = self.server()
        cache = self.cache(server.url())
        await cache.set(uid=ALICE, variant="profile", value="1")
        await cache.set(uid=ALICE, variant="profile", value="2")
        server.ask("SCRIPT", "FLUSH")
        await cache.set(uid=ALICE, variant="profile", value="3")
        self.assertEqual(await cache.get(uid=ALICE, variant="profile"), "3")

    async def test_hostile(self) -> None:
        """Whatever is at the other end, an error comes in time."""

        def echo(connection: Connection) -> None:
            connection.write(b"-ERR unknown command, with args: " + connection.data + b"\r\n")

        for react in (hostile.silent, hostile.hang_up, hostile.reset, hostile.garbage, echo):
            server = Hostile(reactor, react)
            port, url = server.listen()
            self.addCleanup(port.stopListening)
            url = url.replace("http://", f"redis://:{PASSWORD}@")
            cache = self.cache(url, timeout=0.2)
            await self.assertFails(cache)
            await deferLater(reactor, 0.3)
            await self.assertFails(cache)
            await cache.stopService()
        # Bytes that are no text end the connection by an error in the protocol.
        self.flushLoggedErrors(UnicodeDecodeError)

    async def test_tls(self) -> None:
        """A server whose certificate nobody vouches for is not spoken to."""
        server = Hostile(reactor, hostile.silent)
        certificate = KeyPair.generate(size=2048).selfSignedCert(1, CN="localhost")
        port = reactor.listenSSL(0, server, certificate.options(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        cache = self.cache(f"rediss://:{PASSWORD}@localhost:{port.getHost().port}", timeout=2)
        await self.assertFails(cache)
        await cache.stopService()
        self.assertEqual(server.received, [])
        # What is wrong with the certificate.
        self.flushLoggedErrors()

    async def test_secrets(self) -> None:
        """The password is in no log, no error and no text form, whatever goes wrong."""
        server = self.server(password="another")
        url = server.url(password=PASSWORD)
        cache = self.cache(url)
        texts = [await self.assertFails(cache)]
        texts += [repr(cache.connection._address), repr(vars(cache.connection)), repr(vars(cache))]
        await deferLater(reactor, 0.1)
        texts += [repr(event) for event in self.events]
        self.assertTrue(any("refuses the login" in text for text in texts))
        for text in texts:
            self.assertNotIn(PASSWORD, text)

    async def test_windows_fail_while_redis_is_down(self) -> None:
        """Counting a hit while Redis is down raises CacheError."""
        server = self.server()
        server.stop()
        windows = RedisRateWindows(self.connect(server.url()))
        with self.assertRaises(CacheError):
            await windows.hit(limits={"a": 1})

    async def test_stopping_while_connecting(self) -> None:
        """Stopping leaves nothing behind, at whatever stage the connection is."""
        server = self.server()
        for turns in range(6):
            cache = RedisCache(RedisConnection(reactor, RedisAddress.parse(server.url())), ttl=1)
            cache.startService()
            waiting = Deferred.fromCoroutine(cache.check())
            waiting.addErrback(lambda failure: failure.trap(CacheError))
            for _ in range(turns):
                await deferLater(reactor, 0)
            await cache.stopService()
            await waiting


class ConfigTests(RedisCase):
    """Redis out of the settings."""

    async def test_from_config(self) -> None:
        """The cache and the limits share a connection."""
        url = self.server().url()
        settings = load(environ={}, overrides=["cache.driver=redis", f"cache.url={url}"])
        services = Services(settings, reactor)
        cache, windows = services.cache, services.rate_windows
        self.assertIsInstance(cache, RedisCache)
        self.assertIsInstance(windows, RedisRateWindows)
        services.stack.startService()
        self.addCleanup(services.stack.stopService)
        await cache.check()
        self.assertEqual(await windows.hit(limits={"a": 1}), 0)

    def test_bad_url(self) -> None:
        """A URL of no use is an error at the start that does not repeat it."""
        settings = load(
            environ={}, overrides=["cache.driver=redis", f"cache.url=http://:{PASSWORD}@host"]
        )
        with self.assertRaises(ConfigError) as raised:
            _ = Services(settings, reactor).cache
        self.assertTrue(str(raised.exception).startswith("cache.url: "))
        self.assertNotIn(PASSWORD, str(raised.exception))


class AddressTests(SynchronousTestCase):
    """What ``cache.url`` may be."""

    skip = missing()

    def test_urls(self) -> None:
        """Every part of a URL is understood."""
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

    def test_bad_urls(self) -> None:
        """Anything else is refused, and not repeated."""
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

    def test_secret(self) -> None:
        """The text form of an address does not have the password."""
        self.assertNotIn("secret", repr(RedisAddress.parse("redis://me:secret@host")))
