"""
The tables.

:mod:`fxprofile.drivers.sql.migrations` creates them; a test compares the two on every
kind of database.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.mysql import MEDIUMTEXT, VARBINARY
from sqlalchemy.types import TypeEngine

#: The revision of the schema that this version of the service needs.
REVISION: Final = "0003"


class _Utf8Bytes(TypeDecorator[str]):
    """A text that MySQL stores and compares as bytes."""

    impl = VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.decode()


def _exact(length: int) -> TypeEngine[str]:
    """
    A short text that is compared by its exact characters.

    MySQL's collations, even the binary ones, ignore trailing spaces.
    """
    return String(length).with_variant(_Utf8Bytes(length * 4), "mysql", "mariadb")


#: SQLite generates numbers only for a primary key of type INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")

_OPTIONS: Final[dict[str, Any]] = {
    # A number is never reused, even after its row was removed.
    "sqlite_autoincrement": True,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

metadata = MetaData()

#: One row per accepted upload.
#:
#: ``owed_since`` is the time since which the row has waited for a job and its result, or
#: None if it does not; a ``replaced`` row with None has no objects any more.  ``updated``
#: is when the status last changed.  ``variants`` is the worker's description of the
#: pictures, in JSON; ``placeholder`` is their BlurHash.
avatars = Table(
    "avatars",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", _exact(32), nullable=False),
    Column("uid", _exact(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("job_sent", Double),
    Column("owed_since", Double),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("error", String(32)),
    Column("variants", Text),
    Column("placeholder", String(64)),
    Index("avatars_id", "id", unique=True),
    Index("avatars_uid", "uid"),
    Index("avatars_owed_since", "owed_since"),
    Index("avatars_status", "status", "updated"),
    **_OPTIONS,
)

#: One row per user who has uploaded an avatar or set a name.
#:
#: ``selected_seq`` is a high-water mark: only an upload above it can become selected.
#: ``removed_at`` is set when the account is deleted; the row is removed with the last avatar.
profiles = Table(
    "profiles",
    metadata,
    Column("uid", _exact(64), primary_key=True),
    Column("display_name", String(256)),
    Column("avatar_id", _exact(32)),
    Column("selected_seq", BigInteger, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("removed_at", Double),
    **_OPTIONS,
)

#: The holder of each task that only one process may run at a time.
leases = Table(
    "leases",
    metadata,
    Column("name", _exact(32), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("expires", Double, nullable=False),
    **_OPTIONS,
)

#: The messages of all queues.
#:
#: A message can be received after ``visible_at``; ``receipt`` is the last receipt handle.
queue_messages = Table(
    "queue_messages",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("queue", _exact(64), nullable=False),
    Column("body", Text().with_variant(MEDIUMTEXT, "mysql", "mariadb"), nullable=False),
    Column("sent", Double, nullable=False),
    Column("visible_at", Double, nullable=False),
    Column("receive_count", Integer, nullable=False),
    Column("receipt", _exact(32)),
    Index("queue_messages_visible", "queue", "visible_at"),
    **_OPTIONS,
)
