"""
Statements of uploads, executed without the layers of SQLAlchemy on an embedded database.

For each execution SQLAlchemy makes a context, a result and its metadata, which takes several times
as long as SQLite takes for a short statement.  Here a statement that is built once is also compiled
once, and sqlite3 executes it.  On a database server SQLAlchemy executes everything: there the time
is that of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import Delete, Insert, Select, Update

if TYPE_CHECKING:
    import sqlite3

_DIALECT = sqlite.dialect(paramstyle="qmark")


def execute(
    connection: Connection,
    statement: Select[Any] | Insert | Update | Delete,
    parameters: Mapping[str, object],
) -> Any:
    """
    Execute a statement that is built once.

    :returns: a cursor, or a result with the same ``fetchone``, ``rowcount`` and rows.
    :raises DBAPIError: if the database refuses.
    """
    if connection.dialect.name != "sqlite":
        return connection.execute(statement, parameters)
    text, names, constants = _compiled(statement, tuple(parameters))
    values = {**constants, **parameters}
    return run(connection, text, [values[name] for name in names])


def insert(connection: Connection, statement: Insert, row: Mapping[str, object]) -> int:
    """
    Insert a row by a statement that is built once, and return the number that it gets.

    :raises DBAPIError: if the database refuses.
    """
    result = execute(connection, statement, row)
    if connection.dialect.name != "sqlite":
        return int(result.inserted_primary_key[0])
    return int(result.lastrowid)


def run(connection: Connection, text: str, values: list[object] | tuple[()] = ()) -> sqlite3.Cursor:
    """
    Execute the text of a statement on an embedded database.

    :raises DBAPIError: if it refuses.
    """
    dialect = connection.dialect
    try:
        return driver(connection).execute(text, values)
    except dialect.loaded_dbapi.Error as error:
        # As SQLAlchemy raises it, without the values.
        base = dialect.loaded_dbapi.Error
        raise DBAPIError.instance(text, None, error, base, True, dialect=dialect) from error


def driver(connection: Connection) -> sqlite3.Connection:
    """Return the connection of sqlite3 under one of SQLAlchemy."""
    found: Any = connection.connection.driver_connection
    return found


@cache
def _compiled(statement: Any, names: tuple[str, ...]) -> tuple[str, list[str], dict[str, Any]]:
    """
    Return the text of a statement, the names of its parameters in their order, and the values of
    those that are constants.

    :param names: of the parameters that it is executed with.
    """
    compiled = statement.compile(dialect=_DIALECT, column_keys=list(names))
    constants = {n: value for n, value in compiled.params.items() if n not in names}
    return str(compiled), list(compiled.positiontup), constants
