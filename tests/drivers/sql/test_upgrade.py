"""
Tests of upgrades and rollbacks: a version works on its own schema and on that of the next version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Inspector, create_engine, inspect, text
from twisted.internet.task import Clock

from fxprofile.drivers.sql.migrate import SchemaMismatch, current, is_usable, upgrade
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.drivers.sql.schema import REVISION
from fxprofile.drivers.sql.store import SqlProfileStore
from fxprofile.model.keys import new_id
from tests.drivers.sql import predecessor
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend
from tests.drivers.sql.test_migrate import revisions

PREDECESSOR = json.loads(predecessor.FILE.read_text())

_OWN = int(REVISION.partition("_")[0])

#: The schema of the next version, if it works with this version, and if it does not.
NEXT = f"{_OWN + 1:04}_from_{_OWN:04}"
TOO_NEW = f"{_OWN + 2:04}_from_{_OWN + 1:04}"

#: What a revision may do: add tables, optional columns and indexes.
EXPANSION = (
    "ALTER TABLE profiles ADD COLUMN colour VARCHAR(8)",
    "ALTER TABLE avatars ADD COLUMN votes INTEGER DEFAULT 0 NOT NULL",
    "CREATE INDEX avatars_votes ON avatars (votes)",
    "CREATE TABLE badges (seq INTEGER PRIMARY KEY, uid VARCHAR(64) NOT NULL)",
)

Shape = Mapping[tuple[str, str], Any]


def shape(inspector: Inspector) -> dict[tuple[str, str], Any]:
    """Return the columns, unique indexes and constraints of each table, by table and name."""
    found: dict[tuple[str, str], Any] = {}
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            found[table, column["name"]] = column
        for index in inspector.get_indexes(table):
            if index["unique"]:
                found[table, f"unique {index['column_names']}"] = None
        for check in inspector.get_check_constraints(table):
            found[table, f"check {check['sqltext']}"] = None
        for key in inspector.get_foreign_keys(table):
            found[table, f"foreign key {key['constrained_columns']}"] = None
    return found


def broken(before: Shape, after: Shape) -> list[str]:
    """Return each change of a schema that the version which uses the older one may fail on."""
    tables = {table for table, _ in before}
    problems = []
    for (table, name), column in after.items():
        if table not in tables:
            continue
        what = f"{table}.{name}"
        if (table, name) in before:
            older = before[table, name]
            if column and older["nullable"] and not column["nullable"]:
                problems.append(f"{what} is no longer optional")
            if column and str(older["type"]) != str(column["type"]):
                problems.append(f"{what} was {older['type']} and is {column['type']}")
        elif column is None:
            problems.append(f"{what} is a new constraint")
        elif not column["nullable"] and column["default"] is None:
            problems.append(f"{what} is new, required, and without a default")
    gone = [f"{table}.{name} is gone" for table, name in before if (table, name) not in after]
    return problems + [line for line in gone if "unique" not in line]


class UpgradeContract(Backend):
    """Two versions on one schema, on each kind of database."""

    def execute(self, url: str, *statements: str) -> None:
        """Run statements."""
        engine = create_engine(url)
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def shape(self, url: str) -> Shape:
        """Return the columns and constraints of a database."""
        engine = create_engine(url)
        found = shape(inspect(engine))
        engine.dispose()
        return found

    def failures(self, url: str) -> list[str]:
        """Return the statements of the previous version that fail."""
        engine = create_engine(url)
        with engine.connect() as connection:
            replayed = list(predecessor.replay(connection))
        engine.dispose()
        self.assertGreater(len(replayed), 50)
        return [f"{statement}: {error}" for statement, error in replayed if error]

    def next_schema(self, revision: str) -> str:
        """Return the URL of a database with the schema of the next version."""
        url = self.fresh_url()
        upgrade(url)
        self.execute(url, *EXPANSION, f"UPDATE alembic_version SET version_num = '{revision}'")
        return url

    def test_statements_of_the_previous_version(self) -> None:
        """Every statement of the previous version succeeds on the schema of this version."""
        url = self.fresh_url()
        upgrade(url)
        self.assertEqual(self.failures(url), [])

    def test_a_dropped_column_fails_statements(self) -> None:
        """The statements of the previous version detect that a column was renamed."""
        url = self.fresh_url()
        upgrade(url)
        self.execute(url, "ALTER TABLE profiles RENAME COLUMN monogram TO letter")
        failed = self.failures(url)
        self.assertTrue(failed)
        self.assertTrue(all("monogram" in failure for failure in failed))

    def test_revisions_only_expand(self) -> None:
        """A revision removes, renames or tightens nothing that the version before it uses."""
        known = revisions()
        before: Shape = {}
        for revision in known:
            url = self.fresh_url()
            upgrade(url, revision)
            after = self.shape(url)
            if known.index(revision) > known.index(PREDECESSOR["revision"]):
                # The previous version no longer uses what it does not name.
                used = PREDECESSOR["columns"]
                before = {
                    k: c for k, c in before.items() if c is None or k[1] in used.get(k[0], ())
                }
            self.assertEqual(broken(before, after), [], revision)
            before = after

    def test_contractions_are_detected(self) -> None:
        """A rename, a required column and a unique index are named as what they are."""
        url = self.fresh_url()
        upgrade(url)
        before = self.shape(url)
        self.execute(url, *EXPANSION)
        expanded = self.shape(url)
        self.assertEqual(broken(before, expanded), [])
        self.execute(
            url,
            "ALTER TABLE profiles RENAME COLUMN monogram TO letter",
            "CREATE UNIQUE INDEX avatars_two ON avatars (uid, seq)",
        )
        self.assertEqual(
            sorted(broken(expanded, self.shape(url))),
            ["avatars.unique ['uid', 'seq'] is a new constraint", "profiles.monogram is gone"],
        )

    async def test_this_version_works_on_the_next_schema(self) -> None:
        """After a newer version has migrated, this version starts, and uses store and queue."""
        url = self.next_schema(NEXT)
        for migrate in (True, False):
            database = self.open(url, migrate=migrate)
            store = SqlProfileStore(database)
            await store.set_display_name(uid="user", name="Zoë", now=1.0)
            profile = await store.profile(uid="user")
            self.assertEqual(profile.display_name, "Zoë")
            queue = DatabaseQueue(database, f"q-{new_id()}", 60, 5, Clock())
            await queue.send(body="hello")
            (message,) = await queue.receive(max_messages=1, wait=0)
            self.assertEqual(message.body, "hello")
        self.assertEqual(upgrade(url), (NEXT, NEXT))
        self.assertEqual(current(url), NEXT)

    async def test_schema_after_the_next_is_refused(self) -> None:
        """A schema whose revision excludes this version is refused, and left as it is."""
        url = self.next_schema(TOO_NEW)
        for migrate in (True, False):
            with self.assertRaises(SchemaMismatch) as caught:
                await self.open(url, migrate=migrate).ready()
            self.assertIn(f"{TOO_NEW}, which this version does not know", str(caught.exception))
        with self.assertRaises(SchemaMismatch):
            upgrade(url)
        self.assertEqual(current(url), TOO_NEW)

    def test_usable_revisions(self) -> None:
        """A schema is usable if it is this version's, or a newer one that names this version."""
        for revision, usable in {
            REVISION: True,
            NEXT: True,
            f"{_OWN + 5:04}_from_{_OWN - 2:04}": True,
            TOO_NEW: False,
            f"{_OWN + 1:04}": False,
            f"{_OWN - 1:04}_from_{_OWN - 2:04}": False,
            "9999": False,
            None: False,
        }.items():
            self.assertIs(is_usable(revision), usable, revision)


class SqliteUpgradeTests(SqliteBackend, UpgradeContract):
    """Upgrades of SQLite."""


class MariadbUpgradeTests(MariadbBackend, UpgradeContract):
    """Upgrades of MariaDB."""


class PostgresqlUpgradeTests(PostgresqlBackend, UpgradeContract):
    """Upgrades of PostgreSQL."""


# What is no test case of its own is not to be found by the runner.
del UpgradeContract, Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
