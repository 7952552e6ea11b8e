"""
Tests of the schema and its migrations; :mod:`tests.drivers.sql.test_upgrade` has two versions.
"""

from __future__ import annotations

import sqlite3
from itertools import count
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Dialect, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.dialects.postgresql import dialect as postgresql_dialect
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.sql.connect import file_of, is_embedded, make_file
from fxprofile.drivers.sql.migrate import (
    SCRIPTS,
    SchemaMismatch,
    _check_version,
    current,
    known_revisions,
    upgrade,
)
from fxprofile.drivers.sql.schema import REVISION, metadata
from fxprofile.model.errors import StoreError
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend
from tests.support.servers import postgresql


def revisions() -> list[str]:
    """Every revision, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in scripts][::-1]


class RevisionsTests(SynchronousTestCase):
    """The revision files."""

    def test_required_revision_is_the_newest(self) -> None:
        """The revision that the service requires is the newest one."""
        self.assertEqual(revisions()[-1], REVISION)

    def test_files_are_named_after_revisions(self) -> None:
        """Each revision is in a file that is named after it."""
        self.assertEqual(sorted(known_revisions()), sorted(revisions()))

    def test_revisions_do_not_import_the_service(self) -> None:
        """No revision imports the package, which changes while revisions do not."""
        for path in Path(SCRIPTS, "versions").glob("*.py"):
            self.assertNotIn("import fxprofile", path.read_text())
            self.assertNotIn("from fxprofile", path.read_text())


class Stopped(Exception):
    """An upgrade ends here."""


class VersionTests(SynchronousTestCase):
    """Supported server versions."""

    def check(self, dialect: Dialect, *version: int) -> None:
        dialect.server_version_info = version
        _check_version(dialect)

    def test_supported_versions(self) -> None:
        """Supported versions are accepted."""
        self.check(sqlite.dialect(), 3, 40, 1)
        self.check(mysql.dialect(), 8, 0, 36)
        self.check(mysql.dialect(is_mariadb=True), 10, 6, 0)
        self.check(mysql.dialect(is_mariadb=True), 11, 4)
        self.check(postgresql_dialect(), 12)
        self.check(postgresql_dialect(), 15, 19)

    def test_versions_that_are_too_old(self) -> None:
        """A version that is too old is refused with the oldest supported one."""
        for dialect, version, said in (
            (mysql.dialect(), (5, 7, 44), "mysql 5.7.44 is too old: 8.0 or later"),
            (mysql.dialect(is_mariadb=True), (10, 5, 23), "MariaDB 10.5.23 is too old: 10.6"),
            (postgresql_dialect(), (11, 22), "postgresql 11.22 is too old: 12 or later"),
        ):
            with self.assertRaises(SchemaMismatch) as caught:
                self.check(dialect, *version)
            self.assertIn(said, str(caught.exception))


class StopAfter:
    """
    Lets so many statements pass that change the schema, and no other after them.

    :ivar last: the last one that passed.
    """

    def __init__(self, statements: int) -> None:
        self._left = statements
        self.last = ""

    def __enter__(self) -> StopAfter:
        event.listen(Engine, "before_cursor_execute", self._look)
        return self

    def __exit__(self, *error: object) -> None:
        event.remove(Engine, "before_cursor_execute", self._look)

    def _look(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        verb = statement.split()[0].upper()
        if self._left == 0 and verb not in ("SELECT", "PRAGMA", "ROLLBACK"):
            raise Stopped
        if verb in ("CREATE", "ALTER"):
            self._left -= 1
            self.last = statement


class MigrationContract(Backend):
    """Migrations on each kind of database."""

    def execute(self, url: str, *statements: str) -> None:
        parsed = make_url(url)
        if is_embedded(parsed):
            make_file(parsed)
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def difference(self, url: str) -> Any:
        """Return the changes that Alembic would make to match our tables."""
        engine = create_engine(url)
        with engine.connect() as connection:
            found = compare_metadata(MigrationContext.configure(connection), metadata)
        engine.dispose()
        return found

    def test_migrations_create_the_tables(self) -> None:
        """Migrations from any revision create exactly the tables of the service."""
        for revision in revisions():
            url = self.fresh_url()
            self.assertIsNone(current(url))
            self.assertEqual(upgrade(url, revision), (None, revision))
            self.assertEqual(current(url), revision)
            self.assertEqual(upgrade(url), (revision, REVISION))
            self.assertEqual(self.difference(url), [])

    def test_new_schema_equals_a_migrated_one(self) -> None:
        """A new database has the columns, indexes and revision of one that was migrated."""
        schemas = []
        for first in (REVISION, revisions()[0]):
            url = self.fresh_url()
            upgrade(url, first)
            upgrade(url)
            schemas.append(self.schema(url))
        self.assertEqual(*schemas)

    def test_difference_is_detected(self) -> None:
        """The comparison detects an additional column."""
        url = self.fresh_url()
        upgrade(url)
        self.execute(url, "ALTER TABLE leases ADD COLUMN extra INTEGER")
        self.assertEqual([change[0] for change in self.difference(url)], ["remove_column"])

    def test_repeated_upgrade(self) -> None:
        """An upgrade of a current schema changes nothing."""
        url = self.fresh_url()
        upgrade(url)
        self.assertEqual(upgrade(url), (REVISION, REVISION))

    def test_upgrade_keeps_rows(self) -> None:
        """An upgrade keeps the rows of the first revision."""
        url = self.fresh_url()
        upgrade(url, revisions()[0])
        self.execute(
            url,
            "INSERT INTO avatars (id, uid, status, job_sent, created, updated)"
            " VALUES ('aaaa', 'user', 'ready', 2.5, 1.5, 3.5)",
            "INSERT INTO profiles (uid, display_name, avatar_id, selected_seq, changed_at)"
            " VALUES ('user', 'Zoë', 'aaaa', 1, 3.5)",
        )
        upgrade(url)
        engine = create_engine(url)
        with engine.connect() as connection:
            avatar = connection.execute(metadata.tables["avatars"].select()).one()
            profile = connection.execute(metadata.tables["profiles"].select()).one()
        engine.dispose()
        self.assertEqual((avatar.id, avatar.uid, avatar.status), ("aaaa", "user", "ready"))
        self.assertEqual((avatar.job_sent, avatar.created), (2.5, 1.5))
        self.assertEqual((profile.display_name, profile.avatar_id), ("Zoë", "aaaa"))

    async def test_concurrent_upgrades(self) -> None:
        """Several processes can upgrade at the same time."""
        url = self.fresh_url()
        databases = [self.open(url, migrate=True) for _ in range(3)]
        upgrades = [deferToThread(upgrade, url) for _ in range(3)]
        for database in databases:
            await database.ready()
        for success, outcome in await DeferredList(upgrades, consumeErrors=True):
            self.assertTrue(success, outcome)
        self.assertEqual(self.difference(url), [])

    async def test_newer_schema_is_refused(self) -> None:
        """A schema of a newer version is refused, whether or not migrations are allowed."""
        url = self.fresh_url()
        upgrade(url)
        self.execute(url, "UPDATE alembic_version SET version_num = '9999'")
        for migrate in (True, False):
            with self.assertRaises(SchemaMismatch) as caught:
                await self.open(url, migrate=migrate).ready()
            self.assertIn("9999, which this version does not know", str(caught.exception))
        with self.assertRaises(SchemaMismatch):
            upgrade(url)
        self.assertEqual(current(url), "9999")

    async def test_table_of_another_program_is_refused(self) -> None:
        """
        A database with a table of the same name from another program is refused and unchanged.
        """
        url = self.fresh_url()
        self.execute(url, "CREATE TABLE profiles (id INTEGER)")
        for _ in range(2):
            with self.assertRaises(SchemaMismatch) as caught:
                upgrade(url)
            self.assertIn("profiles already exists", str(caught.exception))
        with self.assertRaises(SchemaMismatch):
            await self.open(url, migrate=True).ready()
        self.assertEqual(self.tables(url), ["profiles"])

    async def test_revision_of_another_program_is_refused(self) -> None:
        """A database with another program's revision of the same name is refused and unchanged."""
        url = self.fresh_url()
        self.execute(
            url,
            "CREATE TABLE customers (id INTEGER)",
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
            f"INSERT INTO alembic_version VALUES ('{REVISION}')",
        )
        with self.assertRaises(SchemaMismatch) as caught:
            await self.open(url, migrate=True).ready()
        self.assertIn("another program", str(caught.exception))
        with self.assertRaises(SchemaMismatch):
            upgrade(url)
        with self.assertRaises(SchemaMismatch):
            current(url)
        self.assertEqual(self.tables(url), ["alembic_version", "customers"])

    def test_interrupted_upgrade_is_continued(self) -> None:
        """An upgrade interrupted after any statement is completed by the next one."""
        for revision in (None, *revisions()[:-1]):
            done = False
            for statements in count(1):
                url = self.fresh_url()
                if revision is not None:
                    upgrade(url, revision)
                with StopAfter(statements) as stop:
                    done = not self.is_stopped(url)
                if done:
                    break
                self.assertEqual(upgrade(url)[1], REVISION, f"after {stop.last}")
                self.assertEqual(self.difference(url), [], f"after {stop.last}")
            self.assertGreater(statements, 1)

    def is_stopped(self, url: str) -> bool:
        """Return whether an upgrade is stopped."""
        try:
            upgrade(url)
        except Stopped:
            return True
        return False

    def schema(self, url: str) -> dict[str, object]:
        """Return what the database says about each table."""
        engine = create_engine(url)
        found = inspect(engine)
        described: dict[str, object] = {
            table: (
                sorted(str(sorted(column.items())) for column in found.get_columns(table)),
                sorted(str(sorted(index.items())) for index in found.get_indexes(table)),
                found.get_pk_constraint(table)["constrained_columns"],
            )
            for table in found.get_table_names()
        }
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT version_num FROM alembic_version"))
            described["revision"] = rows.scalar_one()
        engine.dispose()
        return described

    def tables(self, url: str) -> list[str]:
        """Return the names of all tables."""
        engine = create_engine(url)
        names = inspect(engine).get_table_names()
        engine.dispose()
        return sorted(names)


class ServerMigrationContract(MigrationContract):
    """Migrations on a database server, where an operator runs them."""

    async def test_old_schema_is_refused_without_migrate(self) -> None:
        """Without permission to migrate, an old or missing schema is refused and unchanged."""
        url = self.fresh_url()
        for revision in (None, revisions()[0]):
            if revision:
                upgrade(url, revision)
            with self.assertRaises(SchemaMismatch) as caught:
                await self.open(url, migrate=False).ready()
            self.assertIn("fxprofile-admin migrate", str(caught.exception))
            self.assertEqual(current(url), revision)

    async def test_process_recovers_after_the_migration(self) -> None:
        """A process that refused an old schema works once the operator has migrated."""
        url = self.fresh_url()
        database = self.open(url, migrate=False)
        with self.assertRaises(SchemaMismatch):
            await database.run(lambda connection: None)
        upgrade(url)
        self.assertIsNone(await database.run(lambda connection: None))


class SqliteMigrationTests(SqliteBackend, MigrationContract):
    """Migrations of SQLite."""

    def test_failed_upgrade_is_rolled_back(self) -> None:
        """An upgrade that fails leaves the schema unchanged."""
        url = self.fresh_url()
        upgrade(url, revisions()[0])
        self.execute(url, "CREATE INDEX queue_messages_visible ON avatars (seq)")
        with self.assertRaises(StoreError):
            upgrade(url)
        self.assertEqual(current(url), revisions()[0])
        self.execute(url, "DROP INDEX queue_messages_visible")
        upgrade(url)
        self.assertEqual(self.difference(url), [])

    async def test_embedded_database_is_always_upgraded(self) -> None:
        """An embedded database is upgraded without a setting."""
        url = self.fresh_url()
        upgrade(url, revisions()[0])
        await self.open(url, migrate=False).ready()
        self.assertEqual(current(url), REVISION)

    def new_file(self, url: str) -> sqlite3.Connection:
        """Open a connection to a new empty file."""
        parsed = make_url(url)
        make_file(parsed)
        return sqlite3.connect(file_of(parsed), isolation_level=None)

    async def test_upgrade_waits_for_a_busy_file(self) -> None:
        """An upgrade waits for another process that writes to the new file."""
        url = self.fresh_url()
        other = self.new_file(url)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        upgrading = deferToThread(upgrade, url)
        await deferLater(reactor, 0.3)
        self.assertNoResult(upgrading)
        other.execute("ROLLBACK")
        await upgrading
        self.assertEqual(self.difference(url), [])

    def test_current_creates_no_file(self) -> None:
        """Reading the revision of a missing file does not create it."""
        url = self.fresh_url()
        self.assertIsNone(current(url))
        self.assertFalse(Path(url.removeprefix("sqlite:///")).exists())


class MariadbMigrationTests(MariadbBackend, ServerMigrationContract):
    """Migrations of MariaDB."""


class PostgresqlMigrationTests(PostgresqlBackend, ServerMigrationContract):
    """Migrations of PostgreSQL."""

    async def test_other_encodings_are_refused(self) -> None:
        """A database whose encoding is not UTF-8 is refused and unchanged."""
        for encoding in ("SQL_ASCII", "LATIN1"):
            server = postgresql.shared()
            name = f"test_{encoding.lower()}"
            server.create(name, encoding)
            url = server.url(name)
            with self.assertRaises(SchemaMismatch) as caught:
                await self.open(url, migrate=True).ready()
            self.assertIn(encoding, str(caught.exception))
            with self.assertRaises(SchemaMismatch):
                upgrade(url)
            self.assertEqual(self.tables(url + "?client_encoding=utf8"), [])


# What is no test case of its own is not to be found by the runner.
del ServerMigrationContract, MigrationContract
del Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
