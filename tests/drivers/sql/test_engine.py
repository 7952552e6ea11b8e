"""
Tests of the database service: opening, transactions, time limits and closing.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, create_engine, insert, select, text, update
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.schema import profiles
from fxprofile.model.errors import StoreError
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend
from tests.drivers.sql.writer import add_one

ROOT = Path(__file__).parents[3]
NAMES = select(profiles.c.display_name).order_by(profiles.c.uid)


def add(uid: str, name: str = "x") -> Any:
    """A statement that adds a row."""
    return insert(profiles).values(uid=uid, display_name=name, selected_seq=0, changed_at=0.0)


def names(connection: Connection) -> list[str | None]:
    return list(connection.execute(NAMES).scalars())


class DatabaseContract(Backend):
    """The database service on each kind of database."""

    def path(self) -> Path:
        """Return a path that does not exist."""
        return Path(self.mktemp()).absolute()

    def writer(self, url: str, times: int) -> subprocess.Popen[str]:
        """Start a process that increments a number this many times."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.drivers.sql.writer", url, str(times)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    async def test_transaction_is_committed(self) -> None:
        """The value of the work is returned, and its changes are committed."""
        database = self.open(self.empty_url())

        def work(connection: Connection) -> str:
            connection.execute(add("a", "Zoë"))
            return "done"

        self.assertEqual(await database.run(work), "done")
        self.assertEqual(await database.run(names, read_only=True), ["Zoë"])

    async def test_error_of_the_work_rolls_back(self) -> None:
        """An error of the work is raised unchanged, and its changes are rolled back."""
        database = self.open(self.empty_url())

        def work(connection: Connection) -> None:
            connection.execute(add("a"))
            raise KeyError("a bug")

        with self.assertRaises(KeyError):
            await database.run(work)
        self.assertEqual(await database.run(names, read_only=True), [])

    async def test_database_error_is_a_store_error(self) -> None:
        """An error of the database is a StoreError in one line without the values."""
        database = self.open(self.empty_url())
        await database.run(lambda c: c.execute(add("a")) and None)
        with self.assertRaises(StoreError) as caught:
            await database.run(lambda c: c.execute(add("a", "s3cret")) and None)
        self.assertNotIn("s3cret", str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))
        self.assertTrue(str(caught.exception).startswith(database.dialect))

    async def test_invalid_unicode_is_a_store_error(self) -> None:
        """A text that is not valid Unicode is a StoreError."""
        database = self.open(self.empty_url())
        with self.assertRaises(StoreError):
            await database.run(lambda c: c.execute(add("a", "\ud800")) and None)

    async def test_cancelled_transaction_is_rolled_back(self) -> None:
        """A cancelled transaction is rolled back."""
        database = self.open(self.empty_url())
        await database.ready()
        started, go_on = Event(), Event()

        def work(connection: Connection) -> None:
            connection.execute(add("a"))
            started.set()
            go_on.wait(10)

        running = Deferred.fromCoroutine(database.run(work))
        while not started.is_set():
            await deferLater(reactor, 0.01)
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        go_on.set()
        await database.stopService()
        database.startService()
        self.assertEqual(await database.run(names, read_only=True), [])

    async def test_wait_for_a_thread_times_out(self) -> None:
        """A transaction that gets no thread in time is a StoreError, and is never run."""
        database = self.open(self.empty_url(), threads=1, timeout=1.0)
        await database.ready()
        go_on = Event()
        self.addCleanup(go_on.set)
        calls = []
        hung = Deferred.fromCoroutine(database.run(lambda c: go_on.wait(20), read_only=True))
        for number in range(3):

            def work(connection: Connection, number: int = number) -> None:
                calls.append(number)

            with self.assertRaises(StoreError):
                await database.run(work, read_only=True)
        with self.assertRaises(StoreError):
            await hung
        go_on.set()
        self.assertEqual(await database.run(names, read_only=True), [])
        self.assertEqual(calls, [])

    async def test_wait_for_a_lock_times_out(self) -> None:
        """A transaction that gets a lock of another connection too late is a StoreError."""
        url = self.empty_url()
        database = self.open(url, timeout=2.0)
        await database.run(lambda c: c.execute(add("a")) and None)
        change = update(profiles).values(display_name="y")
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.execute(change)
            with self.assertRaises(StoreError):
                await database.run(lambda c: c.execute(change) and None)
        engine.dispose()
        await database.run(lambda c: c.execute(change) and None)
        self.assertEqual(await database.run(names, read_only=True), ["y"])

    async def test_concurrent_transactions_are_serialized(self) -> None:
        """Transactions of several processes on one row are serialized and lose no update."""
        url = self.empty_url()
        processes = [self.writer(url, 50) for _ in range(3)]
        database = self.open(url)
        for _ in range(5):
            await gatherResults([Deferred.fromCoroutine(database.run(add_one)) for _ in range(5)])
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual((process.returncode, output), (0, ""))
        count = await database.run(
            lambda c: c.execute(select(profiles.c.selected_seq)).scalar(), read_only=True
        )
        self.assertEqual(count, 175)

    async def test_users_are_served_in_turn(self) -> None:
        """Many writes of one user run one by one, and do not delay a write of another user."""
        database = self.open(self.empty_url())
        await database.ready()
        order: list[str] = []
        running: list[str] = []

        def write(uid: str) -> Deferred[None]:
            def work(connection: Connection) -> None:
                running.append(uid)
                connection.execute(update(profiles).values(display_name=uid))
                self.assertEqual(running.count(uid), 1)
                running.remove(uid)
                order.append(uid)

            return Deferred.fromCoroutine(database.run(work, user=uid))

        writes = [write("a") for _ in range(200)]
        await gatherResults([*writes, write("b")])
        # Its connection may have to be opened first.
        self.assertLess(order.index("b"), 150)

    async def test_only_between_start_and_stop(self) -> None:
        """Before its start and after its stop, the database raises a StoreError."""
        database = Database(reactor, self.empty_url(), migrate=False)
        with self.assertRaises(StoreError):
            await database.run(names)
        with self.assertRaises(StoreError):
            await database.ready()
        database.startService()
        self.assertEqual(await database.run(names), [])
        await database.stopService()
        with self.assertRaises(StoreError):
            await database.run(names)

    async def test_stop_waits_for_work_in_flight(self) -> None:
        """A stop waits for work in flight, including the transactions that it has yet to start."""
        database = self.open(self.empty_url())
        await database.ready()
        go_on = Event()

        async def work() -> None:
            await database.run(lambda c: go_on.wait(10) and c.execute(add("a")) and None)
            await database.run(lambda c: c.execute(add("b")) and None)

        working = Deferred.fromCoroutine(work())
        stopping = database.stopService()
        go_on.set()
        await stopping
        await working
        database.startService()
        self.assertEqual(len(await database.run(names, read_only=True)), 2)

    async def test_cancelled_ready_does_not_affect_others(self) -> None:
        """
        Callers that wait for the database to open are not affected when one of them is cancelled.
        """
        database = self.open(self.empty_url())
        waiting = [Deferred.fromCoroutine(database.ready()) for _ in range(3)]
        waiting[0].cancel()
        with self.assertRaises(CancelledError):
            await waiting[0]
        self.assertEqual([await waiter for waiter in waiting[1:]], [None, None])


class SqliteDatabaseTests(SqliteBackend, DatabaseContract):
    """The service on SQLite."""

    async def test_no_file_before_the_first_use(self) -> None:
        """No file is created before the database is used."""
        path = self.path()
        database = self.open(f"sqlite:///{path}/profile.db")
        self.assertFalse(path.exists())
        await database.ready()
        self.assertTrue(path.exists())

    async def test_file_permissions(self) -> None:
        """The file and new directories are accessible to their owner only."""
        base = self.path()
        base.mkdir(mode=0o755)
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        database = self.open(f"sqlite:///{base}/one/two/profile.db")
        await database.run(lambda c: c.execute(add("a")) and None)
        modes = {
            path.relative_to(base).as_posix(): stat.S_IMODE(path.stat().st_mode)
            for path in base.rglob("*")
        }
        self.assertEqual({modes.pop("one"), modes.pop("one/two")}, {0o700})
        self.assertEqual(set(modes.values()), {0o600}, modes)
        self.assertEqual(stat.S_IMODE(base.stat().st_mode), 0o755)

    async def test_relative_path(self) -> None:
        """A relative path is relative to the working directory at start."""
        directory = self.path()
        directory.mkdir()
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(directory)
        database = self.open("sqlite:///var/profile.db")
        os.chdir(here)
        await database.ready()
        self.assertTrue((directory / "var/profile.db").exists())

    async def test_connections_have_the_required_pragmas(self) -> None:
        """Connections have durable commits, foreign keys and a write-ahead log."""
        database = self.open(self.empty_url())

        def settings(connection: Connection) -> list[Any]:
            return [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "foreign_keys", "journal_mode")
            ]

        self.assertEqual(await database.run(settings, read_only=True), [2, 1, "wal"])
        self.assertEqual(await database.run(settings), [2, 1, "wal"])

    async def test_reader_does_not_wait_for_the_writer(self) -> None:
        """A read does not wait for a transaction that writes."""
        database = self.open(self.empty_url())
        await database.ready()
        go_on = Event()
        self.addCleanup(go_on.set)
        writing = Deferred.fromCoroutine(database.run(lambda c: go_on.wait(10)))
        self.assertEqual(await database.run(names, read_only=True), [])
        self.assertFalse(writing.called)
        go_on.set()
        await writing

    async def test_uncreatable_file_is_retried(self) -> None:
        """A file that cannot be created is a StoreError, and is retried at the next use."""
        path = self.path()
        path.write_text("in the way")
        database = self.open(f"sqlite:///{path}/profile.db")
        with self.assertRaises(StoreError):
            await database.run(names)
        path.unlink()
        self.assertEqual(await database.run(names), [])

    async def test_file_of_another_format(self) -> None:
        """A file that is not a database is a StoreError."""
        path = self.path()
        path.write_text("something else altogether" * 100)
        with self.assertRaises(StoreError) as caught:
            await self.open(f"sqlite:///{path}").ready()
        self.assertIn("not a database", str(caught.exception))


class ServerDatabaseContract(DatabaseContract):
    """The database service on a database server."""

    async def test_deadlock_is_retried(self) -> None:
        """Of two transactions in a deadlock one is run again, and each takes effect once."""
        database = self.open(self.empty_url())
        for uid in "ab":
            await database.run(lambda c, uid=uid: c.execute(add(uid, "")) and None)
        met = [Event(), Event()]
        runs = []

        def work(connection: Connection, mine: int, order: str) -> None:
            runs.append(mine)
            for uid in order:
                where = profiles.c.uid == uid
                connection.execute(
                    update(profiles)
                    .where(where)
                    .values(display_name=profiles.c.display_name.concat(str(mine)))
                )
                met[mine].set()
                met[1 - mine].wait(60)

        await gatherResults(
            [
                Deferred.fromCoroutine(database.run(lambda c: work(c, 0, "ab"))),
                Deferred.fromCoroutine(database.run(lambda c: work(c, 1, "ba"))),
            ]
        )
        self.assertGreaterEqual(len(runs), 3)
        for name in await database.run(names, read_only=True):
            self.assertEqual(sorted(name or ""), ["0", "1"])

    async def test_value_is_not_truncated(self) -> None:
        """A value that is too long is an error."""
        database = self.open(self.empty_url())
        with self.assertRaises(StoreError):
            await database.run(lambda c: c.execute(add("a", "x" * 257)) and None)

    async def test_slow_statement_frees_its_thread(self) -> None:
        """A statement that exceeds the time limit fails for the caller and frees its thread."""
        database = self.open(self.empty_url(), threads=1, timeout=1.0)
        await database.ready()
        sleep = "SELECT pg_sleep(30)" if database.dialect == "postgresql" else "SELECT SLEEP(30)"
        with self.assertRaises(StoreError):
            await database.run(lambda c: c.execute(text(sleep)) and None)
        for _ in range(5):
            try:
                self.assertEqual(await database.run(names, read_only=True), [])
                break
            except StoreError:
                continue
        else:
            self.fail("the thread does not come back")


class MariadbDatabaseTests(MariadbBackend, ServerDatabaseContract):
    """The service on MariaDB."""


class PostgresqlDatabaseTests(PostgresqlBackend, ServerDatabaseContract):
    """The service on PostgreSQL."""

    async def test_read_only_transaction_cannot_write(self) -> None:
        """A read-only transaction cannot write."""
        database = self.open(self.empty_url())
        with self.assertRaises(StoreError):
            await database.run(lambda c: c.execute(add("a")) and None, read_only=True)
        await database.run(lambda c: c.execute(add("a")) and None)


# What is no test case of its own is not to be found by the runner.
del ServerDatabaseContract, DatabaseContract
del Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
