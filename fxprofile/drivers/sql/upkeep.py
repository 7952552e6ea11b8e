"""
What the repair loops ask for: each function is one transaction.

They run in a thread, with a connection in a transaction that somebody else commits.
:class:`fxprofile.drivers.sql.store.SqlProfileStore` says what each of them is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, delete, func, or_, select, update

from fxprofile.drivers.sql import rows, transitions
from fxprofile.drivers.sql.schema import avatars, leases
from fxprofile.model.avatars import Avatar, Status

_REPAIR: Final = "repair"


def unsent(connection: Connection, before: float, limit: int) -> Sequence[Avatar]:
    found = connection.execute(
        rows.AVATAR.where(avatars.c.owed_since < before, avatars.c.job_sent.is_(None))
        .order_by(avatars.c.owed_since, avatars.c.seq)
        .limit(limit)
    )
    return [rows.to_avatar(row) for row in found]


def stuck(connection: Connection, sent_before: float, limit: int) -> Sequence[Avatar]:
    found = connection.execute(
        rows.AVATAR.where(avatars.c.owed_since.is_not(None), avatars.c.job_sent < sent_before)
        .order_by(avatars.c.owed_since, avatars.c.seq)
        .limit(limit)
    )
    return [rows.to_avatar(row) for row in found]


def expire(
    connection: Connection, processing_before: float, now: float, limit: int
) -> Sequence[str]:
    candidates = connection.execute(
        select(avatars.c.id)
        .where(avatars.c.owed_since < processing_before, avatars.c.status == Status.PROCESSING)
        .order_by(avatars.c.owed_since, avatars.c.seq)
        .limit(limit)
    ).scalars()
    return [
        avatar_id
        for avatar_id in candidates.all()
        if transitions.fail(connection, avatar_id, "lost", now)
    ]


def purge(
    connection: Connection, failed_before: float, replaced_before: float, now: float, limit: int
) -> int:
    old = connection.execute(
        select(avatars.c.id)
        .where(avatars.c.status == Status.FAILED, avatars.c.updated < failed_before)
        .order_by(avatars.c.updated, avatars.c.seq)
        .limit(limit)
    ).scalars()
    changed = sum(
        rows.change_avatar(
            connection,
            avatar_id,
            (Status.FAILED,),
            status=Status.DELETING,
            job_sent=None,
            owed_since=now,
            updated=now,
        )
        for avatar_id in old.all()
    )
    done = (
        avatars.c.status == Status.REPLACED,
        avatars.c.updated < replaced_before,
        avatars.c.owed_since.is_(None),
    )
    gone = connection.execute(
        select(avatars.c.id, avatars.c.uid)
        .where(*done)
        .order_by(avatars.c.updated, avatars.c.seq)
        .limit(limit - changed)
    )
    for row in gone.all():
        changed += connection.execute(delete(avatars).where(avatars.c.id == row.id, *done)).rowcount
        transitions.forget_removed(connection, row.uid)
    return changed


def counts(connection: Connection) -> Mapping[Status, int]:
    found = connection.execute(
        select(avatars.c.status, func.count())
        .where(avatars.c.owed_since.is_not(None))
        .group_by(avatars.c.status)
    )
    waiting = dict.fromkeys((Status.PROCESSING, Status.DELETING, Status.REPLACED), 0)
    waiting.update({Status(status): number for status, number in found})
    return waiting


def leadership(connection: Connection, owner: str, now: float, seconds: float) -> bool:
    mine = {"owner": owner, "expires": now + seconds}
    taken = connection.execute(
        update(leases)
        .where(leases.c.name == _REPAIR, or_(leases.c.owner == owner, leases.c.expires <= now))
        .values(**mine)
    )
    if taken.rowcount:
        return True
    rows.insert_if_absent(connection, leases, {"name": _REPAIR, **mine})
    holder = connection.execute(select(leases.c.owner).where(leases.c.name == _REPAIR)).scalar()
    return bool(holder == owner)


def resign(connection: Connection, owner: str) -> None:
    connection.execute(delete(leases).where(leases.c.name == _REPAIR, leases.c.owner == owner))


def check(connection: Connection) -> None:
    connection.execute(select(1)).scalar()
