"""
Tests of the files of embedded databases.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.sql.connect import make_engine, make_file, parse_url
from fxprofile.drivers.sql.migrate import ensure_schema


class EmbeddedTests(SynchronousTestCase):
    """An SQLite file."""

    def test_write_ahead_log_from_the_first_use(self) -> None:
        """A file has a write-ahead log from its first use, and opening it again succeeds."""
        path = Path(self.mktemp()).absolute()
        url = parse_url(f"sqlite:///{path}")
        make_file(url)
        engine = make_engine(url, connections=2, timeout=5)
        self.addCleanup(engine.dispose)
        for _ in range(2):
            ensure_schema(engine, migrate=True)
            with sqlite3.connect(path) as connection:
                mode = connection.execute("PRAGMA journal_mode").fetchone()
            connection.close()
            self.assertEqual(mode, ("wal",))
