"""
Group commit: the transactions that gather while one is being committed share the next commit.

An embedded database has one writer and one log, and each commit waits for the disk.  SQLAlchemy
and sqlite3 have no such thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any, Final, TypeVar

import attrs
from sqlalchemy import Connection, Engine
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.sql.direct import driver, run
from fxprofile.drivers.sql.failures import FAILURES

T = TypeVar("T")

#: Translates an error of SQLAlchemy; the second argument says whether it was committing.
Translate = Callable[[BaseException, bool], Exception]

#: Seconds for which a lazy transaction waits for another one.
LINGER: Final = 1.0

#: Transactions of one commit, at most.
MAX_GROUP: Final = 50


@attrs.define(eq=False)
class _Entry:
    """A transaction: what it does, and in the end its value or failure."""

    work: Callable[[Connection], Any]
    abandoned: Event
    synced: bool
    outcome: Deferred[Any] = attrs.field(factory=Deferred)
    result: Any = None


@attrs.define(eq=False, slots=False)
class GroupCommit:
    """
    The writer of an embedded database.

    Each transaction of a group has a savepoint, so that an error in one undoes nothing of the
    others; each ends after the commit.

    :param clock: measures the wait of lazy transactions.
    :param threads: one thread.
    :param engine: of SQLite, whose connections are in autocommit mode.
    """

    _clock: IReactorTime
    _threads: Threads
    _engine: Engine
    _translate: Translate
    _waiting: list[_Entry] = attrs.field(factory=list, init=False)
    _is_due: bool = attrs.field(default=False, init=False)
    _is_busy: bool = attrs.field(default=False, init=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False)
    # Of the thread, which keeps it.
    _connection: Connection | None = attrs.field(default=None, init=False)

    def run(
        self, work: Callable[[Connection], T], abandoned: Event, *, synced: bool, lazy: bool
    ) -> Deferred[T]:
        """
        Run a transaction.

        :param abandoned: set when its outcome is of no interest any more: then it is undone.
        :param synced: whether the commit waits for the disk.
        :param lazy: whether it may wait :data:`LINGER` seconds for another transaction.
        """
        entry = _Entry(work, abandoned, synced)
        self._waiting.append(entry)
        if not lazy:
            self.flush()
        elif self._timer is None:
            self._timer = self._clock.callLater(LINGER, self.flush)
        return entry.outcome

    def flush(self) -> None:
        """Run all transactions that wait, as soon as no group is running."""
        self._is_due = bool(self._waiting)
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None
        if self._is_due and not self._is_busy:
            self._is_busy = True
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            self._is_due = bool(self._waiting)
            self._threads.run(self._commit, group).addBoth(self._ended, group)

    def _ended(self, outcome: object, group: Sequence[_Entry]) -> None:
        self._is_busy = False
        if self._is_due:
            self.flush()
        for entry in group:
            if isinstance(outcome, Failure):
                # There is no thread, for example.
                entry.result = outcome
            if isinstance(entry.result, Failure):
                entry.outcome.errback(entry.result)
            else:
                entry.outcome.callback(entry.result)

    # The following run in the thread.

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _commit(self, entries: Sequence[_Entry]) -> None:
        while entries:
            entries = self._commit_once(entries)

    def _commit_once(self, entries: Sequence[_Entry]) -> Sequence[_Entry]:
        """
        Run transactions and commit them.

        :returns: those to run again, because the error of another one has undone them.
        """
        committing = False
        synced = any(entry.synced for entry in entries)
        try:
            with self._opened(synced=synced) as connection:
                # A deferred transaction that reads and then writes fails at once if another process
                # wrote in between, even with a busy timeout; so a writer takes the lock first.
                run(connection, "BEGIN IMMEDIATE")
                for entry in entries:
                    self._run_one(connection, entry, alone=len(entries) == 1)
                    if not driver(connection).in_transaction:
                        return [e for e in entries if not isinstance(e.result, Failure)]
                committing = True
                run(connection, "COMMIT")
        except FAILURES as error:
            failure = Failure(self._translate(error, committing))
            for entry in entries:
                if not isinstance(entry.result, Failure):
                    entry.result = failure
        return ()

    def _run_one(self, connection: Connection, entry: _Entry, *, alone: bool) -> None:
        """Run a transaction; if it fails, undo it, or everything if it is alone."""
        if not alone:
            run(connection, "SAVEPOINT one")
        try:
            if entry.abandoned.is_set():
                raise CancelledError
            entry.result = entry.work(connection)
            if entry.abandoned.is_set():
                raise CancelledError
        except FAILURES as error:
            entry.result = Failure(self._translate(error, False))
        except BaseException:
            entry.result = Failure()
        is_open = driver(connection).in_transaction
        if isinstance(entry.result, Failure) and alone:
            driver(connection).rollback()
        # Some errors, such as a full disk, have undone everything already.
        elif isinstance(entry.result, Failure) and is_open:
            run(connection, "ROLLBACK TO one")
        if not alone and is_open:
            run(connection, "RELEASE one")

    @contextmanager
    def _opened(self, *, synced: bool) -> Iterator[Connection]:
        """
        Open the connection, unless it is open, and in the end roll back what is not committed.

        After an error of the database the connection is closed.

        Without a sync a commit survives the end of the process, and a power failure if a later
        commit does (https://www.sqlite.org/pragma.html#pragma_synchronous).

        :param synced: whether its commit waits for the disk.
        """
        connection = self._connection = self._connection or self._engine.connect()
        try:
            if not synced:
                run(connection, "PRAGMA synchronous = NORMAL")
            try:
                yield connection
            finally:
                driver(connection).rollback()
                # SQLAlchemy has begun a transaction of its own if it has executed a statement.
                connection.rollback()
                if not synced:
                    run(connection, "PRAGMA synchronous = FULL")
        except BaseException:
            self.close()
            raise
