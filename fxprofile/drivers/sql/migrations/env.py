"""Alembic environment; the connection comes from :mod:`fxprofile.drivers.sql.migrate`."""

from alembic import context

from fxprofile.drivers.sql import mysql_ddl  # noqa: F401 - Alembic finds it by its dialect
from fxprofile.drivers.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can; Alembic does not rely on it because the sqlite3 module commits implicitly
    # unless it is in autocommit mode, as fxprofile.drivers.sql.connect has it.
    transactional_ddl=context.config.attributes["transactional_ddl"],
)

with context.begin_transaction():
    context.run_migrations()
