"""
The tables.

:mod:`fxprofile.drivers.sql.migrations` creates them; a test compares the two on every
kind of database.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import MEDIUMTEXT, VARBINARY
from sqlalchemy.types import TypeEngine

#: The revision of the schema that this version of the service needs.
REVISION: Final = "0008"


class _Utf8Bytes(sa.TypeDecorator[str]):
    """A text that MySQL stores and compares as bytes."""

    impl = VARBINARY
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> bytes | None:
        return None if value is None else value.encode()

    def process_result_value(self, value: bytes | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.decode()


def _exact(length: int) -> TypeEngine[str]:
    """
    A short text that is compared by its exact characters.

    MySQL's collations, even the binary ones, ignore trailing spaces.
    """
    return sa.String(length).with_variant(_Utf8Bytes(length * 4), "mysql", "mariadb")


#: SQLite generates numbers only for a primary key of type INTEGER.
Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_OPTIONS: Final[dict[str, Any]] = {
    # A number is never reused, even after its row was removed.
    "sqlite_autoincrement": True,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}

metadata = sa.MetaData()

#: One row per accepted upload.
#:
#: ``owed_since`` is the time since which the row has waited for a job and its result, or
#: None if it does not; a ``replaced`` row with None has no objects any more.  ``updated``
#: is when the status last changed.  ``variants`` is the worker's description of the
#: pictures, in JSON; ``placeholder`` is their BlurHash.  ``source_digest`` is the SHA-256 of the
#: upload, ``pixels_digest`` that of the largest picture's pixels, in hex; None if unknown.
avatars = sa.Table(
    "avatars",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("id", _exact(32), nullable=False),
    sa.Column("uid", _exact(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("job_sent", sa.Double),
    sa.Column("owed_since", sa.Double),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("error", sa.String(32)),
    sa.Column("variants", sa.Text),
    sa.Column("placeholder", sa.String(64)),
    sa.Column("source_digest", _exact(64)),
    sa.Column("pixels_digest", _exact(64)),
    sa.Index("avatars_id", "id", unique=True),
    sa.Index("avatars_uid", "uid"),
    sa.Index("avatars_owed_since", "owed_since"),
    sa.Index("avatars_unsent", "job_sent", "owed_since"),
    sa.Index("avatars_status", "status", "updated"),
    sa.Index("avatars_source_digest", "source_digest"),
    sa.Index("avatars_pixels_digest", "pixels_digest"),
    **_OPTIONS,
)

#: One row per user who has uploaded an avatar, set a name, or been shown by a monogram.
#:
#: ``selected_seq`` is a high-water mark: only an upload above it can become selected.
#: ``removed_at`` is when the account was deleted.  The row then only prevents later writes of
#: the user's data, and is removed some weeks after the last avatar.
#: ``monogram`` is the letter of a user without an avatar, which has no part in ``changed_at``.
profiles = sa.Table(
    "profiles",
    metadata,
    sa.Column("uid", _exact(64), primary_key=True),
    sa.Column("display_name", sa.String(256)),
    sa.Column("avatar_id", _exact(32)),
    sa.Column("selected_seq", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.Column("removed_at", sa.Double),
    sa.Column("monogram", sa.String(8)),
    sa.Index("profiles_removed_at", "removed_at"),
    **_OPTIONS,
)

#: One row per decision to refuse a picture, which is in force until ``lifted``.  Rows are never
#: removed: they are the record of who decided what, when and why.  They hold no data of a user.
quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("source_digest", _exact(64)),
    sa.Column("pixels_digest", _exact(64)),
    sa.Column("avatar_id", _exact(32)),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("lifted", sa.Double),
    sa.Column("lifted_by", sa.String(255)),
    sa.Column("lift_reason", sa.Text),
    sa.Index("quarantine_source_digest", "source_digest"),
    sa.Index("quarantine_pixels_digest", "pixels_digest"),
    **_OPTIONS,
)

#: The holder of each task that only one process may run at a time.
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", _exact(32), primary_key=True),
    sa.Column("owner", sa.String(255), nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    **_OPTIONS,
)

#: The messages of all queues.
#:
#: A message can be received after ``visible_at``, which was set at ``hidden_at``; ``receipt`` is
#: the last receipt handle.
queue_messages = sa.Table(
    "queue_messages",
    metadata,
    sa.Column("seq", Serial, primary_key=True, autoincrement=True),
    sa.Column("queue", _exact(64), nullable=False),
    sa.Column("body", sa.Text().with_variant(MEDIUMTEXT, "mysql", "mariadb"), nullable=False),
    sa.Column("sent", sa.Double, nullable=False),
    sa.Column("visible_at", sa.Double, nullable=False),
    sa.Column("hidden_at", sa.Double),
    sa.Column("receive_count", sa.Integer, nullable=False),
    sa.Column("receipt", _exact(32)),
    sa.Index("queue_messages_visible", "queue", "visible_at"),
    **_OPTIONS,
)
