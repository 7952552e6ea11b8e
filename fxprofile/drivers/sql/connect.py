"""
SQLAlchemy engines for the three databases, with a time limit on every wait.
"""

from __future__ import annotations

import math
import os
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool, QueuePool

from fxprofile.drivers.sql.failures import is_read_only
from fxprofile.model.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3

#: The execution option of a read-only transaction.
READ_ONLY: Final = "fxprofile_read_only"

_CONNECT_SECONDS = 5

#: Seconds between two attempts to switch a busy SQLite file to write-ahead logging.
_WAL_RETRY_DELAY: Final = 0.01

#: The driver module of each dialect, and the extra of this package that installs it.
_DRIVERS = {
    "sqlite": ("sqlite3", ""),
    "mysql+pymysql": ("pymysql", "mysql"),
    "postgresql+psycopg": ("psycopg", "postgresql"),
}


def parse_url(text: str) -> URL:
    """
    Parse the setting ``database.url``.

    :raises ConfigError: if the URL names no usable database; the error text does not
        contain the password.
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


def file_of(url: URL) -> Path:
    """Return the absolute path of an embedded database."""
    return Path(str(url.database)).absolute()


def is_embedded(url: URL) -> bool:
    """Return whether the database is an SQLite file, which only this service uses."""
    return url.get_backend_name() == "sqlite"


def make_engine(url: URL, *, connections: int, timeout: float) -> Engine:
    """
    Make an engine; it opens its connections when they are needed.

    SQLite connections are in autocommit mode: a transaction has to begin with an explicit
    ``BEGIN``.

    :param connections: the size of the connection pool.  0 is for migrations: each use
        opens a connection and closes it, and statements have no time limit.
    :param timeout: seconds that a statement, and the wait for a free connection, may
        take; the wait for a lock is limited to half of it.
    :raises ConfigError: if the driver of this database is not installed.
    """
    module, extra = _DRIVERS[url.drivername]
    try:
        import_module(module)
    except ImportError:
        raise ConfigError(
            f"database.url: {url.drivername} needs fxprofile[{extra}] to be installed"
        ) from None
    limit = timeout if connections else None
    options: dict[str, Any] = {"hide_parameters": True, "poolclass": NullPool}
    if connections:
        options["poolclass"] = QueuePool
        options |= {"pool_size": connections, "max_overflow": 0, "pool_timeout": timeout}
    if is_embedded(url):
        return _sqlite_engine(url, options, limit)
    if url.get_backend_name() == "mysql":
        arguments = _mysql_arguments(limit)
    else:
        arguments = _postgresql_arguments(limit)
        if _has_several_hosts(url):
            arguments["target_session_attrs"] = "read-write"
    engine = create_engine(
        url,
        # At MySQL's default level InnoDB also locks the gaps between rows, and
        # transactions of unrelated users would conflict.
        isolation_level="READ COMMITTED",
        pool_pre_ping=bool(connections),
        # The query of the URL takes precedence.
        connect_args={k: v for k, v in arguments.items() if k not in url.query},
        **options,
    )
    event.listen(engine, "handle_error", _disconnect_if_read_only)
    if limit and url.get_backend_name() == "postgresql":
        _limit_waits(engine, limit)
    return engine


def _disconnect_if_read_only(context: ExceptionContext) -> None:
    # After a failover a new connection may reach the new primary.  SQLAlchemy then replaces
    # every older connection of the pool, each before its next use.
    reads = context.connection and context.connection.get_execution_options().get(READ_ONLY)
    if not reads and is_read_only(context.original_exception):
        context.is_disconnect = True


def _has_several_hosts(url: URL) -> bool:
    hosts = url.query.get("host", ())
    return len(hosts) > 1 if isinstance(hosts, tuple) else "," in hosts


def make_file(url: URL) -> None:
    """
    Create the file of an embedded database and the directories above it, unless they
    exist, with access for this user only.  A database on a server has no file.

    :raises OSError: if that fails.
    """
    if not is_embedded(url):
        return
    path = file_of(url)
    missing = []
    for directory in path.parents:
        if directory.exists():
            break
        missing.append(directory)
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its -wal and -shm files the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _sqlite_engine(url: URL, options: dict[str, Any], limit: float | None) -> Engine:
    lock_seconds = (limit or 60.0) / 2
    # Without an isolation level the sqlite3 module issues no BEGIN of its own.
    arguments = {"isolation_level": None, "timeout": lock_seconds}
    engine = create_engine(url, connect_args=arguments, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, record: object) -> None:
        _enable_wal(connection, lock_seconds)
        # A commit survives a power failure, not only a crash of the process.
        connection.execute("PRAGMA synchronous = FULL").close()
        connection.execute("PRAGMA foreign_keys = ON").close()

    return engine


def _enable_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """
    Switch a database file to write-ahead logging (https://www.sqlite.org/wal.html), which
    is permanent: readers and the writer do not block each other.

    :param seconds: how long to retry while another process writes to the file; SQLite's
        own busy timeout does not apply to this statement.
    """
    import sqlite3

    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(_WAL_RETRY_DELAY)
        else:
            return


def _mysql_arguments(limit: float | None) -> dict[str, object]:
    lock_seconds = math.ceil(limit / 2) if limit else 60
    arguments: dict[str, object] = {
        "charset": "utf8mb4",
        "connect_timeout": _CONNECT_SECONDS,
        # A value that is too long is an error instead of being truncated.
        "init_command": f"SET SESSION innodb_lock_wait_timeout = {lock_seconds},"
        " sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
    }
    if limit:
        arguments |= {"read_timeout": math.ceil(limit), "write_timeout": math.ceil(limit)}
    return arguments


def _postgresql_arguments(limit: float | None) -> dict[str, object]:
    milliseconds = math.ceil(limit * 1000) if limit else 0
    return {
        "connect_timeout": _CONNECT_SECONDS,
        "application_name": "fxprofile",
        # The default is the encoding of the database, which may not be a text encoding.
        "client_encoding": "UTF8",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds or 60_000,
        "options": f"-c statement_timeout={milliseconds}"
        f" -c lock_timeout={milliseconds // 2 or 60_000}"
        f" -c idle_in_transaction_session_timeout={milliseconds * 2}",
    }


def _limit_waits(engine: Engine, limit: float) -> None:
    from fxprofile.drivers.sql.postgresql import TimeoutConnection

    @event.listens_for(engine, "do_connect")
    def connect(
        dialect: object, record: object, args: tuple[str, ...], keywords: dict[str, Any]
    ) -> TimeoutConnection:
        connection = TimeoutConnection.connect(*args, **keywords)
        connection.seconds = limit
        return connection
