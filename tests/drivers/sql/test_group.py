"""
Tests of :mod:`fxprofile.drivers.sql.group`.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy import Connection, insert, select
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.drivers.sql.connect import make_engine, parse_url
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.group import LINGER, GroupCommit
from fxprofile.drivers.sql.schema import profiles
from fxprofile.model.errors import StoreError
from tests.drivers.sql.traced import trace
from tests.support.fakes.threads import InlineThreads


def add(uid: str) -> Any:
    """Return the work of a transaction that adds a row."""
    row = insert(profiles).values(uid=uid, selected_seq=0, changed_at=0.0)
    return lambda connection: connection.execute(row) and uid


def uids(connection: Connection) -> list[str]:
    return list(connection.execute(select(profiles.c.uid).order_by(profiles.c.uid)).scalars())


class GroupCommitTests(TestCase):
    """Transactions that gather while another one runs."""

    timeout = 60

    async def setUp(self) -> None:
        self.database = Database(reactor, f"sqlite:///{self.mktemp()}", migrate=True)
        self.database.startService()
        self.addCleanup(self.database.stopService)
        await self.database.ready()
        assert self.database._pools is not None
        self.engine = self.database._pools.engine
        self.statements: list[str] = []
        trace(self.engine, self.statements.append)
        self.go_on = Event()
        self.addCleanup(self.go_on.set)

    def commits(self) -> int:
        return self.statements.count("BEGIN IMMEDIATE")

    async def gathered(self, *works: Any, **options: Any) -> list[object]:
        """Run transactions that gather while one is held; return their values or errors."""
        held = Deferred.fromCoroutine(self.database.run(lambda c: self.go_on.wait(20)))
        while not self.commits():
            await deferLater(reactor, 0.01)
        running = [Deferred.fromCoroutine(self.database.run(work, **options)) for work in works]
        for deferred in running:
            self.assertNoResult(deferred)
        self.go_on.set()
        await held
        outcomes = await DeferredList(running, consumeErrors=True)
        return [o.value if isinstance(o, Failure) else o for _, o in outcomes]

    async def rows(self) -> list[str]:
        return await self.database.run(uids, read_only=True)

    async def test_what_has_gathered_is_one_commit(self) -> None:
        """Transactions that gather while one is committed share the next commit."""
        self.assertEqual(await self.gathered(*map(add, "abcde")), list("abcde"))
        self.assertEqual(self.commits(), 2)
        self.assertEqual(await self.rows(), list("abcde"))

    async def test_a_failing_transaction_undoes_nothing_of_others(self) -> None:
        """An error rolls back its own transaction, and the others of the commit are kept."""

        def fails(connection: Connection) -> None:
            add("x")(connection)
            raise KeyError("a bug")

        a, error, refused, b = await self.gathered(add("a"), fails, add("a"), add("b"))
        self.assertEqual((a, b), ("a", "b"))
        self.assertIsInstance(error, KeyError)
        self.assertIsInstance(refused, StoreError)
        self.assertEqual(await self.rows(), ["a", "b"])
        self.assertEqual(self.commits(), 2)

    async def test_others_are_run_again_if_sqlite_undoes_everything(self) -> None:
        """If an error rolls the whole commit back, the other transactions are run once more."""

        def undone(connection: Connection) -> None:
            # What SQLite itself does if the disk is full.
            connection.exec_driver_sql("ROLLBACK")
            raise StoreError("the disk is full")

        outcomes = await self.gathered(add("a"), undone, add("b"), undone, add("c"))
        self.assertEqual([outcomes[0], outcomes[2], outcomes[4]], ["a", "b", "c"])
        self.assertIsInstance(outcomes[1], StoreError)
        self.assertIsInstance(outcomes[3], StoreError)
        self.assertEqual(await self.rows(), ["a", "b", "c"])

    async def test_nothing_is_reported_before_the_commit(self) -> None:
        """If the commit fails, every transaction of it fails."""

        def no_commit(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS p (id INTEGER PRIMARY KEY)")
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS c (p REFERENCES p)")
            connection.exec_driver_sql("INSERT INTO c VALUES (1)")

        outcomes = await self.gathered(add("a"), no_commit, add("b"))
        self.assertEqual([type(outcome) for outcome in outcomes], [StoreError] * 3)
        self.assertEqual(await self.rows(), [])

    async def test_a_cancelled_transaction_is_left_out(self) -> None:
        """A transaction that is cancelled while it waits is not run; the others are."""
        held = Deferred.fromCoroutine(self.database.run(lambda c: self.go_on.wait(20)))
        running = [Deferred.fromCoroutine(self.database.run(add(uid))) for uid in "abc"]
        running[1].cancel()
        self.failureResultOf(running[1], CancelledError)
        self.go_on.set()
        await held
        self.assertEqual([await running[0], await running[2]], ["a", "c"])
        self.assertEqual(await self.rows(), ["a", "c"])

    async def test_a_commit_is_synced_if_one_transaction_needs_it(self) -> None:
        """A commit without a sync is one whose transactions all need none."""
        pragma = "PRAGMA synchronous = NORMAL"
        await self.database.run(add("a"), synced=False)
        self.assertEqual(self.statements.count(pragma), 1)
        settings = lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar()  # noqa: E731
        self.assertEqual(await self.database.run(settings), 2)
        running = [
            Deferred.fromCoroutine(self.database.run(add("b"), lazy=True, synced=False)),
            Deferred.fromCoroutine(self.database.run(add("c"))),
        ]
        await DeferredList(running)
        self.assertEqual(self.statements.count(pragma), 1)
        self.assertEqual(await self.rows(), ["a", "b", "c"])

    async def test_a_stop_runs_lazy_transactions(self) -> None:
        """A stop does not wait for the time of a lazy transaction, and runs it."""
        lazy = Deferred.fromCoroutine(self.database.run(add("a"), lazy=True))
        self.assertNoResult(lazy)
        await self.database.stopService()
        self.assertEqual(self.successResultOf(lazy), "a")
        self.database.startService()
        self.assertEqual(await self.rows(), ["a"])


class LazyTests(SynchronousTestCase):
    """Transactions that may wait for another one."""

    def setUp(self) -> None:
        self.clock = Clock()
        url = parse_url(f"sqlite:///{Path(self.mktemp()).absolute()}")
        engine = make_engine(url, connections=1, timeout=1)
        self.addCleanup(engine.dispose)
        self.group = GroupCommit(
            self.clock, InlineThreads(), engine, lambda error, committing: error
        )
        self.ran: list[str] = []

    def run_one(self, name: str, *, lazy: bool) -> Deferred[None]:
        work = lambda connection: self.ran.append(name)  # noqa: E731
        return self.group.run(work, Event(), synced=True, lazy=lazy)

    def test_a_lazy_transaction_joins_the_next_one(self) -> None:
        """A lazy transaction is run before the next one, in the same commit."""
        lazy = self.run_one("lazy", lazy=True)
        self.assertNoResult(lazy)
        self.successResultOf(self.run_one("next", lazy=False))
        self.successResultOf(lazy)
        self.assertEqual(self.ran, ["lazy", "next"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_lazy_transaction_waits_only_for_a_time(self) -> None:
        """Without another one, lazy transactions are run after a time, together."""
        lazy = [self.run_one(name, lazy=True) for name in "ab"]
        self.clock.advance(LINGER * 0.9)
        self.assertEqual(self.ran, [])
        self.clock.advance(LINGER * 0.2)
        self.assertEqual(self.ran, ["a", "b"])
        for each in lazy:
            self.successResultOf(each)
        self.assertEqual(self.clock.getDelayedCalls(), [])
