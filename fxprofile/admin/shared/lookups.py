"""What the database and the buckets hold of an avatar, with all that only operators see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import ColumnElement, select

from fxprofile.admin.shared.output import moment
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.sql.schema import avatars
from fxprofile.model.errors import ObjectNotFound
from fxprofile.model.ports import IBucket, ObjectInfo


@dataclass
class AvatarRecord:
    """
    A row of the avatars table.

    :ivar updated: when the status last changed; all times are seconds since the epoch.
    :ivar job_sent: when its pending job was sent, None if that is still to do.
    :ivar owed_since: since when it has a pending job, None if it has none.
    """

    id: str
    uid: str
    seq: int
    status: str
    error: str | None
    created: float
    updated: float
    job_sent: float | None
    owed_since: float | None


#: Members of the JSON of a record that are times.
_TIMES = ("created", "updated", "job_sent", "owed_since")
_COLUMNS = [avatars.c[field.name] for field in fields(AvatarRecord)]


def record_members(record: AvatarRecord | None) -> dict[str, object]:
    """Return a record as JSON, with null for every member if there is none."""
    if record is None:
        return dict.fromkeys(field.name for field in fields(AvatarRecord))
    members = asdict(record)
    return members | {name: moment(members[name]) for name in _TIMES}


async def avatar_records(
    tools: Tools,
    *where: ColumnElement[bool],
    order: ColumnElement[object] = avatars.c.id,
    limit: int | None = None,
) -> Sequence[AvatarRecord]:
    """Return the records that match; the database is open."""
    query = select(*_COLUMNS).where(*where).order_by(order).limit(limit)
    rows = await tools.database.run(lambda c: c.execute(query).all(), read_only=True)
    return [AvatarRecord(*row) for row in rows]


async def avatar_record(tools: Tools, avatar_id: str) -> AvatarRecord | None:
    """Return the record of an avatar, or None; the database is open."""
    return next(iter(await avatar_records(tools, avatars.c.id == avatar_id)), None)


async def head(bucket: IBucket, key: str) -> ObjectInfo | None:
    """
    Return the size and age of an object, or None if there is no such object.

    :raises StorageError: if the bucket cannot be reached.
    """
    try:
        return await bucket.head(key=key)
    except ObjectNotFound:
        return None
