"""
What the transactions on profiles and avatars have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, insert, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import StoreError
from fxprofile.model.profiles import Profile

#: The least by which the time of a change of a profile is after that of the one before.
TICK: Final = 0.001

_PROFILE = select(
    profiles.c.uid,
    profiles.c.display_name,
    profiles.c.avatar_id,
    profiles.c.selected_seq,
    profiles.c.changed_at,
    profiles.c.removed_at,
)

#: What an :class:`fxprofile.model.avatars.Avatar` is made of, see :func:`to_avatar`.
AVATAR: Final = select(
    avatars.c.id,
    avatars.c.uid,
    avatars.c.seq,
    avatars.c.status,
    avatars.c.job_sent,
    avatars.c.created,
    avatars.c.error,
    avatars.c.placeholder,
)


def to_avatar(row: Any) -> Avatar:
    """Make the words of the service out of a row of :data:`AVATAR`."""
    return Avatar(
        id=row.id,
        uid=row.uid,
        seq=row.seq,
        status=Status(row.status),
        job_sent=row.job_sent,
        created=row.created,
        error=row.error,
        placeholder=row.placeholder,
    )


def avatar(connection: Connection, avatar_id: str) -> Avatar | None:
    """One avatar."""
    row = connection.execute(AVATAR.where(avatars.c.id == avatar_id)).one_or_none()
    return None if row is None else to_avatar(row)


def profile(connection: Connection, uid: str) -> Profile:
    """What is known of a user."""
    row = connection.execute(_PROFILE.where(profiles.c.uid == uid)).one_or_none()
    if row is None:
        return Profile(uid=uid)
    return Profile(
        uid=row.uid,
        display_name=row.display_name,
        avatar_id=row.avatar_id,
        changed_at=row.changed_at,
    )


def lock(connection: Connection, uid: str) -> Any:
    """
    The profile of a user, which nobody else changes until the transaction ends, as a
    row; None if there is none.

    Whatever concerns the selection of a user takes this lock before any other: so the
    transitions of one user come one after the other, and those of two users never wait
    for each other.
    """
    return connection.execute(_PROFILE.where(profiles.c.uid == uid).with_for_update()).one_or_none()


def lock_or_create(connection: Connection, uid: str) -> Any:
    """The same, of a user who need not be known yet."""
    for _ in range(3):
        row = lock(connection, uid)
        if row is not None:
            return row
        # What keeps this from being inserted may be gone when it is to be locked.
        insert_if_absent(connection, profiles, {"uid": uid, "selected_seq": 0, "changed_at": 0.0})
    row = lock(connection, uid)
    if row is None:
        raise StoreError("a profile came and went several times")
    return row


def insert_if_absent(connection: Connection, table: Any, *rows: Mapping[str, Any]) -> None:
    """Insert rows, but none whose primary key is there already."""
    dialect = connection.dialect.name
    statement: Any
    if dialect == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing()
    elif dialect == "postgresql":
        statement = postgresql.insert(table).on_conflict_do_nothing()
    else:
        # INSERT IGNORE would also ignore a value that does not fit.
        key = next(iter(table.primary_key))
        statement = mysql.insert(table).on_duplicate_key_update({key.name: key})
    connection.execute(statement, list(rows))


def change_profile(connection: Connection, row: Any, now: float, **values: Any) -> None:
    """
    Change what others see of a locked profile.

    The time of the change is later than that of the last one, whatever the clocks say.
    """
    changed_at = max(now, row.changed_at + TICK)
    connection.execute(
        update(profiles)
        .where(profiles.c.uid == row.uid)
        .values(changed_at=changed_at, removed_at=None, **values)
    )


def change_avatar(
    connection: Connection,
    avatar_id: str,
    statuses: tuple[Status, ...],
    *conditions: ColumnElement[bool],
    **values: Any,
) -> bool:
    """
    The one statement that every transition of an avatar is.

    :returns: whether the avatar was in one of these statuses.
    """
    result = connection.execute(
        update(avatars)
        .where(avatars.c.id == avatar_id, avatars.c.status.in_(statuses), *conditions)
        .values(**values)
    )
    return result.rowcount > 0


def insert_avatar(connection: Connection, uid: str, avatar_id: str, now: float) -> int:
    """
    Add a row in ``processing``, which owes a job.

    :returns: its number.
    """
    result = connection.execute(
        insert(avatars).values(
            id=avatar_id,
            uid=uid,
            status=Status.PROCESSING,
            owed_since=now,
            created=now,
            updated=now,
        )
    )
    key: Any = result.inserted_primary_key
    return int(key[0])
