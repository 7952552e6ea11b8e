"""
The schema: which one a database has, and how it gets the one this version needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from sqlalchemy import Connection, Dialect, Engine, inspect, text

from fxprofile.drivers.sql.connect import READ_ONLY, is_embedded, make_engine, make_file, parse_url
from fxprofile.drivers.sql.failures import FAILURES, store_error
from fxprofile.drivers.sql.schema import REVISION, metadata
from fxprofile.model.errors import StoreError

#: Where Alembic finds its environment and the revisions.
SCRIPTS: Final = Path(__file__).parent / "migrations"

#: The first version of each database that has all that is used here: SKIP LOCKED, and of
#: SQLite, which has no rows to lock, its tables and upserts.
OLDEST: Final = {
    "sqlite": (3, 35),
    "mysql": (8, 0),
    "MariaDB": (10, 6),
    "postgresql": (12,),
}

#: What names the lock of a migration: any number that nobody else uses.
_LOCK_NUMBER = 0x66787072
_LOCK_SECONDS = 60

#: Seconds that a look at the schema may take.  A migration may take as long as it takes.
_LOOK_SECONDS = 10.0

# Alembic works on one migration a process: its context is a global of its module.
_one_at_a_time = Lock()


class SchemaMismatch(StoreError):
    """The schema of the database is not the one that this version needs."""


def revision(connection: Connection) -> str | None:
    """
    The revision that the schema of a database has, or None if it has none.

    :raises SchemaMismatch: if tables of another program are in the way, the server is too
        old, or the database cannot hold every text.
    """
    _check_version(connection.dialect)
    _check_encoding(connection)
    tables = set(inspect(connection).get_table_names())
    ours = sorted(tables.intersection(metadata.tables))
    if "alembic_version" not in tables:
        if ours:
            raise SchemaMismatch(
                f"a table {ours[0]} already exists, and it is not of this program:"
                " use a database of its own"
            )
        return None
    found: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    if found is not None and not ours:
        raise SchemaMismatch(
            f"the schema of the database is {found} of another program: use a database of its own"
        )
    return found


def _check_version(dialect: Dialect) -> None:
    name = "MariaDB" if getattr(dialect, "is_mariadb", False) else dialect.name
    oldest = OLDEST[name]
    found = dialect.server_version_info or oldest
    if found[: len(oldest)] < oldest:
        raise SchemaMismatch(
            f"{name} {'.'.join(map(str, found))} is too old:"
            f" {'.'.join(map(str, oldest))} or later is needed"
        )


def _check_encoding(connection: Connection) -> None:
    # That of a server that was set up without a locale is SQL_ASCII. With MySQL it is a
    # matter of our tables.
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise SchemaMismatch(
                f"the encoding of the database is {encoding}, and has to be UTF8: create it"
                " with TEMPLATE template0 ENCODING 'UTF8'"
            )


def ensure_schema(engine: Engine, *, migrate: bool) -> None:
    """
    See that a database has the schema that this version needs.

    Any number of processes may do so at the same time, and one that is killed half-way
    leaves what the next one goes on with.

    :param migrate: whether to create or upgrade it.
    :raises SchemaMismatch: if it has another one and may not be changed, or comes from
        a newer version.
    """
    with engine.connect() as connection:
        connection.execution_options(**{READ_ONLY: True})
        found = revision(connection)
    if found == REVISION:
        return
    if found is not None and found not in _known():
        raise _unknown(found)
    if not migrate:
        raise SchemaMismatch(
            f"the schema of the database is {found or 'missing'},"
            f" and this version needs {REVISION}: run fxprofile-admin migrate"
        )
    with _one_at_a_time, engine.connect() as connection, connection.begin(), _locked(connection):
        _upgrade(connection, REVISION)


def upgrade(url: str, target: str = REVISION) -> tuple[str | None, str]:
    """
    Create or upgrade the schema of a database; for operators.  Blocks.

    :param url: as in :class:`fxprofile.drivers.sql.engine.Database`.
    :param target: the revision to upgrade to.
    :returns: the revision before and after.
    :raises SchemaMismatch: if the database comes from a newer version.
    :raises StoreError: if that is not possible.
    """
    parsed = parse_url(url)
    if not is_embedded(parsed):
        # A server that takes connections and never says a word is found out by this.
        current(url)
    engine = make_engine(parsed, connections=0, timeout=0)
    try:
        if is_embedded(parsed):
            make_file(Path(str(parsed.database)).absolute())
        with (
            _one_at_a_time,
            engine.connect() as connection,
            connection.begin(),
            _locked(connection),
        ):
            return _upgrade(connection, target)
    except FAILURES as error:
        raise store_error(error, parsed) from None
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """
    The revision that the schema of a database has, or None; for operators.  Blocks.

    :raises StoreError: if the database cannot be read.
    """
    parsed = parse_url(url)
    if is_embedded(parsed) and not Path(str(parsed.database)).exists():
        return None
    engine = make_engine(parsed, connections=1, timeout=_LOOK_SECONDS)
    try:
        with engine.connect() as connection:
            connection.execution_options(**{READ_ONLY: True})
            return revision(connection)
    except FAILURES as error:
        raise store_error(error, parsed) from None
    finally:
        engine.dispose()


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """Only one process migrates.  On SQLite its transaction has the lock already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_NUMBER})
        yield
    elif connection.dialect.name in ("mysql", "mariadb"):
        # One for each database of the server.
        lock = {"lock": f"fxprofile {connection.engine.url.database}"[:64]}
        seconds = {"seconds": _LOCK_SECONDS}
        query = text("SELECT GET_LOCK(:lock, :seconds)")
        if connection.execute(query, lock | seconds).scalar() != 1:
            raise StoreError("mysql: another migration did not end in time")
        try:
            yield
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:lock)"), lock)
    else:
        yield


def _upgrade(connection: Connection, target: str) -> tuple[str | None, str]:
    # Imported here because most processes find the schema as they need it, and this
    # takes longer than the rest of their start.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["transactional_ddl"] = connection.dialect.name in ("sqlite", "postgresql")
    before = revision(connection)
    if before is not None and before not in _known():
        raise _unknown(before)
    command.upgrade(config, target)
    return before, revision(connection) or target


def _known() -> set[str]:
    """The revisions that this version has, each in a file that is named after it."""
    names = (path.name for path in (SCRIPTS / "versions").glob("v*.py"))
    return {name.removeprefix("v").partition("_")[0] for name in names}


def _unknown(found: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"the schema of the database is {found}, which this version does not know:"
        " a newer fxprofile made it, or another program"
    )
