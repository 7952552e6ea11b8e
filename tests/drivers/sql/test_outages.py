"""
Tests with database servers that stop, crash, fail over or do not respond; each has a server of its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier
from typing import Any, ClassVar

from sqlalchemy import Connection, insert, make_url, select
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater

from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.migrate import current, upgrade
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.drivers.sql.schema import profiles
from fxprofile.model.errors import QueueError, StoreError
from tests.drivers.sql.backends import Backend
from tests.support.servers import mariadb, postgresql
from tests.support.servers.local import PASSWORD, free_port
from tests.support.servers.sql import SqlServer


def add(connection: Connection) -> None:
    connection.execute(insert(profiles).values(uid="a", selected_seq=0, changed_at=0.0))


def count(connection: Connection) -> int:
    return len(connection.execute(select(profiles.c.uid)).all())


class OutageContract(Backend):
    """Outages of each kind of server."""

    make_server: ClassVar[Any]

    _servers: ClassVar[dict[Any, SqlServer]] = {}

    def setUp(self) -> None:
        kind = type(self)
        if kind not in self._servers:
            self._servers[kind] = self.make_server()
            self._servers[kind].start()
        self.server: Any = self._servers[kind]
        self.url = self.server.new_database()
        upgrade(self.url)

    @classmethod
    def tearDownClass(cls) -> None:
        server = cls._servers.pop(cls, None)
        if server is not None:
            server.remove()

    async def until_it_works(self, database: Database) -> int:
        """Return the result of the first query that succeeds."""
        error = None
        for _ in range(300):
            try:
                return await database.run(count, read_only=True)
            except StoreError as failure:
                error = failure
            await deferLater(reactor, 0.1)
        raise AssertionError(f"the database does not come back: {error}")

    async def test_restarted_server(self) -> None:
        """After a restart of the server, new connections are opened without an error."""
        database = self.open(self.url)
        await database.run(add)
        self.server.stop()
        self.server.start()
        self.assertEqual(await database.run(count, read_only=True), 1)

    async def test_crashed_server(self) -> None:
        """While the server is down calls fail, and afterwards they succeed."""
        database = self.open(self.url, timeout=3.0)
        await database.run(add)
        queue = DatabaseQueue(database, "jobs", 60, 5, Clock())
        self.server.kill()
        with self.assertRaises(StoreError) as caught:
            await database.run(count, read_only=True)
        self.assertNotIn(PASSWORD, str(caught.exception))
        with self.assertRaises(QueueError):
            await queue.send(body="x")
        self.server.start()
        self.assertEqual(await self.until_it_works(database), 1)
        await queue.send(body="x")
        self.assertEqual(len(await queue.receive(max_messages=1, wait=0)), 1)

    async def test_connection_breaks_in_a_transaction(self) -> None:
        """A transaction whose connection breaks is run again and takes effect once."""
        database = self.open(self.url)
        await database.ready()
        runs = []

        def work(connection: Connection) -> None:
            runs.append(connection)
            if len(runs) == 1:
                add(connection)
                self.break_connection(connection)
            add(connection)

        await database.run(work)
        self.assertEqual(len(runs), 2)
        self.assertEqual(await database.run(count, read_only=True), 1)

    def break_connection(self, connection: Connection) -> None:
        raise NotImplementedError

    async def test_failover_replaces_read_only_connections(self) -> None:
        """A connection that has become read-only is replaced by a new one."""
        database = self.open(self.url)

        def demote(connection: Connection) -> None:
            connection.exec_driver_sql(self.demotion)

        await database.run(demote)
        await database.run(add)
        self.assertEqual(await database.run(count, read_only=True), 1)

    async def test_failover_replaces_the_whole_pool(self) -> None:
        """One write that finds its server read-only has every connection replaced."""
        database = self.open(self.url, threads=2)

        def both(work: Callable[[Connection], object]) -> Deferred[list[object]]:
            barrier = Barrier(2)

            def run(connection: Connection) -> object:
                barrier.wait(10)
                return work(connection)

            running = [Deferred.fromCoroutine(database.run(run)) for _ in "ab"]
            return gatherResults(running)

        def number(connection: Connection) -> object:
            return connection.exec_driver_sql(self.connection_number).scalar()

        def demote(connection: Connection) -> None:
            connection.exec_driver_sql(self.demotion)

        before = await both(number)
        await both(demote)
        await database.run(add)
        after = await both(number)
        self.assertEqual(len({*before, *after}), 4)

    async def test_read_only_server(self) -> None:
        """A read-only server fails writes and serves reads."""
        self.make_read_only(True)
        try:
            database = self.open(self.url, timeout=5.0)
            with self.assertRaises(StoreError):
                await database.run(add)
            self.assertEqual(await database.run(count, read_only=True), 0)
        finally:
            self.make_read_only(False)
        await database.run(add)

    #: Makes the session read-only, and gives the number of the connection.
    demotion: ClassVar[str]
    connection_number: ClassVar[str]

    def make_read_only(self, read_only: bool) -> None:
        """Set whether new sessions are read-only."""
        raise NotImplementedError

    async def test_unresponsive_server(self) -> None:
        """An unresponsive server fails calls in time, and no thread is lost."""
        database = self.open(self.url, threads=2, timeout=1.0)
        await database.run(count, read_only=True)
        self.server.freeze()
        try:
            for _ in range(4):
                with self.assertRaises(StoreError):
                    await database.run(count, read_only=True)
            await database.stopService()
        finally:
            self.server.thaw()
        database.startService()
        self.assertEqual(await self.until_it_works(database), 0)

    async def test_error_omits_the_password(self) -> None:
        """The error for a rejected password does not contain it."""
        name = make_url(self.url).database or ""
        url = self.server.url(name, password="s3cret%2Fwr%40ng")
        with self.assertRaises(StoreError) as caught:
            await self.open(url).ready()
        for text in (str(caught.exception), repr(caught.exception)):
            for secret in ("s3cret", "wr@ng", "wr%40ng"):
                self.assertNotIn(secret, text)
        self.assertIsNone(caught.exception.__cause__)
        self.assertTrue(caught.exception.__suppress_context__)
        with self.assertRaises(StoreError) as caught:
            current(url)
        self.assertNotIn("s3cret", str(caught.exception))

    async def test_unreachable_server(self) -> None:
        """An unreachable server is a StoreError at each use."""
        url = self.url.replace(str(self.server.port), str(free_port()))
        database = self.open(url)
        for _ in range(2):
            with self.assertRaises(StoreError):
                await database.ready()


class MariadbOutageTests(OutageContract):
    """Outages of MariaDB."""

    make_server = mariadb.MariadbServer
    skip = mariadb.missing()
    demotion = "SET SESSION TRANSACTION READ ONLY"
    connection_number = "SELECT CONNECTION_ID()"

    def make_read_only(self, read_only: bool) -> None:
        self.server.set_read_only(read_only)

    def break_connection(self, connection: Connection) -> None:
        connection.exec_driver_sql("KILL CONNECTION_ID()")


class PostgresqlOutageTests(OutageContract):
    """Outages of PostgreSQL."""

    make_server = postgresql.PostgresqlServer
    skip = postgresql.missing()
    demotion = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    connection_number = "SELECT pg_backend_pid()"

    async def test_write_to_a_standby(self) -> None:
        """A connection to a standby is replaced when a write fails, even if it has read before."""
        database = self.open(self.url, threads=1, timeout=3.0)
        await database.run(count, read_only=True)
        self.addCleanup(self.restart, standby=False)
        self.restart(standby=True)

        def number(connection: Connection) -> object:
            return connection.exec_driver_sql(self.connection_number).scalar()

        before = await database.run(number, read_only=True)
        with self.assertRaises(StoreError):
            await database.run(add)
        self.assertNotEqual(await database.run(number, read_only=True), before)

    async def test_failover_to_another_host(self) -> None:
        """Of several hosts the one that accepts writes is used, also after a failover."""
        other = self.make_server()
        other.start()
        self.addCleanup(other.remove)
        name = make_url(self.url).database
        other.create(name)
        upgrade(other.url(name))
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (self.server, other))
        url = make_url(self.url)
        database = self.open(f"{url.drivername}://{url.username}:{PASSWORD}@/{name}?{hosts}")
        await database.run(add)
        self.assertEqual(await database.run(count, read_only=True), 1)
        self.addCleanup(self.restart, standby=False)
        self.restart(standby=True)
        self.assertEqual(await database.run(count, read_only=True), 0)
        await database.run(add)
        self.assertEqual(await database.run(count, read_only=True), 1)

    def restart(self, *, standby: bool) -> None:
        self.server.set_standby(standby)
        self.server.stop()
        self.server.start()

    def make_read_only(self, read_only: bool) -> None:
        self.server.set_read_only(make_url(self.url).database, read_only)

    def break_connection(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")


# What is no test case of its own is not to be found by the runner.
del OutageContract, Backend
