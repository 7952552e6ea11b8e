"""
What lets a migration of MySQL go on where an earlier one was killed.

There each statement that changes the schema is a transaction of its own, so a process
that dies in mid-migration leaves the first half of it.  The next one runs the whole
revision again and passes over what is there.  Tables that are not of this program never
come so far, see :func:`fxprofile.drivers.sql.migrate.revision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from alembic.ddl.mysql import MySQLImpl
from sqlalchemy.exc import DBAPIError

#: ER_TABLE_EXISTS_ERROR, ER_DUP_FIELDNAME, ER_DUP_KEYNAME.
_THERE: Final = {1050, 1060, 1061}


class ResumingImpl(MySQLImpl):
    """How Alembic changes a schema of MySQL or MariaDB."""

    __dialect__ = "mysql"

    def create_table(self, *args: Any, **keywords: Any) -> None:
        with _unless_there():
            super().create_table(*args, **keywords)

    def create_index(self, *args: Any, **keywords: Any) -> None:
        with _unless_there():
            super().create_index(*args, **keywords)

    def add_column(self, *args: Any, **keywords: Any) -> None:
        with _unless_there():
            super().add_column(*args, **keywords)


@contextmanager
def _unless_there() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        arguments = getattr(error.orig, "args", ())
        if not arguments or arguments[0] not in _THERE:
            raise
