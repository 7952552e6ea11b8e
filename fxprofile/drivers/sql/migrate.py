"""
Check the schema revision of a database, and create it, or upgrade it with Alembic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Final

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Dialect,
    Engine,
    MetaData,
    String,
    Table,
    inspect,
    text,
)

from fxprofile.drivers.sql.connect import (
    READ_ONLY,
    file_of,
    is_embedded,
    make_engine,
    make_file,
    parse_url,
)
from fxprofile.drivers.sql.failures import FAILURES, store_error
from fxprofile.drivers.sql.schema import REVISION, metadata
from fxprofile.model.errors import StoreError

#: Where Alembic finds its environment and the revisions.
SCRIPTS: Final = Path(__file__).parent / "migrations"

#: The oldest supported version of each database: the first one with SKIP LOCKED, or, for
#: SQLite, which has no row locks, with the upserts and DDL used here.
OLDEST: Final = {
    "sqlite": (3, 35),
    "mysql": (8, 0),
    "MariaDB": (10, 6),
    "postgresql": (12,),
}

#: The key of PostgreSQL's advisory lock for migrations: an arbitrary number.
_LOCK_NUMBER = 0x66787072
_LOCK_SECONDS = 60

#: Seconds that reading the revision may take.  Migrations have no limit.
_READ_SECONDS = 10.0

#: The id of a revision to which the versions of the service work whose own revision is at least
#: the second number, such as ``0009_from_0008``.
_REVISION_FORM = re.compile(r"(\d+)_from_(\d+)")

#: Alembic's own table.
_versions = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), primary_key=True)
)

# Alembic's context is a module global, so a process runs one migration at a time.
_migration_lock = Lock()


class SchemaMismatch(StoreError):
    """The schema of the database is not the one that this version requires."""


def revision(connection: Connection) -> str | None:
    """
    Return the revision of the schema, or None if there is no schema.

    :raises SchemaMismatch: if the database has tables of another program, the server is
        too old, or the encoding of the database is not UTF-8.
    """
    _check_version(connection.dialect)
    _check_encoding(connection)
    tables = set(inspect(connection).get_table_names())
    ours = sorted(tables.intersection(metadata.tables))
    if "alembic_version" not in tables:
        if ours:
            raise SchemaMismatch(
                f"a table {ours[0]} already exists, and belongs to another program:"
                " use a separate database"
            )
        return None
    found: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    if found is not None and not ours:
        raise SchemaMismatch(
            f"the schema revision {found} belongs to another program: use a separate database"
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
    # A server that was set up without a locale has SQL_ASCII.  On MySQL our tables set
    # their encoding.
    if connection.dialect.name == "postgresql":
        encoding = connection.execute(text("SHOW server_encoding")).scalar()
        if encoding != "UTF8":
            raise SchemaMismatch(
                f"the encoding of the database is {encoding}, and must be UTF8: create it"
                " with TEMPLATE template0 ENCODING 'UTF8'"
            )


def is_usable(found: str | None) -> bool:
    """
    Return whether this version works with a schema.

    It works with its own, and with a newer one whose revision says so: the processes of the
    previous version work on while a release is rolled out, and again if it is rolled back.

    :param found: the revision of the schema, or None if there is none.
    """
    if found == REVISION:
        return True
    newer = _REVISION_FORM.fullmatch(found or "")
    own = int(REVISION.partition("_")[0])
    return newer is not None and int(newer[2]) <= own < int(newer[1])


def ensure_schema(engine: Engine, *, migrate: bool) -> None:
    """
    Ensure that a database has a schema with which this version works.

    Several processes may run this at the same time, and the next one continues the
    migration of one that was killed.

    :param migrate: whether to create or upgrade the schema.
    :raises SchemaMismatch: if the schema is of another version and may not be changed, or
        of a newer version whose schema this version does not know how to use.
    """
    found = _read_revision(engine)
    if is_usable(found):
        return
    if not migrate:
        _check_known(found)
        raise SchemaMismatch(
            f"the schema of the database is {found or 'missing'},"
            f" and this version needs {REVISION}: run fxprofile-admin migrate"
        )
    _upgrade(engine, REVISION)


def upgrade(url: str, target: str = REVISION) -> tuple[str | None, str]:
    """
    Create or upgrade the schema of a database, for operators.  This blocks.

    :param url: as in :class:`fxprofile.drivers.sql.engine.Database`.
    :param target: the revision to upgrade to.
    :returns: the revision before and after; a newer one that this version works with stays.
    :raises SchemaMismatch: if the database comes from a newer version.
    :raises StoreError: if the upgrade failed.
    """
    parsed = parse_url(url)
    if not is_embedded(parsed):
        # This detects a server that accepts connections and never responds.
        current(url)
    with _opened(parsed, connections=0, timeout=0) as engine:
        make_file(parsed)
        return _upgrade(engine, target)


def current(url: str) -> str | None:
    """
    Return the revision of a database's schema, or None, for operators.  This blocks.

    :raises StoreError: if the database cannot be read.
    """
    parsed = parse_url(url)
    if is_embedded(parsed) and not file_of(parsed).exists():
        return None
    with _opened(parsed, connections=1, timeout=_READ_SECONDS) as engine:
        return _read_revision(engine)


@contextmanager
def _opened(url: URL, *, connections: int, timeout: float) -> Iterator[Engine]:
    """
    Open a database for an operator.

    :raises StoreError: if the database fails.
    """
    engine = make_engine(url, connections=connections, timeout=timeout)
    try:
        yield engine
    except FAILURES as error:
        raise store_error(error, url) from None
    finally:
        engine.dispose()


def _read_revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        connection.execution_options(**{READ_ONLY: True})
        return revision(connection)


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """Lock the database for a migration, for the rest of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK_NUMBER})
        yield
    elif connection.dialect.name in ("mysql", "mariadb"):
        # MySQL's named locks are per server, not per database.
        lock = {"lock": f"fxprofile {connection.engine.url.database}"[:64]}
        seconds = {"seconds": _LOCK_SECONDS}
        query = text("SELECT GET_LOCK(:lock, :seconds)")
        if connection.execute(query, lock | seconds).scalar() != 1:
            raise StoreError(f"mysql: another migration still runs after {_LOCK_SECONDS} s")
        try:
            yield
        finally:
            connection.execute(text("SELECT RELEASE_LOCK(:lock)"), lock)
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield


def _upgrade(engine: Engine, target: str) -> tuple[str | None, str]:
    is_transactional = engine.dialect.name in ("sqlite", "postgresql")
    with _migration_lock, engine.connect() as connection, connection.begin(), _locked(connection):
        before = revision(connection)
        if before is not None and before != REVISION and is_usable(before):
            return before, before
        _check_known(before)
        if before is None and target == REVISION and is_transactional:
            _create(connection)
        else:
            _run_revisions(connection, target, is_transactional=is_transactional)
        return before, revision(connection) or target


def _create(connection: Connection) -> None:
    """
    Create the schema in an empty database, as the revisions would, without Alembic.

    Alembic takes longer to import than the rest of a process's start, and 12 MB.
    """
    metadata.create_all(connection)
    _versions.create(connection)
    connection.execute(_versions.insert().values(version_num=REVISION))


def _run_revisions(connection: Connection, target: str, *, is_transactional: bool) -> None:
    # Imported here because most processes need no migration.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["transactional_ddl"] = is_transactional
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def known_revisions() -> set[str]:
    """Return the revisions that this version has; each file is named after its revision."""
    form = re.compile(r"v(\d+(?:_from_\d+)?)_")
    names = (form.match(path.name) for path in (SCRIPTS / "versions").glob("v*.py"))
    return {name[1] for name in names if name}


def _check_known(found: str | None) -> None:
    """Raise SchemaMismatch if this version does not have this revision."""
    if found is not None and found not in known_revisions():
        raise SchemaMismatch(
            f"the schema of the database is {found}, which this version does not know:"
            " it was created by a newer fxprofile or by another program"
        )
