"""
Writes imported names and avatars into our tables.

Each function is one transaction, and is idempotent.  What a user has changed here wins over
what is imported.  To tell the two apart, an imported profile has a time of change in the first
hours of 1970; the original server does not record the real time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, exists, select, update

from fxprofile.drivers.sql import store
from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.model.avatars import Status, Variant

#: The first time of change of an imported profile, in seconds since the epoch.
IMPORTED_AT: Final = 1.0

#: A later time of change is that of a user.
_UNTOUCHED_BEFORE: Final = 86400.0


class Fate(StrEnum):
    """The outcome of the import of a name or an avatar."""

    IMPORTED = "imported"
    UPDATED = "updated"
    THERE = "there already"
    CHANGED_HERE = "changed here"
    MONOGRAM = "monogram"
    NONE = "none"
    REFUSED = "refused"
    ELSEWHERE = "kept elsewhere"
    MISSING = "pictures missing"
    NOT_OWNED = "not the user's own"


#: The fates that an operator should look at.
NOT_IMPORTED: Final = (Fate.REFUSED, Fate.MISSING, Fate.NOT_OWNED)


def import_names(
    connection: Connection, names: Sequence[tuple[str, str | None]], *, dry_run: bool
) -> Iterable[Fate]:
    """
    Set names, or unset names that an earlier import set.

    :param names: uid and name, each uid once.
    :returns: the fate of each.
    """
    uids = [uid for uid, _ in names]
    known = {
        row.uid: row for row in connection.execute(select(profiles).where(profiles.c.uid.in_(uids)))
    }
    fates: list[Fate] = []
    new: list[dict[str, object]] = []
    for uid, name in names:
        row = known.get(uid)
        if row is None and name is None:
            fates.append(Fate.NONE)
        elif row is None:
            values = {"uid": uid, "display_name": name}
            new.append({**values, "selected_seq": 0, "changed_at": IMPORTED_AT})
            fates.append(Fate.IMPORTED)
        elif row.display_name == name:
            fates.append(Fate.THERE if name is not None else Fate.NONE)
        elif not _is_untouched(connection, row):
            fates.append(Fate.CHANGED_HERE)
        else:
            fates.append(Fate.UPDATED if row.display_name else Fate.IMPORTED)
            locked = None if dry_run else store.lock_profile(connection, uid)
            # Its user may have changed it before it was locked.
            if locked is not None and _is_untouched(connection, locked):
                store.change_profile(
                    connection, locked, IMPORTED_AT, display_name=name, monogram=None
                )
    if new and not dry_run:
        store.insert_if_absent(connection, profiles, *new)
    return fates


def standing(connection: Connection, uid: str, avatar_id: str) -> Fate | None:
    """
    Return why an avatar must not be imported.

    :returns: None if it must be.
    """
    profile = connection.execute(select(profiles).where(profiles.c.uid == uid)).one_or_none()
    if profile is not None and profile.avatar_id == avatar_id:
        return Fate.THERE
    row = store.find_avatar(connection, avatar_id)
    if row is not None or not _is_untouched(connection, profile, uid):
        # It was imported and then deleted or replaced; or the user has another one.
        return Fate.CHANGED_HERE
    return None


def select_avatar(
    connection: Connection,
    uid: str,
    avatar_id: str,
    variants: Mapping[str, Variant],
    placeholder: str | None,
    now: float,
) -> Fate:
    """
    Add an avatar whose pictures are in the public bucket, and select it.

    An avatar that an earlier import selected is replaced, and its pictures are deleted.

    :param now: in seconds since the epoch.
    """
    profile = store.lock_or_create_profile(connection, uid)
    fate = standing(connection, uid, avatar_id)
    if fate is not None:
        return fate
    store.insert_avatar(connection, uid, avatar_id, now)
    store.make_ready(connection, avatar_id, variants, now, placeholder)
    connection.execute(
        update(profiles)
        .where(profiles.c.uid == uid)
        .values(changed_at=max(IMPORTED_AT, profile.changed_at + store.TICK))
    )
    return Fate.IMPORTED if profile.avatar_id is None else Fate.UPDATED


def import_monogram(
    connection: Connection, uid: str, letter: str, now: float, *, dry_run: bool
) -> Fate:
    """
    Store the letter of a user who has a monogram.

    An avatar that an earlier import selected is replaced, and its pictures are deleted.

    :param now: in seconds since the epoch.
    """
    profile: Any
    if dry_run:
        profile = connection.execute(select(profiles).where(profiles.c.uid == uid)).one_or_none()
    else:
        profile = store.lock_or_create_profile(connection, uid)
    if not _is_untouched(connection, profile, uid):
        return Fate.CHANGED_HERE
    if profile is not None and not dry_run:
        if profile.avatar_id is not None:
            store.replace_avatar(connection, profile.avatar_id, now)
            store.change_profile(connection, profile, IMPORTED_AT, avatar_id=None)
        this = profiles.c.uid == uid
        connection.execute(update(profiles).where(this).values(monogram=letter))
    return Fate.MONOGRAM


def _is_untouched(connection: Connection, profile: Any, uid: str | None = None) -> bool:
    """Whether only imports have changed a profile."""
    if profile is not None and (
        profile.changed_at >= _UNTOUCHED_BEFORE or profile.removed_at is not None
    ):
        return False
    # An upload changes the profile only when it is ready.
    uploads = exists().where(
        avatars.c.uid == (profile.uid if profile is not None else uid),
        avatars.c.status.in_((Status.PROCESSING, Status.FAILED, Status.DELETING)),
    )
    return not connection.execute(select(uploads)).scalar()
