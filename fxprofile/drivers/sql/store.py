"""
Profiles and avatars in a database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection
from zope.interface import implementer

from fxprofile.drivers.sql import rows, transitions, upkeep
from fxprofile.model.avatars import Avatar, Status, Variant
from fxprofile.model.ports import IProfileStore
from fxprofile.model.profiles import Profile

T = TypeVar("T")


class Transactions(Protocol):
    """What the store needs of :class:`fxprofile.drivers.sql.engine.Database`."""

    async def run(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        """Run one transaction in a thread and commit it."""


@implementer(IProfileStore)
class SqlProfileStore:
    """
    An :class:`fxprofile.model.ports.IProfileStore` on SQLite, MySQL, MariaDB or
    PostgreSQL, which all behave the same.

    Beyond what the interface says:

    - :meth:`delete_current` and :meth:`delete_user` also keep every upload so far from
      being selected by a late result.
    - :meth:`delete_user` leaves an empty row, which goes with the user's last avatar.
    - :meth:`redelete` also holds for a ``replaced`` row, whose objects are deleted too;
      so do :meth:`unsent`, :meth:`stuck` and :meth:`counts` while they are not gone.
    - The lease of :meth:`leadership` is as good as the clocks of the processes that ask
      for it: a lease should be much longer than these differ.

    :param database: runs the transactions.
    """

    def __init__(self, database: Transactions) -> None:
        self._database = database

    async def accept(self, *, avatar_id: str, uid: str, now: float) -> Avatar:
        return await self._write(transitions.accept, avatar_id, uid, now)

    async def avatar(self, *, avatar_id: str) -> Avatar | None:
        return await self._read(rows.avatar, avatar_id)

    async def latest(self, *, uid: str) -> Avatar | None:
        return await self._read(transitions.latest, uid)

    async def profile(self, *, uid: str) -> Profile:
        return await self._read(rows.profile, uid)

    async def job_sent(self, *, avatar_id: str, status: Status, now: float) -> None:
        await self._write(transitions.job_sent, avatar_id, status, now)

    async def ready(
        self,
        *,
        avatar_id: str,
        variants: Mapping[str, Variant],
        now: float,
        placeholder: str | None = None,
    ) -> Avatar | None:
        return await self._write(transitions.ready, avatar_id, variants, now, placeholder)

    async def failed(self, *, avatar_id: str, reason: str, now: float) -> Avatar | None:
        return await self._write(transitions.failed, avatar_id, reason, now)

    async def delete(self, *, avatar_id: str, uid: str, now: float) -> bool:
        return await self._write(transitions.delete_one, avatar_id, uid, now)

    async def delete_current(self, *, uid: str, now: float) -> Sequence[str]:
        return await self._write(transitions.delete_current, uid, now)

    async def delete_user(self, *, uid: str, now: float) -> Sequence[str]:
        return await self._write(transitions.delete_user, uid, now)

    async def deleted(self, *, avatar_id: str, now: float) -> Avatar | None:
        return await self._write(transitions.deleted, avatar_id, now)

    async def redelete(self, *, avatar_id: str) -> bool:
        return await self._write(transitions.redelete, avatar_id)

    async def set_display_name(self, *, uid: str, name: str | None, now: float) -> None:
        await self._write(transitions.set_display_name, uid, name, now)

    async def unsent(self, *, before: float, limit: int) -> Sequence[Avatar]:
        return await self._read(upkeep.unsent, before, limit)

    async def stuck(self, *, sent_before: float, limit: int) -> Sequence[Avatar]:
        return await self._read(upkeep.stuck, sent_before, limit)

    async def expire(self, *, processing_before: float, now: float, limit: int) -> Sequence[str]:
        return await self._write(upkeep.expire, processing_before, now, limit)

    async def purge(
        self, *, failed_before: float, replaced_before: float, now: float, limit: int
    ) -> int:
        return await self._write(upkeep.purge, failed_before, replaced_before, now, limit)

    async def counts(self) -> Mapping[Status, int]:
        return await self._read(upkeep.counts)

    async def leadership(self, *, owner: str, now: float, seconds: float) -> bool:
        return await self._write(upkeep.leadership, owner, now, seconds)

    async def resign(self, *, owner: str) -> None:
        await self._write(upkeep.resign, owner)

    async def check(self) -> None:
        await self._read(upkeep.check)

    async def _read(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._database.run(lambda c: function(c, *arguments), read_only=True)

    async def _write(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._database.run(lambda c: function(c, *arguments))
