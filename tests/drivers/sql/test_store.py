"""
Tests of the profile store on SQL.
"""

from __future__ import annotations

from fxprofile.drivers.sql.store import SqlProfileStore
from tests.contracts.store import StoreContract
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend


class SqlStoreContract(StoreContract, Backend):
    """The contract on a database that is empty at the start of each test."""

    async def make_store(self) -> SqlProfileStore:
        return SqlProfileStore(self.open(self.empty_url()))


class SqliteStoreTests(SqliteBackend, SqlStoreContract):
    """The store on SQLite fulfils the contract."""


class MariadbStoreTests(MariadbBackend, SqlStoreContract):
    """The store on MariaDB fulfils the contract."""


class PostgresqlStoreTests(PostgresqlBackend, SqlStoreContract):
    """The store on PostgreSQL fulfils the contract."""


# What is no test case of its own is not to be found by the runner.
del SqlStoreContract, StoreContract, Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
