"""
The statements of the previous version of the service, which must work on the schema of this one.

    python -m tests.drivers.sql.predecessor

records those of the code in the current folder into ``predecessor.json``: it runs the tests of the
store and of the queues on every database.  Run it at a release, before the first revision of the
next one.  The file is recorded, and not made from the history, because the tests also run from an
sdist and a shallow clone, which have none.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

FILE = Path(__file__).with_name("predecessor.json")

_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")


class Recorder:
    """
    Records statements that succeeded, once each.

    :ivar statements: by the name of the dialect, and without the number of elements in a list.
    """

    def __init__(self) -> None:
        self.statements: dict[str, dict[str, tuple[str, Any]]] = {}
        event.listen(Engine, "after_cursor_execute", self._record)
        event.listen(Engine, "do_connect", self._connects)

    def _connects(self, dialect: Any, record: Any, args: Any, options: dict[str, Any]) -> None:
        """Record the statements that SQLite executes without SQLAlchemy."""
        record_one = self._record_one

        class Recording(sqlite3.Connection):
            def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
                cursor = super().execute(statement, values)
                record_one("sqlite", statement, values)
                return cursor

        if dialect.name == "sqlite":
            options["factory"] = Recording

    def _record(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any
    ) -> None:
        if isinstance(parameters, list):
            parameters = parameters[0]
        self._record_one(connection.dialect.name, statement, parameters)

    def _record_one(self, dialect: str, statement: str, parameters: Any) -> None:
        names = r"\b(avatars|profiles|leases|queue_messages)\b"
        if not statement.startswith(_VERBS) or not re.search(names, statement):
            return
        shape = re.sub(r"%\(\w+\)s(::\w+)?|\?|\d+", "?", statement)
        shape = re.sub(r"(\(*\?\)*, )+", "", shape)
        known = self.statements.setdefault(dialect, {})
        known.setdefault(shape, (statement, parameters))


def _encoded(value: Any) -> Any:
    return {"bytes": value.decode()} if isinstance(value, bytes) else value


def _decoded(value: Any) -> Any:
    return value["bytes"].encode() if isinstance(value, dict) else value


def _each(parameters: Any, function: Any) -> Any:
    if isinstance(parameters, dict):
        return {name: function(value) for name, value in parameters.items()}
    return [function(value) for value in parameters]


def record() -> None:
    """Run the tests of the current folder, and write the file."""
    from twisted.trial.reporter import MinimalReporter
    from twisted.trial.runner import TestLoader, TrialRunner

    from fxprofile.drivers.sql.schema import REVISION, metadata

    recorder = Recorder()
    loader = TestLoader()
    names = [f"tests.drivers.sql.test_{name}" for name in ("store", "queue")]
    suite = unittest.TestSuite([loader.loadByName(name) for name in names])
    result = TrialRunner(MinimalReporter).run(suite)
    if not result.wasSuccessful():
        raise SystemExit("a test failed, so the statements are not those of a working version")
    recorded = {
        "revision": REVISION,
        "columns": {
            table.name: [column.name for column in table.columns]
            for table in metadata.sorted_tables
        },
        "statements": {
            dialect: [
                [statement, _each(parameters, _encoded)]
                for _, (statement, parameters) in sorted(found.items())
            ]
            for dialect, found in sorted(recorder.statements.items())
        },
    }
    FILE.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


def replay(connection: Connection) -> Iterator[tuple[str, Exception | None]]:
    """
    Run each recorded statement in a transaction of its own, which is rolled back.

    :returns: each with its error, if it failed.
    """
    recorded = json.loads(FILE.read_text())["statements"]
    for statement, encoded in recorded[connection.dialect.name]:
        parameters = _each(encoded, _decoded)
        error = None
        try:
            connection.exec_driver_sql(
                statement, parameters if isinstance(parameters, dict) else tuple(parameters)
            )
        except Exception as failed:
            error = failed
        connection.rollback()
        yield statement, error


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    record()
