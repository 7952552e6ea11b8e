"""
What commands work with: the drivers of the service, with the manners of a visitor.

A command makes nothing that it was not asked for: it creates and upgrades no database,
and does not tidy up in the folders of the buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service

from fxprofile.app.services import Services
from fxprofile.model.errors import ConfigError, StoreError
from fxprofile.model.ports import IBucket, IQueue
from fxprofile.settings.model import Settings


class NotMigrated(StoreError):
    """The database is not there, or its schema is of another version."""


class Tools(Services):
    """
    The services that commands work with.

    :param settings: choose the drivers.
    """

    def __init__(self, settings: Settings, reactor: Any) -> None:
        super().__init__(settings, reactor, read_only=True)

    @property
    def database_url(self) -> str:
        """The setting ``database.url``, password and all."""
        return self.settings.database.url.get_secret_value()

    @property
    def embedded(self) -> bool:
        """Whether the database is a file of the service's own, which it makes itself."""
        from fxprofile.drivers.sql.connect import is_embedded, parse_url

        return is_embedded(parse_url(self.database_url))

    async def open_database(self) -> Any:
        """
        The database, if it is one that this version can work with.

        :raises NotMigrated: if it is not; an embedded one is not made either.
        :raises StoreError: if it cannot be reached.
        """
        from fxprofile.drivers.sql.migrate import current
        from fxprofile.drivers.sql.schema import REVISION

        found = await self.files.run(current, self.database_url)
        if found is None:
            raise NotMigrated(
                f"{where(self.database_url)} is not there, or empty: is database.url right? If so,"
                " run fxprofile-admin migrate"
            )
        if found != REVISION:
            raise NotMigrated(
                f"the schema of {where(self.database_url)} is {found}, and this version needs"
                f" {REVISION}: run fxprofile-admin migrate, of the newer version"
            )
        return self.database

    def bucket(self, which: str) -> IBucket:
        """The ``private`` or the ``public`` bucket."""
        return self.private_bucket if which == "private" else self.public_bucket

    def queue(self, name: str) -> IQueue | None:
        """A queue by the name that operators know; None if it is not configured."""
        match name:
            case "jobs":
                return self.jobs_queue
            case "results":
                return self.results_queue
            case "dead":
                return self.dead_jobs_queue
            case "results_dead":
                return self.dead_results_queue
            case "events":
                return self.events_queue
            case "updates":
                return self.updates_queue
        raise ValueError(f"no such queue: {name}")

    def needed_queue(self, name: str) -> IQueue:
        """
        A queue by the name that operators know.

        :raises ConfigError: if it is not configured.
        """
        queue = self.queue(name)
        if queue is None:
            raise ConfigError(f"queue.{name}_url: must be set")
        return queue

    def at_end(self, call: Callable[[], Any]) -> None:
        """Call something when the command has done its work, and wait for it."""
        _AtEnd(call).setServiceParent(self.stack)


class _AtEnd(Service):
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def stopService(self) -> Any:
        super().stopService()
        return self._call()


def where(database_url: str) -> str:
    """Which database an URL names, for people: a file, or the URL without the password."""
    from fxprofile.drivers.sql.connect import is_embedded, parse_url

    url = parse_url(database_url)
    if is_embedded(url):
        return str(Path(str(url.database)).absolute())
    return url.set(query={}).render_as_string(hide_password=True)
