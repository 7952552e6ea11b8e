"""The statements of the quarantine: pictures that may not be uploaded again."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from fxprofile.drivers.sql.direct import execute
from fxprofile.drivers.sql.schema import avatars, quarantine
from fxprofile.model.avatars import QUARANTINED, QuarantineEntry, Status
from fxprofile.model.errors import Quarantined

_IN_FORCE = quarantine.c.lifted.is_(None)


def refuse_quarantined(connection: Connection, **digests: str | None) -> None:
    """
    Refuse a picture that is quarantined.

    :param digests: by the name of their column; None if unknown.
    :raises Quarantined: if an entry in force has one of them.
    """
    known = {name: digest for name, digest in digests.items() if digest is not None}
    if known and execute(connection, _entry(tuple(known)), known).fetchone() is not None:
        raise Quarantined


@cache
def _entry(names: tuple[str, ...]) -> sa.Select[tuple[int]]:
    """Return the query of an entry in force with one of some digests; built once."""
    same = [quarantine.c[name] == sa.bindparam(name) for name in names]
    return sa.select(quarantine.c.seq).where(_IN_FORCE, sa.or_(*same)).limit(1)


def insert_entry(connection: Connection, entry: QuarantineEntry, now: float) -> int:
    """Add an entry, which is in force, and return its number."""
    row = sa.insert(quarantine).values(**asdict(entry), created=now)
    number = next(iter(connection.execute(row).inserted_primary_key or ()))
    return int(number)


def lift_entry(connection: Connection, number: int, by: str, reason: str, now: float) -> bool:
    """Lift an entry, unless it is lifted already."""
    lifted = {"lifted": now, "lifted_by": by, "lift_reason": reason}
    this = sa.update(quarantine).where(quarantine.c.seq == number, _IN_FORCE)
    return connection.execute(this.values(**lifted)).rowcount > 0


def is_public() -> ColumnElement[bool]:
    """
    Return the condition that the pictures of a row are public, or may become so.

    An upload may fail after a worker has put its pictures; those of one that failed because it is
    quarantined are deleted already.
    """
    return sa.or_(
        avatars.c.status.in_((Status.PROCESSING, Status.READY)),
        (avatars.c.status == Status.FAILED) & (avatars.c.error != QUARANTINED),
        (avatars.c.status == Status.REPLACED) & avatars.c.owed_since.is_not(None),
    )


def shows(**members: str | None) -> ColumnElement[bool]:
    """
    Return the condition that a row of the avatars is, or shows, a picture.

    :param members: some of ``id``, ``source_digest`` and ``pixels_digest``; any one suffices.
    """
    same = [avatars.c[name] == value for name, value in members.items() if value is not None]
    return sa.or_(sa.false(), *same)


def recent_pictures(connection: Connection, since: float, limit: int) -> list[ColumnElement[bool]]:
    """Return, for each entry in force since a time, the condition that a row shows its picture."""
    columns = (quarantine.c.avatar_id, quarantine.c.source_digest, quarantine.c.pixels_digest)
    recent = sa.select(*columns).where(_IN_FORCE, quarantine.c.created >= since)
    rows = connection.execute(recent.order_by(quarantine.c.seq.desc()).limit(limit))
    return [shows(id=named, source_digest=s, pixels_digest=p) for named, s, p in rows]
