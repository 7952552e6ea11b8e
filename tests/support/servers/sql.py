"""The base of the database servers that tests start."""

from __future__ import annotations

import os
import pwd
from itertools import count

from tests.support.servers.local import PASSWORD, LocalServer

#: The user of every server.
USER = "fxprofile"


def unprivileged(*names: str) -> str | None:
    """Return the first of these users that exists, if this process is root; None otherwise."""
    if os.geteuid():
        return None
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return None


class SqlServer(LocalServer):
    """A server of databases."""

    def __init__(self, name: str, user: str | None) -> None:
        super().__init__(name, user)
        self._numbers = count(1)

    def create(self, name: str) -> None:
        """Make an empty database."""
        raise NotImplementedError

    def url(self, database: str, password: str = PASSWORD) -> str:
        """What ``database.url`` is for this database."""
        raise NotImplementedError

    def new_database(self) -> str:
        """Make an empty database, and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.create(name)
        return self.url(name)
