"""
Tests of the profile store on SQL.
"""

from __future__ import annotations

import time

from sqlalchemy import create_engine

from fxprofile.drivers.sql.store import SqlProfileStore
from fxprofile.model.errors import StoreError
from tests.contracts.store import StoreContract
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend


class SqlStoreContract(StoreContract, Backend):
    """The contract on a database that is empty at the start of each test."""

    async def make_store(self) -> SqlProfileStore:
        return SqlProfileStore(self.open(self.empty_url()))

    async def test_check_returns_the_time_of_the_database(self) -> None:
        """A health check returns the database's time, which is that of this machine here."""
        store = await self.make_store()
        for _ in range(2):
            self.assertLess(abs(await store.check() - time.time()), 600)


class SqliteStoreTests(SqliteBackend, SqlStoreContract):
    """The store on SQLite fulfils the contract."""

    async def test_check_fails_if_another_process_holds_the_lock(self) -> None:
        """The health check of a database that another process has locked fails."""
        url = self.empty_url()
        store = SqlProfileStore(self.open(url, timeout=0.5))
        await store.check()
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            with self.assertRaises(StoreError):
                await store.check()
        engine.dispose()


class MariadbStoreTests(MariadbBackend, SqlStoreContract):
    """The store on MariaDB fulfils the contract."""


class PostgresqlStoreTests(PostgresqlBackend, SqlStoreContract):
    """The store on PostgreSQL fulfils the contract."""


# What is no test case of its own is not to be found by the runner.
del SqlStoreContract, StoreContract, Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
