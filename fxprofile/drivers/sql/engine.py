"""
The database service: transactions in threads, each with a time limit.

Twisted's ``adbapi`` has no time limits, does not retry transactions and knows nothing of
SQLAlchemy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from threading import Event
from typing import Any, Final, Never, TypeVar

from sqlalchemy import Connection, Engine
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.fair_queue import FairQueue
from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.single_flight import SingleFlight
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.sql import direct
from fxprofile.drivers.sql.connect import (
    READ_ONLY,
    file_of,
    is_embedded,
    make_engine,
    make_file,
    parse_url,
)
from fxprofile.drivers.sql.failures import FAILURES, TransientError, store_error
from fxprofile.drivers.sql.group import MAX_GROUP, GroupCommit
from fxprofile.drivers.sql.migrate import ensure_schema
from fxprofile.model.errors import StoreError

T = TypeVar("T")

#: How often a transaction is run at most if it conflicts with others.
ATTEMPTS: Final = 8

_BACKOFF: Final = Backoff(first=0.03, cap=0.75, shortest=1 / 3)

#: Seconds between two checks whether the transactions in flight have ended.
_STOP_POLL: Final = 0.01


@dataclass(frozen=True)
class _Pools:
    """
    The connections and the threads of a running database.

    :ivar group: commits the transactions of an embedded database; None if there is a server.
    """

    engine: Engine
    readers: Threads
    writers: Threads
    group: GroupCommit | None

    def close(self) -> None:
        """Close the connections; this blocks."""
        if self.group is not None:
            self.group.close()
        self.engine.dispose()


@dataclass(eq=False, repr=False)
class Database(Service):
    """
    An SQLAlchemy engine and the threads that use it.

    Starting the service opens nothing and waits for nothing: the first use, or
    :meth:`ready`, opens the database and ensures its schema.

    An embedded database has several reader threads and one writer thread: SQLite allows
    one writer at a time, and would make the others poll for their turn.  The transactions that
    have gathered while one is being committed share a commit.

    :param reactor: provides the time and receives the results of threads.
    :param url: an SQLAlchemy URL, ``sqlite:///…``, ``mysql+pymysql://…`` or
        ``postgresql+psycopg://…``.
    :param migrate: whether to upgrade the schema of a database server; that of an
        embedded database is always upgraded.
    :param threads: how many transactions run at the same time, which is also the number
        of connections; an embedded database has one more for writing.
    :param timeout: seconds that a transaction may take, including the wait for a thread
        and all attempts.
    :raises ConfigError: if the URL names no usable database.
    """

    reactor: Any
    url: str
    _: KW_ONLY
    migrate: bool
    threads: int = 8
    timeout: float = 10.0
    notifier: Notifier = field(init=False, default_factory=Notifier)
    _pools: _Pools | None = field(init=False, default=None)
    _active: int = field(init=False, default=0)
    _is_prepared: bool = field(init=False, default=False)
    _preparing: SingleFlight[None, None] = field(init=False, default_factory=SingleFlight)
    _writes: FairQueue = field(init=False)

    def __post_init__(self) -> None:
        self.setName("database")
        self._url = parse_url(self.url)
        self._writes = FairQueue(MAX_GROUP if is_embedded(self._url) else self.threads)

    @property
    def dialect(self) -> str:
        """``sqlite``, ``mysql`` or ``postgresql``."""
        return self._url.get_backend_name()

    def make_file(self) -> None:
        """
        Create the file of an embedded database, unless it exists; this blocks.

        :raises OSError: if it is not writable.
        """
        make_file(self._url)

    def startService(self) -> None:
        if self.running:
            return
        super().startService()
        connections = self.threads
        readers = writers = Threads(self.reactor, "database", self.threads)
        if is_embedded(self._url):
            # The working directory may change later.
            self._url = self._url.set(database=str(file_of(self._url)))
            writers = Threads(self.reactor, "database writer", 1)
            connections += 1
        engine = make_engine(self._url, connections=connections, timeout=self.timeout)
        for threads in {readers, writers}:
            threads.startService()
        group = None
        if is_embedded(self._url):
            group = GroupCommit(self.reactor, writers, engine, self._store_error)
        self._pools = _Pools(engine, readers, writers, group)

    def stopService(self) -> Deferred[None]:
        """
        Wait for the work in flight, including transactions that it has yet to start; then
        close every connection.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        deadline = self.reactor.seconds() + self.timeout
        while self._active and self.reactor.seconds() < deadline:
            if self._pools is not None and self._pools.group is not None:
                self._pools.group.flush()
            await sleep(self.reactor, _STOP_POLL)
        pools, self._pools = self._pools, None
        self._is_prepared = False
        if pools is not None:
            # SQLite checkpoints its log when the last connection closes.
            await pools.writers.run(pools.close)
            for threads in {pools.readers, pools.writers}:
                await threads.stopService()

    async def ready(self) -> None:
        """
        Open the database, unless it is open, and check its schema; create or upgrade the
        schema if that is allowed.

        :raises SchemaMismatch: if the schema is of another version, and this process may
            not upgrade it.
        :raises StoreError: if the database is unreachable or refuses.  The next call
            tries again.
        """
        if not self._is_prepared:
            await self._preparing.join(
                None, lambda: self._repeat(lambda pools: pools.writers.run(self._prepare))
            )
            self._is_prepared = self._pools is not None

    async def run(
        self,
        work: Callable[[Connection], T],
        *,
        read_only: bool = False,
        user: object = None,
        synced: bool = True,
        lazy: bool = False,
    ) -> T:
        """
        Run one transaction in a thread and commit it.

        If it conflicts with another transaction, or the connection breaks before the
        commit, it is rolled back and run again, a few times: so the work must have no side
        effects outside its connection.

        Cancelling this rolls the transaction back, unless it has been committed.

        :param work: is called in a thread with the connection; its value is returned.
        :param read_only: whether the work only reads.
        :param user: the uid of the user who writes, if any.  Users who write are served in turn,
            and the transactions of one user run one after the other.
        :raises StoreError: if the database is unreachable, refuses, or does not end the
            transaction in time.  After a timeout, or if the connection broke during the
            commit, the transaction may have been committed or not.
        :raises Exception: any other error of the work, which rolls the transaction back.
        """
        abandoned = Event()
        call = self._call(abandoned, work, read_only, synced, lazy)
        running = Deferred.fromCoroutine(self._attempt(call, read_only or lazy, user))
        running.addTimeout(self.timeout, self.reactor, self._timed_out)
        self._active += 1
        try:
            return await running
        finally:
            abandoned.set()
            self._active -= 1

    def _timed_out(self, outcome: object, seconds: float) -> Never:
        raise StoreError(f"{self.dialect}: the transaction did not end in {seconds} s")

    def _call(
        self,
        abandoned: Event,
        work: Callable[[Connection], T],
        read_only: bool,
        synced: bool,
        lazy: bool,
    ) -> Callable[[_Pools], Deferred[T]]:
        """Return a call that runs the transaction once."""

        def call(pools: _Pools) -> Deferred[T]:
            if read_only or pools.group is None:
                threads = pools.readers if read_only else pools.writers
                return threads.run(self._transact, abandoned, work, read_only)
            return pools.group.run(work, abandoned, synced=synced, lazy=lazy)

        return call

    async def _attempt(
        self, call: Callable[[_Pools], Deferred[T]], at_once: bool, user: object
    ) -> T:
        if not self._is_prepared:
            await self.ready()
        if at_once:
            return await self._repeat(call)
        return await self._writes.run(
            object() if user is None else user, lambda: self._repeat(call)
        )

    async def _repeat(self, call: Callable[[_Pools], Deferred[T]]) -> T:
        attempt = 1
        while True:
            try:
                return await call(self._started())
            except TransientError:
                if attempt == ATTEMPTS:
                    raise
            await sleep(self.reactor, _BACKOFF.delay(attempt))
            attempt += 1

    def _started(self) -> _Pools:
        if self._pools is None:
            raise StoreError(f"{self.dialect}: the database is not open")
        return self._pools

    # The following run in a thread.

    def _transact(self, abandoned: Event, work: Callable[[Connection], T], read_only: bool) -> T:
        engine = self._started().engine
        if abandoned.is_set():
            raise CancelledError
        committing = False
        try:
            with engine.connect() as connection:
                self._begin(connection, read_only)
                value = work(connection)
                if abandoned.is_set():
                    raise CancelledError
                committing = True
                self._end(connection)
                return value
        except FAILURES as error:
            raise self._store_error(error, committing) from None

    def _begin(self, connection: Connection, read_only: bool) -> None:
        if self.dialect == "sqlite":
            direct.run(connection, "BEGIN")
        elif read_only and self.dialect == "postgresql":
            connection.execution_options(**{READ_ONLY: True, "postgresql_readonly": True})
        else:
            connection.execution_options(**{READ_ONLY: read_only})

    def _end(self, connection: Connection) -> None:
        if self.dialect == "sqlite":
            direct.run(connection, "COMMIT")
        else:
            connection.commit()

    def _prepare(self) -> None:
        try:
            self.make_file()
            may_upgrade = self.migrate or is_embedded(self._url)
            ensure_schema(self._started().engine, migrate=may_upgrade)
        except FAILURES as error:
            raise self._store_error(error, False) from None

    def _store_error(self, error: BaseException, committing: bool) -> StoreError:
        return store_error(error, self._url, committing=committing)
