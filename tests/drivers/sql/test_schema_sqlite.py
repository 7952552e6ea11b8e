"""What an embedded database is like."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.sql.connect import make_engine, make_file, parse_url
from fxprofile.drivers.sql.migrate import ensure_schema


class EmbeddedTests(SynchronousTestCase):
    """A file of SQLite."""

    def test_write_ahead_log(self) -> None:
        """It has a write-ahead log from its first use, and opening it again is no error."""
        path = Path(self.mktemp()).absolute()
        make_file(path)
        engine = make_engine(parse_url(f"sqlite:///{path}"), connections=2, timeout=5)
        self.addCleanup(engine.dispose)
        for _ in range(2):
            ensure_schema(engine, migrate=True)
            with sqlite3.connect(path) as connection:
                mode = connection.execute("PRAGMA journal_mode").fetchone()
            connection.close()
            self.assertEqual(mode, ("wal",))
