"""
The services of a command: those of the daemon, read-only.

A command changes only what it is asked to change: it creates and upgrades no database, and does
not clean the folders of the buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxprofile.app.services import Services
from fxprofile.model.errors import ConfigError, StoreError
from fxprofile.model.ports import IBucket, IQueue
from fxprofile.settings.model import Settings

if TYPE_CHECKING:
    from fxprofile.drivers.sql.engine import Database


class NotMigrated(StoreError):
    """The database does not exist, or its schema is of another version."""


class Tools(Services):
    """
    The services that commands work with.

    :param settings: choose the drivers.
    """

    def __init__(self, settings: Settings, reactor: Any) -> None:
        super().__init__(settings, reactor, read_only=True)

    @property
    def database_url(self) -> str:
        """The setting ``database.url`` with its password."""
        return self.settings.database.url.get_secret_value()

    @property
    def embedded(self) -> bool:
        """Whether the database is an SQLite file, which the service creates itself."""
        from fxprofile.drivers.sql.connect import is_embedded, parse_url

        return is_embedded(parse_url(self.database_url))

    async def open_database(self) -> Database:
        """
        Return the database, if this version can work with its schema.

        :raises NotMigrated: if it can not, or there is no database.
        :raises StoreError: if the database cannot be reached.
        """
        from fxprofile.drivers.sql.migrate import current
        from fxprofile.drivers.sql.schema import REVISION

        found = await self.files.run(current, self.database_url)
        if found is None:
            raise NotMigrated(
                f"{where(self.database_url)} does not exist or is empty: check database.url, or run"
                " fxprofile-admin migrate"
            )
        if found != REVISION:
            raise NotMigrated(
                f"the schema of {where(self.database_url)} is {found}, but this version needs"
                f" {REVISION}: run fxprofile-admin migrate of the newer version"
            )
        return self.database

    def bucket(self, which: str) -> IBucket:
        """Return the ``private`` or the ``public`` bucket."""
        return self.private_bucket if which == "private" else self.public_bucket

    def queue(self, name: str) -> IQueue | None:
        """Return a queue by its name in the settings; None if it is not configured."""
        queues: dict[str, Callable[[], IQueue | None]] = {
            "jobs": lambda: self.jobs_queue,
            "results": lambda: self.results_queue,
            "dead": lambda: self.dead_jobs_queue,
            "results_dead": lambda: self.dead_results_queue,
            "events": lambda: self.events_queue,
            "updates": lambda: self.updates_queue,
        }
        return queues[name]()

    def needed_queue(self, name: str) -> IQueue:
        """
        Return a queue by its name in the settings.

        :raises ConfigError: if it is not configured.
        """
        queue = self.queue(name)
        if queue is None:
            raise ConfigError(f"queue.{name}_url: must be set")
        return queue


def where(database_url: str) -> str:
    """Return which database a URL names: a file, or the URL without its password."""
    from fxprofile.drivers.sql.connect import is_embedded, parse_url

    url = parse_url(database_url)
    if is_embedded(url):
        return str(Path(str(url.database)).absolute())
    return url.set(query={}).render_as_string(hide_password=True)
