"""
Resumable MySQL migrations.

MySQL commits each DDL statement by itself, so a process that is killed in the middle of a
revision leaves its first half applied.  The next migration runs the whole revision again
and skips what exists.  A database with tables of another program is refused earlier, see
:func:`fxprofile.drivers.sql.migrate.revision`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec

from alembic.ddl.mysql import MySQLImpl
from sqlalchemy.exc import DBAPIError

P = ParamSpec("P")

#: ER_TABLE_EXISTS_ERROR, ER_DUP_FIELDNAME, ER_DUP_KEYNAME.
_EXISTS: Final = {1050, 1060, 1061}


def _if_absent(operation: Callable[P, None]) -> Callable[P, None]:
    @wraps(operation)
    def create(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            operation(*args, **kwargs)
        except DBAPIError as error:
            arguments = getattr(error.orig, "args", ())
            if not arguments or arguments[0] not in _EXISTS:
                raise

    return create


class ResumingImpl(MySQLImpl):
    """Alembic's operations for MySQL and MariaDB, which skip what exists."""

    __dialect__ = "mysql"

    create_table = _if_absent(MySQLImpl.create_table)
    create_index = _if_absent(MySQLImpl.create_index)
    add_column = _if_absent(MySQLImpl.add_column)
