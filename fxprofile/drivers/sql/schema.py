"""
The tables.

:mod:`fxprofile.drivers.sql.migrations` makes them; a test holds the two against each
other on every kind of database.
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


class Exact(TypeDecorator[str]):
    """
    A short text that equals nothing but itself.

    MySQL compares texts by a collation, and even a binary one takes no notice of blanks
    at the end: there these are bytes.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self._length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(VARBINARY(self._length * 4))
        return dialect.type_descriptor(String(self._length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        if value is not None and dialect.name in ("mysql", "mariadb"):
            return value.encode()
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


#: SQLite gives numbers of its own only to a primary key of this very type.
Serial = BigInteger().with_variant(Integer, "sqlite")

_OPTIONS: Final[dict[str, Any]] = {
    # A number that was given once is not given again, even if its row is gone.
    "sqlite_autoincrement": True,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

metadata = MetaData()

#: One row for each accepted upload.
#:
#: ``owed_since`` is when the row came into a state in which it waits for a job and its
#: result: None once nothing is owed any more.  For a row in ``replaced`` that means
#: that its objects are gone.  ``updated`` is when the status last changed.
#: ``variants`` is what the worker said of the pictures, in JSON; ``placeholder`` is a
#: BlurHash of them.
avatars = Table(
    "avatars",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("id", Exact(32), nullable=False),
    Column("uid", Exact(64), nullable=False),
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

#: One row for each user who ever uploaded an avatar or set a name.
#:
#: ``selected_seq`` is a high-water mark: only an upload above it is ever selected.
#: ``removed_at`` is set when the account was deleted; the row goes with the last avatar.
profiles = Table(
    "profiles",
    metadata,
    Column("uid", Exact(64), primary_key=True),
    Column("display_name", String(256)),
    Column("avatar_id", Exact(32)),
    Column("selected_seq", BigInteger, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("removed_at", Double),
    **_OPTIONS,
)

#: Who does what only one process may do at a time.
leases = Table(
    "leases",
    metadata,
    Column("name", Exact(32), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("expires", Double, nullable=False),
    **_OPTIONS,
)

#: The messages of every queue.
#:
#: A message can be received once ``visible_at`` is past; ``receipt`` names the last
#: receipt.
queue_messages = Table(
    "queue_messages",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("queue", Exact(64), nullable=False),
    Column("body", Text().with_variant(MEDIUMTEXT, "mysql", "mariadb"), nullable=False),
    Column("sent", Double, nullable=False),
    Column("visible_at", Double, nullable=False),
    Column("receive_count", Integer, nullable=False),
    Column("receipt", Exact(32)),
    Index("queue_messages_visible", "queue", "visible_at"),
    **_OPTIONS,
)
