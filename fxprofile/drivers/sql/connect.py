"""
Engines for the three databases, set up so that nothing waits for ever.
"""

from __future__ import annotations

import math
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, QueuePool

from fxprofile.drivers.sql.failures import is_read_only
from fxprofile.model.errors import ConfigError

#: The execution option of a transaction that only reads.
READ_ONLY: Final = "fxprofile_read_only"

_CONNECT_SECONDS = 5

#: Seconds from one try to have a new file of SQLite to the next.
_LOOK_AGAIN: Final = 0.01

#: The module of each driver, and the extra of this package that brings it.
_DRIVERS = {
    "sqlite": ("sqlite3", ""),
    "mysql+pymysql": ("pymysql", "mysql"),
    "postgresql+psycopg": ("psycopg", "postgresql"),
}


def parse_url(text: str) -> URL:
    """
    Read the setting ``database.url``.

    :raises ConfigError: if it names no database that this service can use; the text
        does not hold the password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigError("database.url: not an SQLAlchemy URL") from None
    if url.drivername not in _DRIVERS:
        raise ConfigError(
            "database.url: must begin with sqlite:///, mysql+pymysql:// or postgresql+psycopg://"
        )
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise ConfigError("database.url: must name a file or a database")
    return url


def is_embedded(url: URL) -> bool:
    """Whether this database is a file of this service's own."""
    return url.get_backend_name() == "sqlite"


def make_engine(url: URL, *, connections: int, timeout: float) -> Engine:
    """
    An engine that opens at most so many connections, none of them now.

    :param connections: how many; 0 opens and closes one for each use, and sets no
        limit to how long a statement may take: it is for migrations.
    :param timeout: seconds that a statement, and the wait for a free connection, may
        take; the wait for a lock gets half of it.
    :raises ConfigError: if the driver of this database is not installed.
    """
    module, extra = _DRIVERS[url.drivername]
    try:
        import_module(module)
    except ImportError:
        raise ConfigError(
            f"database.url: {url.drivername} needs fxprofile[{extra}] to be installed"
        ) from None
    options: dict[str, Any] = {"hide_parameters": True}
    if connections:
        options.update(
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
            pool_pre_ping=not is_embedded(url),
        )
    else:
        options.update(poolclass=NullPool)
    prepare = {
        "sqlite": _sqlite_engine,
        "mysql": _mysql_engine,
        "postgresql": _postgresql_engine,
    }[url.get_backend_name()]
    engine = prepare(url, options, timeout if connections else None)
    if not is_embedded(url):
        event.listen(engine, "handle_error", _let_go_if_read_only)
    return engine


def _let_go_if_read_only(context: ExceptionContext) -> None:
    # The next connection, which is made anew, may lead to the new primary.
    reads = context.connection and context.connection.get_execution_options().get(READ_ONLY)
    if not reads and is_read_only(context.original_exception):
        context.is_disconnect = True


def make_file(path: Path) -> None:
    """
    Create the file of an embedded database and the directories above it, for nobody
    else to read, unless they are there.

    :raises OSError: if that is not possible.
    """
    missing = []
    for directory in path.parents:
        if directory.exists():
            break
        missing.append(directory)
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _sqlite_engine(url: URL, options: dict[str, Any], timeout: float | None) -> Engine:
    # Without an isolation level the sqlite3 module leaves BEGIN to us.
    patience = (timeout or 60.0) / 2
    arguments = {"isolation_level": None, "timeout": patience}
    engine = create_engine(url, connect_args=arguments, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: object) -> None:
        _write_ahead(connection, patience)
        # A commit survives a power cut, not only a crash.
        connection.execute("PRAGMA synchronous = FULL").close()
        connection.execute("PRAGMA foreign_keys = ON").close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A transaction that reads first and then wants to write fails at once if another
        # one wrote in between, however long it would wait: so it takes the lock first.
        reads = connection.get_execution_options().get(READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _write_ahead(connection: Any, patience: float) -> None:
    """
    Have a database write ahead (https://www.sqlite.org/wal.html), which stays with its
    file: readers do not wait for the writer, nor it for them.

    :param patience: seconds to wait for others.  SQLite itself does not wait here for
        somebody who is just writing, as another process does to the same new file.
    """
    import sqlite3

    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_AGAIN)
        else:
            return


def _mysql_engine(url: URL, options: dict[str, Any], timeout: float | None) -> Engine:
    lock = math.ceil(timeout / 2) if timeout else 60
    arguments: dict[str, Any] = {
        "charset": "utf8mb4",
        "connect_timeout": _CONNECT_SECONDS,
        # A value that does not fit is an error, and not cut off.
        "init_command": f"SET SESSION innodb_lock_wait_timeout = {lock},"
        " sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    }
    if timeout:
        arguments.update(read_timeout=math.ceil(timeout), write_timeout=math.ceil(timeout))
    return create_engine(
        url,
        # At the default level InnoDB locks the gaps between rows as well, and
        # transactions of users who have nothing to do with one another collide.
        isolation_level="READ COMMITTED",
        connect_args=_unless_in_url(url, arguments),
        **options,
    )


def _postgresql_engine(url: URL, options: dict[str, Any], timeout: float | None) -> Engine:
    milliseconds = math.ceil(timeout * 1000) if timeout else 0
    arguments: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "fxprofile",
        # Of the encoding of the database by default, which may have no texts at all.
        "client_encoding": "UTF8",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds or 60_000,
        "options": f"-c statement_timeout={milliseconds}"
        f" -c lock_timeout={milliseconds // 2 or 60_000}"
        f" -c idle_in_transaction_session_timeout={milliseconds * 2}",
    }
    engine = create_engine(
        url,
        isolation_level="READ COMMITTED",
        connect_args=_unless_in_url(url, arguments),
        **options,
    )
    if timeout:
        from fxprofile.drivers.sql.postgresql import PatientConnection

        @event.listens_for(engine, "do_connect")
        def connect(dialect: object, record: object, args: Any, keywords: Any) -> Any:
            connection = PatientConnection.connect(*args, **keywords)
            connection.patience = timeout
            return connection

    return engine


def _unless_in_url(url: URL, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the operator says in the query of the URL comes first."""
    return {name: value for name, value in arguments.items() if name not in url.query}
