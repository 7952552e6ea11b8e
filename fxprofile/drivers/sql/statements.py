"""
The statements of an upload and of frequent reads, each built once.

Building a statement takes SQLAlchemy several times as long as executing it.  Parameters of an
UPDATE that are named after columns are the new values; ``this`` is the row.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam

from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.profiles import Profile

AVATAR: Final = sa.select(*(avatars.c[field.name] for field in fields(Avatar)))

AVATAR_BY_ID: Final = AVATAR.where(avatars.c.id == bindparam("this"))

_PROFILE_COLUMNS = [profiles.c[field.name] for field in fields(Profile)]

PROFILE: Final = sa.select(*_PROFILE_COLUMNS).where(profiles.c.uid == bindparam("this"))

_selected, _newest = avatars.alias("selected"), avatars.alias("newest")

#: A profile, the placeholder of its avatar, and the id of a pending upload; every user with an
#: avatar has a profile.
CURRENT_AVATAR: Final = (
    sa.select(
        *_PROFILE_COLUMNS,
        _selected.c.placeholder,
        sa.case((_newest.c.status == Status.PROCESSING, _newest.c.id)).label("pending"),
    )
    .select_from(profiles)
    .outerjoin(_selected, _selected.c.id == profiles.c.avatar_id)
    .outerjoin(
        _newest,
        _newest.c.seq
        == sa.select(sa.func.max(avatars.c.seq))
        .where(avatars.c.uid == bindparam("this"), avatars.c.status != Status.DELETING)
        .scalar_subquery(),
    )
    .where(profiles.c.uid == bindparam("this"))
)

ADD_AVATAR: Final = sa.insert(avatars)

#: The uploads of a user in ``processing``, the newest first.
PROCESSING: Final = (
    sa.select(avatars.c.id)
    .where(avatars.c.uid == bindparam("this"), avatars.c.status == Status.PROCESSING)
    .order_by(avatars.c.seq.desc())
)


class LockedProfile(NamedTuple):
    """A row of the profiles, which is locked until the transaction ends."""

    uid: str
    display_name: str | None
    avatar_id: str | None
    selected_seq: int
    changed_at: float
    removed_at: float | None
    monogram: str | None


LOCK_PROFILE: Final = (
    sa.select(*(profiles.c[name] for name in LockedProfile._fields))
    .where(profiles.c.uid == bindparam("this"))
    .with_for_update()
)

CHANGE_PROFILE: Final = sa.update(profiles).where(profiles.c.uid == bindparam("this"))

REMOVE_DELETING: Final = sa.delete(avatars).where(
    avatars.c.id == bindparam("this"), avatars.c.status == Status.DELETING
)

#: Clears the pending delete job of an avatar whose row stays.
CLEAR_DELETE_JOB: Final = sa.update(avatars).where(
    avatars.c.id == bindparam("this"),
    # The values of IN would be written into the statement at each execution.
    sa.or_(avatars.c.status == Status.REPLACED, avatars.c.status == Status.FAILED),
    avatars.c.owed_since.is_not(None),
)

#: How many rows of a user wait for a job or its result.
PENDING_OF: Final = (
    sa.select(sa.func.count())
    .select_from(avatars)
    .where(avatars.c.uid == bindparam("this"), avatars.c.owed_since.is_not(None))
)

_IS_PENDING = avatars.c.owed_since.is_not(None)

#: The number of pending rows, up to a limit.
PENDING: Final = sa.select(sa.func.count()).select_from(
    sa.select(avatars.c.owed_since).where(_IS_PENDING).limit(bindparam("most")).subquery()
)

#: Since when the oldest row but some has waited.
PENDING_SINCE: Final = (
    sa.select(avatars.c.owed_since)
    .where(_IS_PENDING)
    .order_by(avatars.c.owed_since)
    .offset(bindparam("skip"))
    .limit(1)
)

NEWEST: Final = sa.select(sa.func.max(avatars.c.seq))


@cache
def transition(statuses: tuple[Status, ...]) -> sa.Update:
    """Return the UPDATE of an avatar in one of these statuses."""
    # The values of IN would be written into the statement at each execution.
    is_in = sa.or_(*(avatars.c.status == status for status in statuses))
    return sa.update(avatars).where(avatars.c.id == bindparam("this"), is_in)
