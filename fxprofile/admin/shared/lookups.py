"""
What there is of an avatar and of a user: rows and objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from fxprofile.admin.shared.output import duration
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.model.avatars import Status
from fxprofile.model.errors import ObjectNotFound
from fxprofile.model.keys import VARIANTS, private_key, public_key
from fxprofile.model.ports import IBucket, ObjectInfo
from fxprofile.uploads.repair import STUCK_AGE

#: Statuses in which somebody may look at the pictures.
_SHOWN = (Status.READY,)


@dataclass(frozen=True)
class Known:
    """
    All that is known of one avatar.

    :ivar row: its row, if there is one.
    :ivar selected: whether it is the avatar of its user.
    :ivar original: the object in the private bucket, if it is there.
    :ivar pictures: by variant, the object in the public bucket, if it is there.
    """

    avatar_id: str
    row: Any
    selected: bool
    original: ObjectInfo | None
    pictures: dict[str, ObjectInfo | None]

    @property
    def anything(self) -> bool:
        """Whether there is anything at all."""
        return bool(
            self.row is not None or self.original is not None or any(self.pictures.values())
        )


async def avatar_row(tools: Tools, avatar_id: str) -> Any:
    """The row of an avatar with all of its columns, or None; the database is open."""

    def find(connection: Connection) -> Any:
        return connection.execute(select(avatars).where(avatars.c.id == avatar_id)).one_or_none()

    return await tools.database.run(find, read_only=True)


async def avatar_rows(tools: Tools, after: str, limit: int) -> Sequence[Any]:
    """Rows of avatars whose ids sort after this one, in the order of the ids."""
    query = (
        select(
            avatars.c.id,
            avatars.c.uid,
            avatars.c.status,
            avatars.c.owed_since,
            avatars.c.updated,
        )
        .where(avatars.c.id > after)
        .order_by(avatars.c.id)
        .limit(limit)
    )

    def find(connection: Connection) -> Sequence[Any]:
        return connection.execute(query).all()

    return await tools.database.run(find, read_only=True)


async def known(tools: Tools, avatar_id: str) -> Known:
    """
    Look everywhere for an avatar; the database is open.

    :raises DriverError: if somewhere cannot be looked.
    """
    row = await avatar_row(tools, avatar_id)
    selected = False
    if row is not None:
        selected = (await tools.store.profile(uid=row.uid)).avatar_id == avatar_id
    private, public = tools.bucket("private"), tools.bucket("public")
    return Known(
        avatar_id=avatar_id,
        row=row,
        selected=selected,
        original=await head(private, private_key(avatar_id)),
        pictures={name: await head(public, public_key(avatar_id, name)) for name in VARIANTS},
    )


async def head(bucket: IBucket, key: str) -> ObjectInfo | None:
    """What a bucket knows of an object, or None."""
    try:
        return await bucket.head(key=key)
    except ObjectNotFound:
        return None


async def avatars_of(tools: Tools, uid: str) -> tuple[Any, Sequence[Any]]:
    """The row of a user, or None, and those of all their avatars, newest first."""

    def find(connection: Connection) -> tuple[Any, Sequence[Any]]:
        profile = connection.execute(select(profiles).where(profiles.c.uid == uid)).one_or_none()
        found = connection.execute(
            select(avatars).where(avatars.c.uid == uid).order_by(avatars.c.seq.desc())
        )
        return profile, found.all()

    return await tools.database.run(find, read_only=True)


def problems(found: Known, now: float) -> list[str]:
    """What is wrong with an avatar, a line each, and what to do."""
    said = []
    missing = [name for name, info in found.pictures.items() if info is None]
    row = found.row
    if row is None:
        if found.original is not None or len(missing) < len(VARIANTS):
            said.append(
                "objects without a row: nothing refers to them; fxprofile-admin orphans --delete"
                " removes such ones once they are old enough"
            )
        return said
    status = Status(row.status)
    if found.selected and status is not Status.READY:
        said.append(f"it is the avatar of its user, and {status}")
    if status in _SHOWN and missing:
        said.append(
            f"ready without its pictures ({', '.join(missing)}): the user has to upload it again"
        )
    waited = None if row.owed_since is None else now - row.owed_since
    if waited is not None and waited > STUCK_AGE:
        job = "no job has been sent for it" if row.job_sent is None else "its job has no result"
        said.append(
            f"{status} for {duration(waited)}, and {job}: see fxprofile-admin queues and dead,"
            " and whether web and worker run"
        )
    if status is Status.PROCESSING and found.original is None and len(missing) == len(VARIANTS):
        said.append("the original is gone, and there are no pictures: it will fail as lost")
    return said
