"""
The kinds of database that the tests run on.

A test case inherits from one of them and from what it tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.drivers.sql import migrate
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.schema import metadata
from tests.support.servers import mariadb, postgresql
from tests.support.servers.sql import SqlServer


class Backend(TestCase):
    """Opens databases and closes them after the test."""

    def fresh_url(self) -> str:
        """The URL of an empty database without a schema."""
        raise NotImplementedError

    def empty_url(self) -> str:
        """The URL of a database with our schema and nothing in it."""
        raise NotImplementedError

    def open(self, url: str, **options: Any) -> Database:
        """A database that is started, and stopped after the test."""
        options.setdefault("migrate", False)
        database = Database(reactor, url, **options)
        database.startService()
        self.addCleanup(database.stopService)
        return database


class SqliteBackend(Backend):
    """A new file for each test."""

    def fresh_url(self) -> str:
        return f"sqlite:///{Path(self.mktemp()).absolute()}/profile.db"

    empty_url = fresh_url


class ServerBackend(Backend):
    """
    One server for all tests of a run, with one database that is emptied for each test.
    """

    server: Any

    _migrated: dict[Any, str] = {}  # noqa: RUF012

    def shared(self) -> SqlServer:
        server: SqlServer = self.server.shared()
        return server

    def fresh_url(self) -> str:
        return self.shared().new_database()

    def empty_url(self) -> str:
        url = self._migrated.get(self.server)
        if url is None:
            url = self._migrated[self.server] = self.fresh_url()
            migrate.upgrade(url)
            return url
        engine = create_engine(url)
        with engine.begin() as connection:
            for table in metadata.tables.values():
                connection.execute(table.delete())
        engine.dispose()
        return url


class MariadbBackend(ServerBackend):
    server = mariadb
    skip = mariadb.missing()


class PostgresqlBackend(ServerBackend):
    server = postgresql
    skip = postgresql.missing()
