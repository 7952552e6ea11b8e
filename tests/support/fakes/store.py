"""
A profile store in memory.

It keeps whole rows and goes through all of them each time: slow, and short enough to
see that it does what :class:`fxprofile.model.ports.IProfileStore` says.  It is the model
that the one on SQL is held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from zope.interface import implementer

from fxprofile.model.avatars import QUARANTINED, Avatar, QuarantineEntry, Status, Variant
from fxprofile.model.errors import AccountUnknown, Quarantined, StoreError
from fxprofile.model.keys import initial
from fxprofile.model.ports import Accepted, Applied, Backlog, CurrentAvatar, IProfileStore
from fxprofile.model.profiles import Profile

TICK = 0.001

P, R, F = Status.PROCESSING, Status.READY, Status.FAILED
S, D = Status.REPLACED, Status.DELETING


@dataclass
class Row:
    id: str
    uid: str
    seq: int
    created: float
    updated: float
    owed_since: float | None
    status: Status = P
    job_sent: float | None = None
    error: str | None = None
    variants: Mapping[str, Variant] | None = None
    placeholder: str | None = None
    source_digest: str | None = None
    pixels_digest: str | None = None

    def owe(self, status: Status, now: float) -> None:
        self.status, self.job_sent, self.owed_since, self.updated = status, None, now, now

    def avatar(self) -> Avatar:
        return Avatar(
            id=self.id,
            uid=self.uid,
            seq=self.seq,
            status=self.status,
            job_sent=self.job_sent,
            created=self.created,
            error=self.error,
            placeholder=self.placeholder,
            source_digest=self.source_digest,
        )

    def matches(self, entry: QuarantineEntry) -> bool:
        pairs = (
            (self.id, entry.avatar_id),
            (self.source_digest, entry.source_digest),
            (self.pixels_digest, entry.pixels_digest),
        )
        return any(value is not None and value == other for value, other in pairs)


@dataclass
class User:
    uid: str
    display_name: str | None = None
    avatar_id: str | None = None
    selected_seq: int = 0
    changed_at: float = 0.0
    removed_at: float | None = None
    monogram: str | None = None

    def change(self, now: float) -> None:
        self.changed_at = max(now, self.changed_at + TICK)

    def refuse_deleted(self) -> None:
        if self.removed_at is not None:
            raise AccountUnknown("the account was deleted")


@implementer(IProfileStore)
class MemoryProfileStore:
    """
    An :class:`fxprofile.model.ports.IProfileStore` that ends with its process.

    :ivar rows: the avatars, by id.
    :ivar users: the profiles, by uid.
    :ivar entries: of the quarantine: each with its time, and whether it is in force.
    :ivar time: what its clock shows.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.users: dict[str, User] = {}
        self.entries: list[tuple[QuarantineEntry, float, bool]] = []
        self.time = 0.0
        self._seq = 0
        self._leader: tuple[str, float] | None = None

    async def accept(
        self,
        *,
        avatar_id: str,
        uid: str,
        now: float,
        keep: int | None = None,
        source_digest: str | None = None,
    ) -> Accepted:
        self.users.get(uid, User(uid)).refuse_deleted()
        self._refuse_quarantined(source_digest, None)
        self.users.setdefault(uid, User(uid))
        if avatar_id in self.rows:
            raise StoreError("there is an avatar with this id")
        self._seq += 1
        row = Row(avatar_id, uid, self._seq, now, now, now, source_digest=source_digest)
        self.rows[avatar_id] = row
        processing = [row for row in reversed(self._of(uid)) if row.status is P]
        superseded = [] if keep is None else processing[keep:]
        for row in superseded:
            row.status, row.owed_since, row.updated = S, now, now
        return Accepted(self.rows[avatar_id].avatar(), [row.id for row in superseded])

    async def avatar(self, *, avatar_id: str) -> Avatar | None:
        row = self.rows.get(avatar_id)
        return row and row.avatar()

    async def profile(self, *, uid: str) -> Profile:
        user = self.users.get(uid, User(uid))
        return Profile(uid, user.display_name, user.avatar_id, user.changed_at, user.monogram)

    async def current_avatar(self, *, uid: str) -> CurrentAvatar:
        profile = await self.profile(uid=uid)
        newest = [row for row in self._of(uid) if row.status is not D][-1:]
        selected = self.rows.get(profile.avatar_id or "")
        return CurrentAvatar(
            profile,
            placeholder=None if selected is None else selected.placeholder,
            pending=next((row.id for row in newest if row.status is P), None),
        )

    async def job_sent(
        self, *, avatar_id: str, status: Status, now: float, lazy: bool = False
    ) -> None:
        row = self.rows.get(avatar_id)
        if row and row.status is status:
            row.job_sent = now

    async def ready(
        self,
        *,
        avatar_id: str,
        variants: Mapping[str, Variant],
        now: float,
        placeholder: str | None = None,
        pixels_digest: str | None = None,
    ) -> Applied:
        row = self.rows.get(avatar_id)
        replaced = None
        if row and row.status in (P, F, R):
            if row.error == QUARANTINED:
                raise Quarantined
            self._refuse_quarantined(row.source_digest, pixels_digest)
        if row and row.status in (P, F):
            user = self.users[row.uid]
            row.pixels_digest = pixels_digest
            row.error, row.variants, row.placeholder = None, dict(variants), placeholder
            if row.seq > user.selected_seq:
                row.status, row.owed_since, row.updated = R, None, now
                if user.avatar_id is not None:
                    self.rows[user.avatar_id].owe(S, now)
                    replaced = self.rows[user.avatar_id].avatar()
                user.avatar_id, user.selected_seq = avatar_id, row.seq
                user.change(now)
            else:
                row.owe(S, now)
        return Applied(row and row.avatar(), replaced)

    async def failed(self, *, avatar_id: str, reason: str, now: float) -> Avatar | None:
        row = self.rows.get(avatar_id)
        if row and reason == QUARANTINED and row.status in (P, F):
            row.error = reason
            row.owe(F, now)
        elif row and row.status is P:
            row.status, row.error, row.owed_since, row.updated = F, reason, None, now
        return row and row.avatar()

    async def quarantine(self, *, entry: QuarantineEntry, now: float) -> int:
        self.entries.append((entry, now, True))
        return len(self.entries)

    async def lift(self, *, number: int, by: str, reason: str, now: float) -> bool:
        if not 0 < number <= len(self.entries):
            return False
        entry, created, was_in_force = self.entries[number - 1]
        self.entries[number - 1] = entry, created, False
        return was_in_force

    async def quarantined(self, *, since: float, limit: int) -> Sequence[Avatar]:
        recent = [entry for entry, created, holds in self.entries if holds and created >= since]
        found = [
            row.avatar()
            for row in self.rows.values()
            if (
                row.status in (P, R)
                or (row.status is F and row.error != QUARANTINED)
                or (row.status is S and row.owed_since is not None)
            )
            and any(row.matches(entry) for entry in recent)
        ]
        return found[:limit]

    async def delete(self, *, avatar_id: str, uid: str, now: float) -> bool:
        row = self.rows.get(avatar_id)
        return row is not None and row.uid == uid and bool(self._delete([row], now))

    async def delete_current(self, *, uid: str, now: float) -> Sequence[str]:
        user = self.users.get(uid)
        if user is None:
            return []
        rows = [row for row in self._of(uid) if row.status is P or row.id == user.avatar_id]
        self._raise_mark(user)
        return self._delete(rows, now)

    async def delete_user(self, *, uid: str, now: float) -> Sequence[str]:
        user = self.users.setdefault(uid, User(uid))
        self._raise_mark(user)
        visible = user.avatar_id is not None or user.display_name is not None
        user.avatar_id = user.display_name = user.monogram = None
        if visible:
            user.change(now)
        ids = self._delete(self._of(uid), now)
        user.removed_at = now
        return ids

    async def deleted(self, *, avatar_id: str, now: float) -> Avatar | None:
        row = self.rows.get(avatar_id)
        if row and row.status is D:
            del self.rows[avatar_id]
            return None
        if row and row.status in (S, F) and row.owed_since is not None:
            row.owed_since, row.job_sent = None, now
        return row and row.avatar()

    async def redelete(self, *, avatar_id: str) -> bool:
        row = self.rows.get(avatar_id)
        if row is None or not (row.status in (D, S) or row.error == QUARANTINED):
            return False
        row.job_sent, row.owed_since = None, row.updated
        return True

    async def set_display_name(self, *, uid: str, name: str | None, now: float) -> None:
        if name is not None:
            self.users.setdefault(uid, User(uid))
        user = self.users.get(uid)
        if user:
            user.refuse_deleted()
        if user and user.display_name != name:
            user.display_name = name
            user.monogram = user.monogram and initial(name or "")
            user.change(now)

    async def set_monogram(self, *, profile: Profile, letter: str | None) -> bool:
        if not profile.changed_at:
            self.users.setdefault(profile.uid, User(profile.uid))
        user = self.users.get(profile.uid)
        if user is None or user.removed_at is not None:
            return False
        known = (profile.changed_at, profile.monogram)
        if (user.changed_at, user.monogram) != known:
            return False
        user.monogram = letter
        return True

    async def forget_jobs(self) -> None:
        for row in self.rows.values():
            if row.owed_since is not None:
                row.job_sent = None

    async def unsent(
        self, *, before: float, limit: int, newest_first: bool = False
    ) -> Sequence[Avatar]:
        found = self._owing(
            lambda row, since: row.job_sent is None and since < before,
            10**9 if newest_first else limit,
        )
        return found[::-1][:limit] if newest_first else found

    async def stuck(self, *, sent_before: float, limit: int) -> Sequence[Avatar]:
        return self._owing(
            lambda row, since: row.job_sent is not None and max(row.job_sent, since) < sent_before,
            limit,
        )

    async def expire(self, *, processing_before: float, now: float, limit: int) -> Sequence[str]:
        old = self._owing(lambda row, since: row.status is P and since < processing_before, limit)
        for avatar in old:
            await self.failed(avatar_id=avatar.id, reason="lost", now=now)
        return [avatar.id for avatar in old]

    async def purge(
        self,
        *,
        failed_before: float,
        replaced_before: float,
        removed_before: float,
        now: float,
        limit: int,
    ) -> int:
        rows = sorted(self.rows.values(), key=lambda row: (row.updated, row.seq))
        failed = [row for row in rows if row.status is F and row.updated < failed_before]
        replaced = [
            row
            for row in rows
            if row.status is S and row.owed_since is None and row.updated < replaced_before
        ]
        for row in (changed := (failed[:limit] + replaced)[:limit]):
            if row.status is F:
                row.owe(D, now)
            else:
                del self.rows[row.id]
        removed = [
            (user.removed_at, user.uid)
            for user in self.users.values()
            if user.removed_at is not None
            and user.removed_at < removed_before
            and not self._of(user.uid)
        ]
        for _, uid in (old := sorted(removed)[: limit - len(changed)]):
            del self.users[uid]
        return len(changed) + len(old)

    async def counts(self) -> Mapping[Status, int]:
        owing = [row.status for row in self.rows.values() if row.owed_since is not None]
        return {status: owing.count(status) for status in (P, D, S)}

    async def pending_since(self, *, times: Sequence[float]) -> Sequence[int]:
        since = [row.owed_since for row in self.rows.values() if row.owed_since is not None]
        return tuple(sum(owed <= time for owed in since) for time in times)

    async def backlog(self, *, limit: int, skip: int) -> Backlog:
        since = sorted(r.owed_since for r in self.rows.values() if r.owed_since is not None)
        newest = max((row.seq for row in self.rows.values()), default=0)
        return Backlog(min(len(since), limit), (*since[skip:], None)[0], newest)

    async def pending_of(self, *, uid: str) -> int:
        return sum(row.owed_since is not None for row in self._of(uid))

    async def leadership(self, *, owner: str, now: float, seconds: float) -> bool:
        leader, expires = self._leader or (owner, 0.0)
        # One that ends long after a new one was taken before the clock was set back.
        if leader == owner or not now < expires < now + 2 * seconds:
            self._leader = leader, _ = owner, now + seconds
        return leader == owner

    async def resign(self, *, owner: str) -> None:
        if self._leader is not None and self._leader[0] == owner:
            self._leader = None

    async def check(self) -> float:
        return self.time

    def _refuse_quarantined(self, source: str | None, pixels: str | None) -> None:
        for entry, _, is_in_force in self.entries:
            same = {(source, entry.source_digest), (pixels, entry.pixels_digest)}
            if is_in_force and any(a is not None and a == b for a, b in same):
                raise Quarantined

    def _of(self, uid: str) -> list[Row]:
        rows = [row for row in self.rows.values() if row.uid == uid]
        return sorted(rows, key=lambda row: row.seq)

    def _delete(self, rows: Iterable[Row], now: float) -> list[str]:
        ids = []
        for row in sorted(rows, key=lambda row: (row.updated, row.seq)):
            if row.status is not D:
                row.owe(D, now)
                ids.append(row.id)
                user = self.users[row.uid]
                if user.avatar_id == row.id:
                    user.avatar_id = None
                    user.change(now)
        return ids

    def _raise_mark(self, user: User) -> None:
        user.selected_seq = max([user.selected_seq, *(row.seq for row in self._of(user.uid))])

    def _owing(self, wanted: Callable[[Row, float], bool], limit: int) -> list[Avatar]:
        rows = [
            row
            for row in self.rows.values()
            if row.owed_since is not None and wanted(row, row.owed_since)
        ]
        rows.sort(key=lambda row: (row.owed_since, row.seq))
        return [row.avatar() for row in rows[:limit]]
