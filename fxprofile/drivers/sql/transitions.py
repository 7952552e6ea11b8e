"""
What happens to the avatars of one user: each function is one transaction.

They run in a thread, with a connection in a transaction that somebody else commits.
:class:`fxprofile.drivers.sql.store.SqlProfileStore` says what each of them is for.

The order of the locks is always the profile of the user, then avatars.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, update

from fxprofile.drivers.sql import rows
from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.model.avatars import Avatar, Status, Variant

#: A late ready result of a failed upload is believed: its job was sent again.
BEFORE_READY: Final = (Status.PROCESSING, Status.FAILED)

#: What can be deleted.
PRESENT: Final = (Status.PROCESSING, Status.READY, Status.FAILED, Status.REPLACED)

#: The rows whose objects a delete job removes.
LEAVING: Final = (Status.DELETING, Status.REPLACED)


def accept(connection: Connection, avatar_id: str, uid: str, now: float) -> Avatar:
    # With the lock, the numbers of a user's uploads have the order of their commits.
    rows.lock_or_create(connection, uid)
    seq = rows.insert_avatar(connection, uid, avatar_id, now)
    return Avatar(
        id=avatar_id, uid=uid, seq=seq, status=Status.PROCESSING, job_sent=None, created=now
    )


def latest(connection: Connection, uid: str) -> Avatar | None:
    row = connection.execute(
        rows.AVATAR.where(avatars.c.uid == uid, avatars.c.status != Status.DELETING)
        .order_by(avatars.c.seq.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else rows.to_avatar(row)


def job_sent(connection: Connection, avatar_id: str, status: Status, now: float) -> None:
    rows.change_avatar(connection, avatar_id, (status,), job_sent=now)


def ready(
    connection: Connection,
    avatar_id: str,
    variants: Mapping[str, Variant],
    now: float,
    placeholder: str | None = None,
) -> Avatar | None:
    found = rows.avatar(connection, avatar_id)
    if found is None or found.status not in BEFORE_READY:
        return found
    profile = rows.lock_or_create(connection, found.uid)
    wins = found.seq > profile.selected_seq
    became_ready = rows.change_avatar(
        connection,
        avatar_id,
        BEFORE_READY,
        error=None,
        updated=now,
        variants=json.dumps({name: asdict(variant) for name, variant in variants.items()}),
        placeholder=placeholder,
        **({"status": Status.READY, "owed_since": None} if wins else _owing(Status.REPLACED, now)),
    )
    if became_ready and wins:
        if profile.avatar_id is not None:
            rows.change_avatar(
                connection,
                profile.avatar_id,
                (Status.READY,),
                updated=now,
                **_owing(Status.REPLACED, now),
            )
        rows.change_profile(connection, profile, now, avatar_id=avatar_id, selected_seq=found.seq)
    return rows.avatar(connection, avatar_id)


def failed(connection: Connection, avatar_id: str, reason: str, now: float) -> Avatar | None:
    fail(connection, avatar_id, reason, now)
    return rows.avatar(connection, avatar_id)


def fail(
    connection: Connection,
    avatar_id: str,
    reason: str,
    now: float,
    *conditions: ColumnElement[bool],
) -> bool:
    return rows.change_avatar(
        connection,
        avatar_id,
        (Status.PROCESSING,),
        *conditions,
        status=Status.FAILED,
        error=reason,
        owed_since=None,
        updated=now,
    )


def delete_one(connection: Connection, avatar_id: str, uid: str, now: float) -> bool:
    profile = rows.lock(connection, uid)
    deleted = rows.change_avatar(
        connection,
        avatar_id,
        PRESENT,
        avatars.c.uid == uid,
        updated=now,
        **_owing(Status.DELETING, now),
    )
    if deleted and profile is not None and profile.avatar_id == avatar_id:
        rows.change_profile(connection, profile, now, avatar_id=None)
    return deleted


def delete_current(connection: Connection, uid: str, now: float) -> Sequence[str]:
    profile = rows.lock(connection, uid)
    if profile is None:
        return []
    _raise_mark(connection, profile)
    ids = _delete_all(
        connection,
        uid,
        now,
        (avatars.c.status == Status.PROCESSING) | (avatars.c.id == profile.avatar_id),
    )
    if profile.avatar_id is not None:
        rows.change_profile(connection, profile, now, avatar_id=None)
    return ids


def delete_user(connection: Connection, uid: str, now: float) -> Sequence[str]:
    profile = rows.lock(connection, uid)
    if profile is None:
        return []
    _raise_mark(connection, profile)
    ids = _delete_all(connection, uid, now)
    if profile.avatar_id is not None or profile.display_name is not None:
        rows.change_profile(connection, profile, now, avatar_id=None, display_name=None)
    connection.execute(update(profiles).where(profiles.c.uid == uid).values(removed_at=now))
    forget_removed(connection, uid)
    return ids


def deleted(connection: Connection, avatar_id: str, now: float) -> Avatar | None:
    found = rows.avatar(connection, avatar_id)
    if found is None:
        return None
    rows.lock(connection, found.uid)
    result = connection.execute(
        delete(avatars).where(avatars.c.id == avatar_id, avatars.c.status == Status.DELETING)
    )
    if result.rowcount:
        forget_removed(connection, found.uid)
        return None
    rows.change_avatar(
        connection,
        avatar_id,
        (Status.REPLACED,),
        avatars.c.owed_since.is_not(None),
        owed_since=None,
        job_sent=now,
    )
    return rows.avatar(connection, avatar_id)


def redelete(connection: Connection, avatar_id: str) -> bool:
    return rows.change_avatar(
        connection, avatar_id, LEAVING, job_sent=None, owed_since=avatars.c.updated
    )


def set_display_name(connection: Connection, uid: str, name: str | None, now: float) -> None:
    profile = rows.lock(connection, uid) if name is None else rows.lock_or_create(connection, uid)
    if profile is not None and profile.display_name != name:
        rows.change_profile(connection, profile, now, display_name=name)


def forget_removed(connection: Connection, uid: str) -> None:
    """The last trace of a deleted account goes with its last avatar."""
    connection.execute(
        delete(profiles).where(
            profiles.c.uid == uid,
            profiles.c.removed_at.is_not(None),
            ~exists().where(avatars.c.uid == uid),
        )
    )


def _owing(status: Status, now: float) -> dict[str, Any]:
    return {"status": status, "job_sent": None, "owed_since": now}


def _raise_mark(connection: Connection, profile: Any) -> None:
    # So that a late result of what was uploaded so far does not bring a picture back.
    newest = connection.execute(
        select(func.max(avatars.c.seq)).where(avatars.c.uid == profile.uid)
    ).scalar()
    if newest is not None and newest > profile.selected_seq:
        connection.execute(
            update(profiles).where(profiles.c.uid == profile.uid).values(selected_seq=newest)
        )


def _delete_all(
    connection: Connection, uid: str, now: float, *conditions: ColumnElement[bool]
) -> Sequence[str]:
    candidates = connection.execute(
        select(avatars.c.id)
        .where(avatars.c.uid == uid, avatars.c.status.in_(PRESENT), *conditions)
        .order_by(avatars.c.seq)
    ).scalars()
    return [
        avatar_id
        for avatar_id in candidates.all()
        if rows.change_avatar(
            connection,
            avatar_id,
            PRESENT,
            *conditions,
            updated=now,
            **_owing(Status.DELETING, now),
        )
    ]
