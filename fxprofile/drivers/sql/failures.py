"""
What an error of SQLAlchemy or of a database driver means.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fxprofile.model.errors import StoreError

#: What a transaction can end with through the fault of the outside or of its values.
#: Any other error is a bug of ours and stays what it is.
FAILURES: Final = (SQLAlchemyError, OSError, UnicodeError, OverflowError)

#: SQLITE_BUSY and SQLITE_LOCKED, of which there are extended codes.
_SQLITE_LOCKED = {5, 6}

#: Lock wait timeout, deadlock, "record has changed since last read".
_MYSQL_CONFLICTS = {1205, 1213, 1020}

#: serialization_failure, deadlock_detected, lock_not_available.
_POSTGRESQL_CONFLICTS = {"40001", "40P01", "55P03"}

#: read_only_sql_transaction; the server is read-only, or the transaction is.
_POSTGRESQL_READ_ONLY = {"25006"}
_MYSQL_READ_ONLY = {1290, 1792, 1836}

_MAX_TEXT = 500


def is_conflict(error: BaseException) -> bool:
    """
    Whether another transaction was in the way, so that this one was rolled back and
    may pass if it is tried again.
    """
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_LOCKED
    return _code(error.orig) in _POSTGRESQL_CONFLICTS | _MYSQL_CONFLICTS


def is_read_only(error: BaseException | None) -> bool:
    """
    Whether a database server refuses to write, by its driver's error.

    After a failover that is what the connections to the old primary do, for as long as
    they last.
    """
    return _code(error) in _POSTGRESQL_READ_ONLY | _MYSQL_READ_ONLY


def _code(error: Any) -> Any:
    """The SQLSTATE of PostgreSQL's error, or the number of MySQL's."""
    if hasattr(error, "sqlstate"):
        return error.sqlstate
    arguments: tuple[Any, ...] = getattr(error, "args", ())
    return arguments[0] if arguments else None


def is_disconnect(error: BaseException) -> bool:
    """Whether the connection broke, so that another one may do."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def store_error(error: BaseException, url: URL) -> StoreError:
    """
    The :class:`fxprofile.model.errors.StoreError` for an error of a driver.

    Its text is what the driver says, in one line, without the statement, its values
    and the password.
    """
    cause: Any = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
    # What PostgreSQL says besides the message quotes the values of the row.
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    if url.password:
        text = text.replace(str(url.password), "***")
    text = " ".join(text.split())[:_MAX_TEXT]
    return StoreError(f"{url.get_backend_name()}: {type(cause).__name__}: {text}")
