"""What Alembic runs to get its connection; :mod:`fxprofile.drivers.sql.migrate` gives it."""

from alembic import context

from fxprofile.drivers.sql import mysql_ddl  # noqa: F401 - Alembic finds it by its dialect
from fxprofile.drivers.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can; Alembic does not count on it because the sqlite3 module gets in the way
    # unless it is told to leave transactions alone, as fxprofile.drivers.sql.connect does.
    transactional_ddl=context.config.attributes["transactional_ddl"],
)

with context.begin_transaction():
    context.run_migrations()
