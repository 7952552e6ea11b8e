"""
The database of a process: transactions on threads of their own, each of which ends.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.sql.connect import READ_ONLY, is_embedded, make_engine, make_file, parse_url
from fxprofile.drivers.sql.failures import FAILURES, is_conflict, is_disconnect, store_error
from fxprofile.drivers.sql.migrate import ensure_schema
from fxprofile.model.errors import StoreError

T = TypeVar("T")

#: How often a transaction that another one was in the way of is tried.
ATTEMPTS: Final = 8

_FIRST_DELAY = 0.02
_LONGEST_DELAY = 0.5

_log = Logger()


class _GivenUp(Exception):
    """Nobody waits for this transaction any longer."""


class _Again(Exception):
    """The transaction was rolled back, and may pass if it is tried again."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


class _Call:
    """One transaction: what the reactor's thread and the one that runs it both look at."""

    given_up = False


class Database(Service):
    """
    An engine and the threads that use it.

    Nothing is opened before the service starts, and nothing waits for the database
    then: the first use, or :meth:`ready`, opens it and sees to the schema.

    An embedded database has one thread that writes, because SQLite has one writer at a
    time anyway and lets the others poll for their turn; several read.

    :param reactor: gives the time and gets the results.
    :param url: an SQLAlchemy URL, ``sqlite:///…``, ``mysql+pymysql://…`` or
        ``postgresql+psycopg://…``.
    :param migrate: whether to bring the schema of a database server up to date; that of
        an embedded database always is.
    :param threads: how many transactions run at one time, which is also how many
        connections there are; an embedded database has one more.
    :param timeout: seconds that a transaction may take, the wait for a thread and all
        further attempts included.
    :raises ConfigError: if the URL names no database that this service can use.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        migrate: bool,
        threads: int = 8,
        timeout: float = 10.0,
    ) -> None:
        self.setName("database")
        self.notifier = Notifier()
        self._time: IReactorTime = reactor
        self._reactor: IReactorFromThreads = reactor
        self._url = parse_url(url)
        self._migrate = migrate
        self._size = threads
        self._timeout = timeout
        self._engine: Engine | None = None
        self._readers: Threads | None = None
        self._writers: Threads | None = None
        self._active = 0
        self._usable = False
        self._preparing: list[Deferred[None]] = []

    @property
    def dialect(self) -> str:
        """``sqlite``, ``mysql`` or ``postgresql``."""
        return self._url.get_backend_name()

    def make_file(self) -> None:
        """
        Make the file of an embedded database, unless it is there; this blocks.

        :raises OSError: if it cannot be written to.
        """
        if is_embedded(self._url):
            make_file(Path(str(self._url.database)).absolute())

    def startService(self) -> None:
        if self.running:
            return
        super().startService()
        if is_embedded(self._url):
            # The working directory may change later on.
            self._url = self._url.set(database=str(Path(str(self._url.database)).absolute()))
        connections = self._size + is_embedded(self._url)
        self._engine = make_engine(self._url, connections=connections, timeout=self._timeout)
        self._readers = Threads(self._reactor, "database", self._size)
        self._readers.startService()
        self._writers = self._readers
        if is_embedded(self._url):
            self._writers = Threads(self._reactor, "database writer", 1)
            self._writers.startService()

    def stopService(self) -> Deferred[None]:
        """
        Finish what is in hand, and what follows from it, and close every connection.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        deadline = self._time.seconds() + self._timeout
        while self._active and self._time.seconds() < deadline:
            await sleep(self._time, 0.01)
        readers, writers, engine = self._readers, self._writers, self._engine
        self._readers = self._writers = self._engine = None
        self._usable = False
        if engine is not None and writers is not None:
            # SQLite writes its log back when the last connection closes.
            await writers.run(engine.dispose)
        for threads in {readers, writers}:
            if threads is not None:
                await threads.stopService()

    async def ready(self) -> None:
        """
        Open the database, unless it is open, and see that its schema is the one this
        version needs; create or upgrade it if that is allowed.

        :raises SchemaMismatch: if the schema is another one, and this process may not
            change it.
        :raises StoreError: if the database cannot be reached or does not let us.  The
            next call tries again.
        """
        if self._usable:
            return
        waiter: Deferred[None] = Deferred()
        self._preparing.append(waiter)
        if len(self._preparing) == 1:
            prepared = Deferred.fromCoroutine(self._repeat(_Call(), True, self._prepare))
            prepared.addBoth(self._prepared)
        await waiter

    def _prepared(self, outcome: Any) -> None:
        self._usable = outcome is None
        waiters, self._preparing = self._preparing, []
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(outcome)

    async def run(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """
        Run one transaction in a thread and commit it.

        If another transaction was in the way, or the connection broke before the commit,
        it is rolled back and run again, a few times: so the work may do nothing but use
        its connection.

        Cancelling this gives up the transaction: if it has not been committed yet, it is
        rolled back.

        :param work: is called in a thread with the connection; its value is returned.
        :param read_only: that it only reads.
        :raises StoreError: if the database cannot be reached, refuses, or does not end
            in time.  In the last case, or if the connection broke at the commit, the
            transaction may have been committed or not.
        :raises Exception: whatever else the work raises; it is rolled back then.
        """
        call = _Call()
        outcome: Deferred[T] = Deferred()

        def ended(value: Any) -> None:
            self._active -= 1
            if not outcome.called:
                outcome.callback(value)
            elif isinstance(value, Failure) and not value.check(_GivenUp, StoreError):
                _log.failure("A transaction that nobody waits for failed", failure=value)

        def expired() -> None:
            call.given_up = True
            outcome.errback(
                StoreError(f"{self.dialect}: the transaction did not end in {self._timeout} s")
            )

        self._active += 1
        Deferred.fromCoroutine(self._attempt(call, work, read_only)).addBoth(ended)
        timer = None
        if not outcome.called:
            timer = self._time.callLater(self._timeout, expired)
        try:
            return await outcome
        except CancelledError:
            call.given_up = True
            raise
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    async def _attempt(self, call: _Call, work: Callable[[Connection], T], read_only: bool) -> T:
        await self.ready()
        return await self._repeat(call, not read_only, self._transact, call, work, read_only)

    async def _repeat(self, call: _Call, writes: bool, function: Callable[..., T], *args: Any) -> T:
        delay = _FIRST_DELAY
        for attempt in range(1, ATTEMPTS + 1):
            threads = self._writers if writes else self._readers
            if threads is None:
                break
            try:
                return await threads.run(function, *args)
            except _Again as again:
                if attempt == ATTEMPTS or call.given_up:
                    raise again.error from None
            await sleep(self._time, delay * random.uniform(0.5, 1.5))  # noqa: S311
            delay = min(delay * 2, _LONGEST_DELAY)
        raise self._closed()

    def _closed(self) -> StoreError:
        return StoreError(f"{self.dialect}: the database is not open")

    # What follows runs in the threads.

    def _transact(self, call: _Call, work: Callable[[Connection], T], read_only: bool) -> T:
        engine = self._engine
        if engine is None:
            raise self._closed()
        if call.given_up:
            raise _GivenUp
        committing = False
        try:
            with engine.connect() as connection:
                connection.execution_options(**self._options(read_only))
                with connection.begin() as transaction:
                    value = work(connection)
                    if call.given_up:
                        raise _GivenUp
                    committing = True
                    transaction.commit()
                return value
        except FAILURES as error:
            failure = store_error(error, self._url)
            if is_conflict(error) or (is_disconnect(error) and not committing):
                raise _Again(failure) from None
            raise failure from None

    def _options(self, read_only: bool) -> dict[str, Any]:
        options: dict[str, Any] = {READ_ONLY: read_only}
        if read_only and self.dialect == "postgresql":
            options["postgresql_readonly"] = True
        return options

    def _prepare(self) -> None:
        engine = self._engine
        if engine is None:
            raise self._closed()
        embedded = is_embedded(self._url)
        try:
            if embedded:
                make_file(Path(str(self._url.database)))
            ensure_schema(engine, migrate=self._migrate or embedded)
        except FAILURES as error:
            failure = store_error(error, self._url)
            if is_conflict(error):
                raise _Again(failure) from None
            raise failure from None
