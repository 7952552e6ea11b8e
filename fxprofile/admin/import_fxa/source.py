"""
The database of the original profile server.

Its tables are those of ``packages/fxa-profile-server/lib/db/mysql/schema.sql`` in
https://github.com/mozilla/fxa: ids are 16 bytes, and a user has at most one selected
avatar, whose picture one of the providers (``fxa``, ``gravatar``) has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    select,
)
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.sql.connect import make_engine, parse_url
from fxprofile.drivers.sql.failures import FAILURES, store_error
from fxprofile.model.errors import ConfigError, DriverError

T = TypeVar("T")

#: Seconds that a statement may take: counting the rows of a large table is slow.
TIMEOUT: Final = 300.0

_metadata = MetaData()

avatars = Table(
    "avatars",
    _metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("url", String(256)),
    Column("userId", LargeBinary(16)),
    Column("providerId", Integer),
)
avatar_selected = Table(
    "avatar_selected",
    _metadata,
    Column("userId", LargeBinary(16), primary_key=True),
    Column("avatarId", LargeBinary(16)),
)
avatar_providers = Table(
    "avatar_providers",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(32)),
)
profile = Table(
    "profile",
    _metadata,
    Column("userId", LargeBinary(16), primary_key=True),
    Column("displayName", String(256)),
)


class SourceError(DriverError):
    """The source could not be reached, or is not a profile server's database."""


@dataclass(frozen=True)
class SourceName:
    """A user's display name; None or empty if it was unset."""

    uid: str
    name: str | None


@dataclass(frozen=True)
class SourceAvatar:
    """
    A user's selected avatar.

    :ivar provider: the name of the provider that has the picture; None if unknown.
    :ivar owned: whether the avatar belongs to the user who selected it.
    """

    uid: str
    avatar_id: str
    provider: str | None
    owned: bool


class FxaSource(Service):
    """
    Reads the tables, a batch at a time, in the order of the uids; writes nothing.

    :param url: an SQLAlchemy URL.
    :raises ConfigError: if it is not a usable one.
    """

    def __init__(self, url: str, threads: Threads) -> None:
        self._threads = threads
        try:
            self._url = parse_url(url)
            self._engine = make_engine(self._url, connections=1, timeout=TIMEOUT)
        except ConfigError as error:
            raise ConfigError(str(error).replace("database.url", "--source")) from None

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._engine.dispose()
        return succeed(None)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The URL of the database without its password."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    async def count_names(self, *, after: str) -> int:
        """
        Return how many names there are after a uid; see :meth:`names`.

        :raises SourceError: if the table cannot be read.
        """
        return await self._count(profile.c.userId, after)

    async def count_avatars(self, *, after: str) -> int:
        """Return how many selected avatars there are after a uid; see :meth:`avatars`."""
        return await self._count(avatar_selected.c.userId, after)

    async def _count(self, uid: ColumnElement[bytes], after: str) -> int:
        query = select(func.count()).where(uid > bytes.fromhex(after))
        return await self._run(lambda c: c.execute(query).scalar_one())

    async def names(self, *, after: str, limit: int) -> Sequence[SourceName]:
        """
        Return the names of the next users.

        :param after: the uid before; empty for the first.
        :raises SourceError: if the table cannot be read.
        """
        query = (
            select(profile.c.userId, profile.c.displayName)
            .where(profile.c.userId > bytes.fromhex(after))
            .order_by(profile.c.userId)
            .limit(limit)
        )
        rows = await self._run(lambda c: c.execute(query).all())
        return [SourceName(uid=row.userId.hex(), name=row.displayName) for row in rows]

    async def avatars(self, *, after: str, limit: int) -> Sequence[SourceAvatar]:
        """Return the selected avatars of the next users; see :meth:`names`."""
        query = (
            select(
                avatar_selected.c.userId,
                avatar_selected.c.avatarId,
                avatars.c.userId.label("owner"),
                avatar_providers.c.name.label("provider"),
            )
            .select_from(
                avatar_selected.outerjoin(
                    avatars, avatars.c.id == avatar_selected.c.avatarId
                ).outerjoin(avatar_providers, avatar_providers.c.id == avatars.c.providerId)
            )
            .where(avatar_selected.c.userId > bytes.fromhex(after))
            .order_by(avatar_selected.c.userId)
            .limit(limit)
        )
        rows = await self._run(lambda c: c.execute(query).all())
        return [
            SourceAvatar(
                uid=row.userId.hex(),
                avatar_id=row.avatarId.hex(),
                provider=row.provider,
                owned=row.owner == row.userId,
            )
            for row in rows
        ]

    async def _run(self, work: Callable[[Connection], T]) -> T:
        return await self._threads.run(self._in_thread, work)

    def _in_thread(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect() as connection:
                return work(connection)
        except FAILURES as error:
            raise SourceError(f"--source: {store_error(error, self._url)}") from None
