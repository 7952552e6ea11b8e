"""
Profiles and avatars in a database.

Each method of the store is one transaction: the function body is the SQL, which runs in a
database thread.  Locks are always taken in the same order: first the user's profile,
then avatars.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from sqlalchemy.dialects import sqlite
from zope.interface import implementer

from fxprofile.drivers.sql import statements
from fxprofile.drivers.sql.direct import execute, insert
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.now import DatabaseNow
from fxprofile.drivers.sql.quarantine import (
    insert_entry,
    is_public,
    lift_entry,
    recent_pictures,
    refuse_quarantined,
)
from fxprofile.drivers.sql.schema import avatars, leases, profiles
from fxprofile.drivers.sql.statements import LockedProfile
from fxprofile.model.avatars import QUARANTINED, Avatar, QuarantineEntry, Status, Variant
from fxprofile.model.errors import AccountUnknown, Quarantined, StoreError
from fxprofile.model.keys import initial
from fxprofile.model.ports import Accepted, Applied, Backlog, CurrentAvatar, IProfileStore
from fxprofile.model.profiles import Profile

T = TypeVar("T")
P = ParamSpec("P")

#: The row that a health check writes.
_HEARTBEAT: Final = "heartbeat"

#: The shortest time in seconds between two changes of a profile.
TICK: Final = 0.001

#: The statuses that a ready result changes.  A late one still counts for a failed upload,
#: whose job was sent again.
_BEFORE_READY: Final = (Status.PROCESSING, Status.FAILED)

#: The statuses from which an avatar can be deleted.
_DELETABLE: Final = (Status.PROCESSING, Status.READY, Status.FAILED, Status.REPLACED)

#: The statuses with a delete job.
_WITH_DELETE_JOB: Final = (Status.DELETING, Status.REPLACED, Status.FAILED)

#: The name of the lease on the repair loops.
_REPAIR: Final = "repair"

#: The position of the status in the row of an avatar.
_STATUS: Final = [field.name for field in fields(Avatar)].index("status")


#: The body of a transaction, and the method of the store that runs it.
_Work: TypeAlias = "Callable[Concatenate[SqlProfileStore, Connection, P], T]"
_Method: TypeAlias = "Callable[Concatenate[SqlProfileStore, P], Coroutine[Any, Any, T]]"


def _transaction(work: _Work[P, T], **options: bool) -> _Method[P, T]:
    """
    Make a method run as one transaction in a database thread.

    :param options: of :meth:`fxprofile.drivers.sql.engine.Database.run`.
    """

    @wraps(work)
    async def method(self: SqlProfileStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.database.run(
            lambda connection: work(self, connection, *args, **kwargs),
            user=kwargs.get("uid"),
            **options,
        )

    return method


def _read(work: _Work[P, T]) -> _Method[P, T]:
    """Make a method run as one read-only transaction in a database thread."""
    return _transaction(work, read_only=True)


def _repeatable(work: _Work[P, T]) -> _Method[P, T]:
    """
    Make a method run as one transaction whose loss in a power failure only repeats work that may
    be repeated.
    """
    return _transaction(work, synced=False)


@implementer(IProfileStore)
class SqlProfileStore:
    """
    An :class:`fxprofile.model.ports.IProfileStore` on SQLite, MySQL, MariaDB or
    PostgreSQL, with the same behaviour on each.

    Beyond what the interface says:

    - :meth:`delete_current` and :meth:`delete_user` also prevent a late result from
      selecting any earlier upload.
    - :meth:`delete_user` leaves an empty row, the tombstone: a transaction that writes data of
      the user finds it under the lock that it takes anyway.
    - :meth:`redelete` also applies to ``replaced`` rows, whose objects are deleted too;
      :meth:`unsent`, :meth:`stuck` and :meth:`counts` include them until that is done.
    - The lease of :meth:`leadership` compares the clocks of the processes: it should last
      much longer than these differ.

    :param database: runs the transactions.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    # Reads.

    @_read
    def avatar(self, connection: Connection, *, avatar_id: str) -> Avatar | None:
        return find_avatar(connection, avatar_id)

    @_read
    def profile(self, connection: Connection, *, uid: str) -> Profile:
        row = execute(connection, statements.PROFILE, {"this": uid}).fetchone()
        return Profile(uid=uid) if row is None else Profile(*row)

    @_read
    def current_avatar(self, connection: Connection, *, uid: str) -> CurrentAvatar:
        row = execute(connection, statements.CURRENT_AVATAR, {"this": uid}).fetchone()
        if row is None:
            return CurrentAvatar(Profile(uid=uid))
        *profile, placeholder, pending = row
        return CurrentAvatar(Profile(*profile), placeholder, pending)

    @_transaction
    def check(self, connection: Connection) -> float:
        # A database that is full, locked or read-only answers reads.
        beat = {"owner": "", "expires": DatabaseNow()}
        insert_if_absent(connection, leases, {"name": _HEARTBEAT, "owner": "", "expires": 0})
        connection.execute(sa.update(leases).where(leases.c.name == _HEARTBEAT).values(beat))
        return float(connection.execute(sa.select(DatabaseNow())).scalar_one())

    # Uploads and results.

    @_transaction
    def accept(
        self,
        connection: Connection,
        *,
        avatar_id: str,
        uid: str,
        now: float,
        keep: int | None = None,
        source_digest: str | None = None,
    ) -> Accepted:
        # The lock makes the order of the sequence numbers that of the commits.
        _refuse_deleted(lock_or_create_profile(connection, uid))
        refuse_quarantined(connection, source_digest=source_digest)
        avatar = insert_avatar(connection, uid, avatar_id, now, source_digest)
        superseded = [] if keep is None else _supersede(connection, uid, keep, now)
        return Accepted(avatar, superseded)

    async def job_sent(
        self, *, avatar_id: str, status: Status, now: float, lazy: bool = False
    ) -> None:
        # If this is lost, the job is sent again.
        await self.database.run(
            lambda c: _change_avatar(c, avatar_id, (status,), job_sent=now),
            synced=False,
            lazy=lazy,
        )

    @_transaction
    def ready(
        self,
        connection: Connection,
        *,
        avatar_id: str,
        variants: Mapping[str, Variant],
        now: float,
        placeholder: str | None = None,
        pixels_digest: str | None = None,
    ) -> Applied:
        return make_ready(connection, avatar_id, variants, now, placeholder, pixels_digest)

    @_transaction
    def failed(
        self, connection: Connection, *, avatar_id: str, reason: str, now: float
    ) -> Avatar | None:
        _fail(connection, avatar_id, reason, now)
        return find_avatar(connection, avatar_id)

    @_transaction
    def set_display_name(
        self, connection: Connection, *, uid: str, name: str | None, now: float
    ) -> None:
        lock = lock_profile if name is None else lock_or_create_profile
        profile = lock(connection, uid)
        _refuse_deleted(profile)
        if profile is not None and profile.display_name != name:
            letter = None if profile.monogram is None else initial(name or "")
            change_profile(connection, profile, now, display_name=name, monogram=letter)

    @_transaction
    def set_monogram(self, connection: Connection, *, profile: Profile, letter: str | None) -> bool:
        # A user whose profile is empty may have no row yet.
        lock = lock_profile if profile.changed_at else lock_or_create_profile
        row = lock(connection, profile.uid)
        is_current = (
            row is not None
            and row.removed_at is None
            and (row.changed_at, row.monogram) == (profile.changed_at, profile.monogram)
        )
        if is_current:
            this = profiles.c.uid == profile.uid
            connection.execute(sa.update(profiles).where(this).values(monogram=letter))
        return is_current

    # Quarantine.

    @_transaction
    def quarantine(self, connection: Connection, *, entry: QuarantineEntry, now: float) -> int:
        return insert_entry(connection, entry, now)

    @_transaction
    def lift(
        self, connection: Connection, *, number: int, by: str, reason: str, now: float
    ) -> bool:
        return lift_entry(connection, number, by, reason, now)

    @_read
    def quarantined(self, connection: Connection, *, since: float, limit: int) -> Sequence[Avatar]:
        found: dict[str, Avatar] = {}
        for shows_picture in recent_pictures(connection, since, limit):
            rows = (
                statements.AVATAR.where(shows_picture, is_public())
                .order_by(avatars.c.seq)
                .limit(limit)
            )
            found |= {avatar.id: avatar for avatar in _avatars(connection, rows)}
        return list(found.values())[:limit]

    # Deletion.

    @_transaction
    def delete(self, connection: Connection, *, avatar_id: str, uid: str, now: float) -> bool:
        profile = lock_profile(connection, uid)
        deleted = _start_delete(connection, avatar_id, now, avatars.c.uid == uid)
        if deleted and profile is not None and profile.avatar_id == avatar_id:
            change_profile(connection, profile, now, avatar_id=None)
        return deleted

    @_transaction
    def delete_current(self, connection: Connection, *, uid: str, now: float) -> Sequence[str]:
        profile = lock_profile(connection, uid)
        if profile is None:
            return []
        _exclude_earlier_uploads(connection, profile)
        in_use = (avatars.c.status == Status.PROCESSING) | (avatars.c.id == profile.avatar_id)
        ids = _start_delete_all(connection, now, avatars.c.uid == uid, in_use)
        if profile.avatar_id is not None:
            change_profile(connection, profile, now, avatar_id=None)
        return ids

    @_transaction
    def delete_user(self, connection: Connection, *, uid: str, now: float) -> Sequence[str]:
        # Without a row, a write that is in flight would create one.
        profile = lock_or_create_profile(connection, uid)
        _exclude_earlier_uploads(connection, profile)
        ids = _start_delete_all(connection, now, avatars.c.uid == uid)
        if profile.avatar_id is not None or profile.display_name is not None:
            change_profile(connection, profile, now, avatar_id=None, display_name=None)
        removed = {"removed_at": now, "monogram": None}
        connection.execute(sa.update(profiles).where(profiles.c.uid == uid).values(**removed))
        return ids

    @_repeatable
    def deleted(self, connection: Connection, *, avatar_id: str, now: float) -> Avatar | None:
        avatar = find_avatar(connection, avatar_id)
        if avatar is None:
            return None
        lock_profile(connection, avatar.uid)
        this = {"this": avatar_id}
        if execute(connection, statements.REMOVE_DELETING, this).rowcount:
            return None
        done = {"owed_since": None, "job_sent": now}
        execute(connection, statements.CLEAR_DELETE_JOB, {**this, **done})
        return find_avatar(connection, avatar_id)

    @_transaction
    def redelete(self, connection: Connection, *, avatar_id: str) -> bool:
        pending = {"job_sent": None, "owed_since": avatars.c.updated}
        has_job = (avatars.c.status != Status.FAILED) | (avatars.c.error == QUARANTINED)
        again = statements.transition(_WITH_DELETE_JOB).where(has_job).values(**pending)
        return connection.execute(again, {"this": avatar_id}).rowcount > 0

    # Repair loops.

    @_transaction
    def forget_jobs(self, connection: Connection) -> None:
        is_pending = avatars.c.owed_since.is_not(None)
        connection.execute(sa.update(avatars).where(is_pending).values(job_sent=None))

    @_read
    def unsent(
        self, connection: Connection, *, before: float, limit: int, newest_first: bool = False
    ) -> Sequence[Avatar]:
        unsent = statements.AVATAR.where(
            avatars.c.owed_since.is_not(None)
            if before == math.inf  # MySQL has no such number.
            else avatars.c.owed_since < before,
            avatars.c.job_sent.is_(None),
        )
        if newest_first:
            newest = unsent.order_by(avatars.c.owed_since.desc(), avatars.c.seq.desc())
            return _avatars(connection, newest.limit(limit))
        return _avatars(connection, _oldest(unsent, limit))

    @_read
    def stuck(self, connection: Connection, *, sent_before: float, limit: int) -> Sequence[Avatar]:
        # The first condition bounds how much of the index is read.
        is_old = avatars.c.owed_since < sent_before
        stuck = statements.AVATAR.where(is_old, avatars.c.job_sent < sent_before)
        return _avatars(connection, _oldest(stuck, limit))

    @_transaction
    def expire(
        self, connection: Connection, *, processing_before: float, now: float, limit: int
    ) -> Sequence[str]:
        # SQLite, without statistics, would prefer the index of the status, and read every pending
        # upload; it has none of an expression.
        is_processing = avatars.c.status.concat("") == Status.PROCESSING
        old = sa.select(avatars.c.id).where(avatars.c.owed_since < processing_before, is_processing)
        ids = connection.execute(_oldest(old, limit)).scalars().all()
        return [avatar_id for avatar_id in ids if _fail(connection, avatar_id, "lost", now)]

    @_transaction
    def purge(
        self,
        connection: Connection,
        *,
        failed_before: float,
        replaced_before: float,
        removed_before: float,
        now: float,
        limit: int,
    ) -> int:
        is_old = (avatars.c.status == Status.FAILED, avatars.c.updated < failed_before)
        changed = len(_start_delete_all(connection, now, *is_old, limit=limit))
        is_done = (
            avatars.c.status == Status.REPLACED,
            avatars.c.updated < replaced_before,
            avatars.c.owed_since.is_(None),
        )
        replaced = (
            sa.select(avatars.c.id)
            .where(*is_done)
            .order_by(avatars.c.updated, avatars.c.seq)
            .limit(limit - changed)
        )
        for avatar_id in connection.execute(replaced).scalars().all():
            removed = connection.execute(
                sa.delete(avatars).where(avatars.c.id == avatar_id, *is_done)
            )
            changed += removed.rowcount
        return changed + _remove_tombstones(connection, removed_before, limit - changed)

    @_read
    def counts(self, connection: Connection) -> Mapping[Status, int]:
        found = connection.execute(
            sa.select(avatars.c.status, sa.func.count())
            .where(avatars.c.owed_since.is_not(None))
            .group_by(avatars.c.status)
        )
        pending = dict.fromkeys((Status.PROCESSING, Status.DELETING, Status.REPLACED), 0)
        pending.update({Status(status): number for status, number in found})
        return pending

    @_read
    def pending_since(self, connection: Connection, *, times: Sequence[float]) -> Sequence[int]:
        owed_since = avatars.c.owed_since
        numbers = [sa.func.count(sa.case((owed_since <= time, 1))) for time in times]
        return tuple(connection.execute(sa.select(*numbers).where(owed_since.is_not(None))).one())

    @_read
    def backlog(self, connection: Connection, *, limit: int, skip: int) -> Backlog:
        # Three reads of an index, the first of which is bounded.
        return Backlog(
            rows=connection.execute(statements.PENDING, {"most": limit}).scalar_one(),
            since=connection.execute(statements.PENDING_SINCE, {"skip": skip}).scalar(),
            accepted=connection.execute(statements.NEWEST).scalar() or 0,
        )

    @_read
    def pending_of(self, connection: Connection, *, uid: str) -> int:
        return int(execute(connection, statements.PENDING_OF, {"this": uid}).fetchone()[0])

    @_transaction
    def leadership(self, connection: Connection, *, owner: str, now: float, seconds: float) -> bool:
        lease = {"owner": owner, "expires": now + seconds}
        insert_if_absent(connection, leases, {"name": _REPAIR, **lease})
        # One that ends long after a new one was taken before the clock was set back.
        is_held = sa.and_(leases.c.expires > now, leases.c.expires < now + 2 * seconds)
        is_free = sa.or_(leases.c.owner == owner, ~is_held)
        taken = sa.update(leases).where(leases.c.name == _REPAIR, is_free).values(**lease)
        return connection.execute(taken).rowcount > 0

    @_transaction
    def resign(self, connection: Connection, *, owner: str) -> None:
        connection.execute(
            sa.delete(leases).where(leases.c.name == _REPAIR, leases.c.owner == owner)
        )


def find_avatar(connection: Connection, avatar_id: str) -> Avatar | None:
    """Return one avatar, or None if it has no row."""
    row = execute(connection, statements.AVATAR_BY_ID, {"this": avatar_id}).fetchone()
    return None if row is None else _avatar(row)


def _avatar(row: Iterable[Any]) -> Avatar:
    values = list(row)
    values[_STATUS] = Status(values[_STATUS])
    return Avatar(*values)


def _avatars(connection: Connection, query: sa.Select[Any]) -> list[Avatar]:
    return [_avatar(row) for row in connection.execute(query)]


def _oldest(query: sa.Select[Any], limit: int) -> sa.Select[Any]:
    return query.order_by(avatars.c.owed_since, avatars.c.seq).limit(limit)


def lock_profile(connection: Connection, uid: str) -> LockedProfile | None:
    """
    Lock the profile of a user until the transaction ends, and return its row, if any.

    Every transition that concerns a user's selection takes this lock before any other, so
    the transitions of one user are serialized, and those of two users never wait for each
    other.
    """
    row = execute(connection, statements.LOCK_PROFILE, {"this": uid}).fetchone()
    return None if row is None else LockedProfile(*row)


def lock_or_create_profile(connection: Connection, uid: str) -> LockedProfile:
    """Lock the profile of a user, and insert it first if there is none."""
    for _ in range(4):
        row = lock_profile(connection, uid)
        if row is not None:
            return row
        # The row that prevents this insert may be removed before it can be locked.
        insert_if_absent(connection, profiles, {"uid": uid, "selected_seq": 0, "changed_at": 0.0})
    raise StoreError("a profile was repeatedly removed while it was being locked")


def insert_if_absent(connection: Connection, table: sa.Table, *rows: Mapping[str, object]) -> None:
    """Insert rows, except those whose primary key exists."""
    dialect = connection.dialect.name
    statement: sa.Insert
    if dialect == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing()
    elif dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        statement = postgresql.insert(table).on_conflict_do_nothing()
    else:
        from sqlalchemy.dialects import mysql

        # INSERT IGNORE would also truncate a value that is too long.
        key = next(iter(table.primary_key))
        statement = mysql.insert(table).on_duplicate_key_update({key.name: key})
    connection.execute(statement, list(rows))


def insert_avatar(
    connection: Connection, uid: str, avatar_id: str, now: float, source_digest: str | None = None
) -> Avatar:
    """Add a row in ``processing``, with a pending job, and return it."""
    row = {"id": avatar_id, "uid": uid, "status": Status.PROCESSING, "created": now}
    row |= {"source_digest": source_digest, "owed_since": now, "updated": now}
    seq = insert(connection, statements.ADD_AVATAR, row)
    return Avatar(
        id=avatar_id,
        uid=uid,
        seq=seq,
        status=Status.PROCESSING,
        job_sent=None,
        created=now,
        source_digest=source_digest,
    )


def _supersede(connection: Connection, uid: str, keep: int, now: float) -> Sequence[str]:
    """Replace all uploads of a user in ``processing`` but the newest; return their ids."""
    older = [row[0] for row in execute(connection, statements.PROCESSING, {"this": uid})][keep:]
    # A crunch job that was sent ends as a delete job, so ``job_sent`` stays.
    replaced = {"status": Status.REPLACED, "owed_since": now, "updated": now}
    return [i for i in older if _change_avatar(connection, i, (Status.PROCESSING,), **replaced)]


def change_profile(
    connection: Connection, row: LockedProfile, now: float, **values: object
) -> None:
    """
    Change the public part of a locked profile.

    ``changed_at`` always increases, even if the clocks of two processes differ.
    """
    changed_at = max(now, row.changed_at + TICK)
    change = {"this": row.uid, "changed_at": changed_at, **values}
    execute(connection, statements.CHANGE_PROFILE, change)


def make_ready(
    connection: Connection,
    avatar_id: str,
    variants: Mapping[str, Variant],
    now: float,
    placeholder: str | None,
    pixels_digest: str | None = None,
) -> Applied:
    """Apply a ready result, see :meth:`fxprofile.model.ports.IProfileStore.ready`."""
    avatar = find_avatar(connection, avatar_id)
    if avatar is None or avatar.status not in (*_BEFORE_READY, Status.READY):
        return Applied(avatar)
    if avatar.error == QUARANTINED:
        # Its pictures have been deleted, even if the quarantine was lifted since.
        raise Quarantined
    # The result of a job that was repeated lacks the digest, and may come first.
    digests = {"source_digest": avatar.source_digest, "pixels_digest": pixels_digest}
    refuse_quarantined(connection, **digests)
    if avatar.status is Status.READY:
        return Applied(avatar)
    profile = lock_or_create_profile(connection, avatar.uid)
    is_newest = avatar.seq > profile.selected_seq
    status = {"status": Status.READY, "owed_since": None}
    became_ready = _change_avatar(
        connection,
        avatar_id,
        _BEFORE_READY,
        error=None,
        updated=now,
        variants=json.dumps({name: vars(variant) for name, variant in variants.items()}),
        placeholder=placeholder,
        pixels_digest=pixels_digest,
        **(status if is_newest else _pending_delete(Status.REPLACED, now)),
    )
    replaced = None
    if became_ready and is_newest:
        if profile.avatar_id is not None:
            replace_avatar(connection, profile.avatar_id, now)
            replaced = find_avatar(connection, profile.avatar_id)
        change_profile(connection, profile, now, avatar_id=avatar_id, selected_seq=avatar.seq)
    return Applied(find_avatar(connection, avatar_id), replaced)


def replace_avatar(connection: Connection, avatar_id: str, now: float) -> None:
    """Make an avatar that was selected ``replaced``, with a pending delete job."""
    replaced = _pending_delete(Status.REPLACED, now)
    _change_avatar(connection, avatar_id, (Status.READY,), updated=now, **replaced)


def _change_avatar(
    connection: Connection,
    avatar_id: str,
    statuses: tuple[Status, ...],
    *conditions: ColumnElement[bool],
    **values: object,
) -> bool:
    """
    Run the one UPDATE statement that is a transition of an avatar.

    :returns: whether the avatar was in one of these statuses.
    """
    change, values = statements.transition(statuses), {"this": avatar_id, **values}
    if conditions:
        return connection.execute(change.where(*conditions), values).rowcount > 0
    return bool(execute(connection, change, values).rowcount > 0)


def _fail(connection: Connection, avatar_id: str, reason: str, now: float) -> bool:
    failed: dict[str, object] = {"status": Status.FAILED, "owed_since": None}
    before: tuple[Status, ...] = (Status.PROCESSING,)
    if reason == QUARANTINED:
        # A worker has put its pictures, perhaps again.
        failed, before = _pending_delete(Status.FAILED, now), _BEFORE_READY
    return _change_avatar(connection, avatar_id, before, error=reason, updated=now, **failed)


def _pending_delete(status: Status, now: float) -> dict[str, object]:
    return {"status": status, "job_sent": None, "owed_since": now}


def _start_delete(
    connection: Connection, avatar_id: str, now: float, *conditions: ColumnElement[bool]
) -> bool:
    deleting = _pending_delete(Status.DELETING, now)
    return _change_avatar(connection, avatar_id, _DELETABLE, *conditions, updated=now, **deleting)


def _start_delete_all(
    connection: Connection, now: float, *conditions: ColumnElement[bool], limit: int | None = None
) -> Sequence[str]:
    candidates = (
        sa.select(avatars.c.id)
        .where(avatars.c.status.in_(_DELETABLE), *conditions)
        .order_by(avatars.c.updated, avatars.c.seq)
        .limit(limit)
    )
    ids = connection.execute(candidates).scalars().all()
    return [i for i in ids if _start_delete(connection, i, now, *conditions)]


def _exclude_earlier_uploads(connection: Connection, profile: LockedProfile) -> None:
    """Raise the high-water mark, so that no late result selects an upload made so far."""
    newest = connection.execute(
        sa.select(sa.func.max(avatars.c.seq)).where(avatars.c.uid == profile.uid)
    ).scalar()
    if newest is not None and newest > profile.selected_seq:
        connection.execute(
            sa.update(profiles).where(profiles.c.uid == profile.uid).values(selected_seq=newest)
        )


def _refuse_deleted(profile: LockedProfile | None) -> None:
    """
    Raise if a locked profile is that of a deleted account.

    :raises AccountUnknown: if it is.
    """
    if profile is not None and profile.removed_at is not None:
        raise AccountUnknown("the account was deleted")


def _remove_tombstones(connection: Connection, before: float, limit: int) -> int:
    """Remove the rows of accounts that were deleted before a time and have no avatars left."""
    old = (
        sa.select(profiles.c.uid)
        .where(profiles.c.removed_at < before, ~sa.exists().where(avatars.c.uid == profiles.c.uid))
        .order_by(profiles.c.removed_at, profiles.c.uid)
        .limit(limit)
    )
    uids = connection.execute(old).scalars().all()
    # The same account may have been deleted again.
    still = (profiles.c.uid.in_(uids), profiles.c.removed_at < before)
    return connection.execute(sa.delete(profiles).where(*still)).rowcount
