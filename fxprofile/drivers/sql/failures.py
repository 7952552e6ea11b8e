"""
Classify the errors of SQLAlchemy and the database drivers.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fxprofile.model.errors import StoreError

#: Errors of a transaction that the database or a value causes.  Any other error is a bug
#: and is not translated.
FAILURES: Final = (SQLAlchemyError, OSError, UnicodeError, OverflowError)

#: SQLITE_BUSY and SQLITE_LOCKED, without the bits of the extended codes.
_SQLITE_LOCKED = {5, 6}

#: ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK and ER_CHECKREAD of MySQL; serialization_failure,
#: deadlock_detected and lock_not_available of PostgreSQL.
_CONFLICTS = {1205, 1213, 1020, "40001", "40P01", "55P03"}

#: The server or the transaction is read-only: three codes of MySQL, and PostgreSQL's
#: read_only_sql_transaction, or feature_not_supported if a standby is to begin a transaction
#: that is explicitly READ WRITE, as the first one is on a connection that has read before.
_READ_ONLY = {1290, 1792, 1836, "25006", "0A000"}

_MAX_TEXT = 500


class TransientError(StoreError):
    """The transaction was rolled back, and may succeed when it is run again."""


def _is_conflict(error: BaseException) -> bool:
    """Return whether the transaction was rolled back because of a concurrent one."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_LOCKED
    return _code(error.orig) in _CONFLICTS


def is_read_only(error: BaseException | None) -> bool:
    """
    Return whether a database server refused to write.

    After a failover, that is the response on every connection to the old primary.

    :param error: of the database driver.
    """
    return _code(error) in _READ_ONLY


def _code(error: BaseException | None) -> object:
    """Return the SQLSTATE of a PostgreSQL error, or the number of a MySQL error."""
    arguments = getattr(error, "args", None) or (None,)
    return getattr(error, "sqlstate", arguments[0])


def store_error(error: BaseException, url: URL, *, committing: bool = False) -> StoreError:
    """
    Translate an error of a driver to a :class:`fxprofile.model.errors.StoreError`.

    Its text is the message of the driver in one line, without the statement, its values
    and the password.

    :param committing: whether the transaction was being committed: if the connection broke
        then, the commit may have happened.
    :returns: a :class:`TransientError` after a conflict with another transaction, and if the
        connection broke before the commit, because a new one may work.
    """
    cause, is_transient = error, _is_conflict(error)
    if isinstance(error, DBAPIError):
        cause = error.orig or error
        is_transient |= error.connection_invalidated and not committing
    # The other parts of a PostgreSQL error quote the values of the row.
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    if url.password:
        text = text.replace(str(url.password), "***")
    text = " ".join(text.split())[:_MAX_TEXT]
    kind = TransientError if is_transient else StoreError
    return kind(f"{url.get_backend_name()}: {type(cause).__name__}: {text}")
