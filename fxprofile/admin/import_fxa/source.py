"""
The database of the original profile server.

Its tables are those of ``packages/fxa-profile-server/lib/db/mysql/schema.sql`` in
https://github.com/mozilla/fxa: ids are 16 bytes, and a user has at most one selected avatar,
whose picture one of the providers (``fxa``, ``gravatar``) has.  Newer versions also store the URL
of a monogram as an avatar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from sqlalchemy import TextClause, text
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.sql.connect import make_engine, parse_url
from fxprofile.drivers.sql.failures import FAILURES, store_error
from fxprofile.model.errors import ConfigError, DriverError

#: Seconds that a statement may take: counting the rows of a large table is slow.
TIMEOUT: Final = 300.0

_NAMES: Final = text(
    "SELECT userId, displayName FROM profile WHERE userId > :after ORDER BY userId LIMIT :limit"
)
_AVATARS: Final = text(
    """
    SELECT s.userId, s.avatarId, p.name AS provider, a.userId AS owner, a.url
    FROM avatar_selected s
    LEFT JOIN avatars a ON a.id = s.avatarId
    LEFT JOIN avatar_providers p ON p.id = a.providerId
    WHERE s.userId > :after ORDER BY s.userId LIMIT :limit
    """
)
_COUNTS: Final = {
    "names": text("SELECT count(*) FROM profile WHERE userId > :after"),
    "avatars": text("SELECT count(*) FROM avatar_selected WHERE userId > :after"),
}


#: The URL of a monogram; its end is the letter.
_MONOGRAM: Final = re.compile(r"https?://.+/v1/avatar/([^/?#]+)")


class SourceError(DriverError):
    """The source could not be reached, or is not a profile server's database."""


class SourceAvatar(NamedTuple):
    """
    A user's selected avatar.

    :ivar provider: the name of the provider that has the picture; None if unknown.
    :ivar owned: whether the avatar belongs to the user who selected it.
    :ivar monogram: the letter of a monogram, which has no pictures; None for any other avatar.
    """

    uid: str
    avatar_id: str
    provider: str | None
    owned: bool
    monogram: str | None


class FxaSource(Service):
    """
    Reads the tables, a batch at a time, in the order of the uids; writes nothing.

    Every method raises :class:`SourceError` if a table cannot be read.

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

    async def count(self, step: str, after: str) -> int:
        """
        Return how many there are after a uid.

        :param step: ``names`` or ``avatars``, as the methods are called.
        """
        return int((await self._rows(_COUNTS[step], after))[0][0])

    async def names(self, after: str, limit: int) -> Sequence[tuple[str, str | None]]:
        """
        Return the uid and the name of the next users; None or empty if it was unset.

        :param after: the uid before; empty for the first.
        """
        rows = await self._rows(_NAMES, after, limit=limit)
        return [(uid.hex(), name) for uid, name in rows]

    async def avatars(self, after: str, limit: int) -> Sequence[SourceAvatar]:
        """Return the selected avatars of the next users; see :meth:`names`."""
        return [
            SourceAvatar(
                row.userId.hex(),
                row.avatarId.hex(),
                row.provider,
                owned=row.owner == row.userId,
                monogram=_monogram(row.url),
            )
            for row in await self._rows(_AVATARS, after, limit=limit)
        ]

    async def _rows(self, query: TextClause, after: str, **more: int) -> Sequence[Any]:
        return await self._threads.run(self._read, query, {"after": bytes.fromhex(after), **more})

    def _read(self, query: TextClause, values: Mapping[str, object]) -> Sequence[Any]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query, values).all()
        except FAILURES as error:
            raise SourceError(f"--source: {store_error(error, self._url)}") from None


def _monogram(url: str | None) -> str | None:
    match = _MONOGRAM.fullmatch(url or "")
    return match and unquote(match[1])
