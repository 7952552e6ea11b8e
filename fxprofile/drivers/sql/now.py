"""The clock of the database, as an SQL expression."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class DatabaseNow(FunctionElement[float]):
    """
    The time of the database in seconds since the epoch, with fractions.

    It is that of the statement, so an index can be used to compare a column with it.  That of
    SQLite is the clock of the machine.
    """

    type = sa.Double()
    inherit_cache = True


@compiles(DatabaseNow)
def _standard(element: DatabaseNow, compiler: Any, **options: Any) -> str:
    return "extract(epoch from statement_timestamp())::double precision"


@compiles(DatabaseNow, "mysql", "mariadb")
def _mysql(element: DatabaseNow, compiler: Any, **options: Any) -> str:
    return "(UNIX_TIMESTAMP(NOW(6)) + 0e0)"


@compiles(DatabaseNow, "sqlite")
def _sqlite(element: DatabaseNow, compiler: Any, **options: Any) -> str:
    # The Julian day 2440587.5 is the epoch.
    return "((julianday('now') - 2440587.5) * 86400.0)"
