"""
The stores of a simulation, whose contents can be read.
"""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import select

from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.drivers.sql.store import SqlProfileStore
from fxprofile.model.avatars import Status
from tests.drivers.sql.inline import InlineDatabase
from tests.support.fakes.store import MemoryProfileStore, Row


class State(Protocol):
    """A store whose contents can be read."""

    store: Any

    def rows(self) -> list[Row]:
        """Return all rows."""

    def row(self, avatar_id: str) -> Row | None:
        """Return one row."""

    def selections(self) -> list[tuple[str, str | None]]:
        """Return each user with the id of the selected avatar."""

    def names(self) -> dict[str, str | None]:
        """Return the display name of each user."""


class MemoryState:
    """A store in memory, which is fast."""

    def __init__(self) -> None:
        self.store = MemoryProfileStore()

    def rows(self) -> list[Row]:
        return list(self.store.rows.values())

    def row(self, avatar_id: str) -> Row | None:
        return self.store.rows.get(avatar_id)

    def selections(self) -> list[tuple[str, str | None]]:
        return [(user.uid, user.avatar_id) for user in self.store.users.values()]

    def names(self) -> dict[str, str | None]:
        return {user.uid: user.display_name for user in self.store.users.values()}


class SqlState:
    """The SQL store of the service, on SQLite in memory."""

    def __init__(self) -> None:
        self._database = InlineDatabase()
        self.store = SqlProfileStore(self._database)

    def rows(self) -> list[Row]:
        with self._database.engine.begin() as connection:
            found = connection.execute(select(avatars).order_by(avatars.c.seq)).mappings().all()
        rows = []
        for values in found:
            given = {name: value for name, value in values.items() if name != "variants"}
            rows.append(Row(**{**given, "status": Status(values["status"])}))
        return rows

    def row(self, avatar_id: str) -> Row | None:
        return next((row for row in self.rows() if row.id == avatar_id), None)

    def selections(self) -> list[tuple[str, str | None]]:
        query = select(profiles.c.uid, profiles.c.avatar_id).order_by(profiles.c.uid)
        with self._database.engine.begin() as connection:
            return [(row.uid, row.avatar_id) for row in connection.execute(query)]

    def names(self) -> dict[str, str | None]:
        query = select(profiles.c.uid, profiles.c.display_name)
        with self._database.engine.begin() as connection:
            return {row.uid: row.display_name for row in connection.execute(query)}
