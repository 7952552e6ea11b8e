"""
What the roles of one process are made of.

Imports of drivers are inside the functions, so that no process loads what its roles do
not need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.service import IService
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from fxprofile.app.crashpoints import crash_point
from fxprofile.deferreds.services import Stack
from fxprofile.deferreds.threads import Threads
from fxprofile.model.errors import ConfigError, StoreError
from fxprofile.model.ports import IBucket, IIdentity, IProfileCache, IProfileStore, IQueue
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.serving.health import Health
from fxprofile.serving.site import Listener, StreamingSite
from fxprofile.settings.model import Settings
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.selection import Selection

#: Threads for work on files.
FILE_THREADS = 16

#: Connections that may wait until the reactor takes them, unless the setting says how many:
#: if many clients come at one time, those that find no room are cut off.
BACKLOG = 1024
_QUEUING = ("tcp:", "tcp6:", "ssl:", "unix:")

#: Seconds after which an original expires that nothing else removed: longer than any
#: message or failed upload is kept.
ORIGINALS_EXPIRE = 30 * 86400


class Parts:
    """
    What the roles of one process share, made when it is first asked for.

    :param stack: what is made becomes part of it; what is asked for first starts first
        and ends last.
    """

    def __init__(self, settings: Settings, reactor: Any, stack: Stack) -> None:
        self.settings = settings
        self.reactor = reactor
        self.stack = stack
        self.metrics = Metrics()
        self.health = Health(reactor)
        self._crash_point = crash_point()
        self._made: dict[str, Any] = {}
        self._ready: list[Callable[[], Awaitable[object]]] = []
        self._listeners: list[Listener] = []
        self._files: list[tuple[str, Callable[[], None]]] = []

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of this name; the first time it is made, and becomes part of the stack."""
        if name not in self._made:
            made = make()
            if IService.providedBy(made):
                made.setServiceParent(self.stack)
            if self._crash_point is not None and self._crash_point.driver == name:
                made = self._crash_point.guard(made)
            self._made[name] = made
        return self._made[name]

    @property
    def files(self) -> Threads:
        """Threads for work on files."""
        return self.once("files", lambda: Threads(self.reactor, "files", FILE_THREADS))

    @property
    def database(self) -> Any:
        """The database."""

        def make() -> Any:
            from fxprofile.drivers.sql.engine import Database

            database = Database(
                self.reactor,
                self.settings.database.url.get_secret_value(),
                migrate=self.settings.environment == "development",
            )

            async def ready() -> None:
                try:
                    await database.ready()
                except StoreError as error:
                    raise ConfigError(f"database.url: {error}") from None

            self.must_be_ready(ready)
            self._files.append(("database.url", database.make_file))
            return database

        return self.once("database", make)

    @property
    def store(self) -> IProfileStore:
        """The profile store."""

        def make() -> Any:
            from fxprofile.drivers.sql.store import SqlProfileStore

            return SqlProfileStore(self.database)

        return self.once("store", make)

    def bucket(self, which: str, *, writes: bool = True) -> IBucket:
        """
        The ``private`` or the ``public`` bucket.

        :param writes: whether whoever is the first to ask puts or deletes something.
        """

        def make() -> Any:
            from fxprofile.drivers.storage import bucket_from_config

            bucket: Any = bucket_from_config(
                self.settings,
                which,
                reactor=self.reactor,
                threads=self.files,
                expire_after=ORIGINALS_EXPIRE if which == "private" else None,
            )
            if writes and self.settings.storage.driver == "filesystem":
                self._files.append(("storage.directory", bucket.make_folder))
            return bucket

        return self.once(f"{which} bucket", make)

    def queue(self, name: str) -> IQueue | None:
        """
        The queue ``jobs``, ``results``, ``dead``, ``results_dead``, ``events`` or
        ``updates``.
        """

        def make() -> Any:
            from fxprofile.drivers.queues import queue_from_config

            database = self.database if self.settings.queue.driver == "database" else None
            return queue_from_config(
                self.settings,
                name,
                reactor=self.reactor,
                database=database,
                threads=self.files,
            )

        return self.once(f"{name} queue", make)

    def needed_queue(self, name: str) -> IQueue:
        """A queue without which there is no service."""
        queue = self.queue(name)
        if queue is None:
            raise ConfigError(f"queue.{name}_url: must be set")
        return queue

    def endpoint(self, key: str, description: str) -> IStreamServerEndpoint:
        """The endpoint that a setting names."""
        queues = description.startswith(_QUEUING) and ":backlog=" not in description
        backlog = f":backlog={BACKLOG}" if queues else ""
        try:
            return serverFromString(self.reactor, description + backlog)
        except Exception as error:
            # Each kind of endpoint has its own parser, and some read certificates.
            raise ConfigError(f"{key}: {description!r} is no endpoint: {error}") from None

    @property
    def identity(self) -> IIdentity:
        """Who a token speaks for."""

        def make() -> Any:
            from fxprofile.drivers.cache import revocations_from_config
            from fxprofile.drivers.identity import identity_from_config

            return identity_from_config(
                self.settings,
                self.reactor,
                self.metrics,
                revocations_from_config(self.settings, self.cache),
            )

        return self.once("identity", make)

    @property
    def cache(self) -> IProfileCache:
        """Profiles that were read lately."""

        def make() -> Any:
            from fxprofile.drivers.cache import cache_from_config

            cache: Any = cache_from_config(self.settings, self.reactor)
            if self.settings.cache.driver == "redis":
                cache.connection.setServiceParent(self.stack)
            return cache

        return self.once("cache", make)

    @property
    def outbox(self) -> Outbox:
        """The jobs that rows owe."""
        return self.once(
            "outbox",
            lambda: Outbox(jobs=self.needed_queue("jobs"), store=self.store, clock=self.reactor),
        )

    @property
    def invalidator(self) -> ProfileInvalidator:
        """Invalidates cached profiles and notifies other services."""
        return self.once(
            "invalidator",
            lambda: ProfileInvalidator(
                cache=self.cache,
                updates=self.queue("updates"),
                metrics=self.metrics,
                clock=self.reactor,
            ),
        )

    @property
    def selection(self) -> Selection:
        """Who decides which avatar a user has."""
        return self.once(
            "selection",
            lambda: Selection(
                store=self.store,
                outbox=self.outbox,
                invalidator=self.invalidator,
                metrics=self.metrics,
                clock=self.reactor,
            ),
        )

    def listen(self, key: str, description: str, site: StreamingSite) -> None:
        """Add a listener."""
        listener = Listener(
            endpoint=self.endpoint(key, description),
            site=site,
            clock=self.reactor,
            where=key,
            description=description,
        )
        listener.setServiceParent(self.stack)
        self._listeners.append(listener)

    def must_be_ready(self, ready: Callable[[], Awaitable[object]]) -> None:
        """Name something without which the process had better end at its start."""
        self._ready.append(ready)

    async def ready(self) -> None:
        """
        Wait until the process can do its work.

        :raises ConfigError: or another error with one line, if it cannot.
        """
        for ready in (*(listener.ready for listener in self._listeners), *self._ready):
            await ready()

    def check_listeners(self) -> None:
        """
        Look whether it is known already that a listener cannot be opened.

        :raises ConfigError: if it is.
        """
        for listener in self._listeners:
            listener.check()

    def check_files(self) -> None:
        """
        Make what this process keeps on its own disk, unless it is there.

        This blocks, so it is for the time before the reactor runs.

        :raises ConfigError: if something cannot be written to.
        """
        for key, make in self._files:
            try:
                make()
            except OSError as error:
                where = f" {error.filename}" if error.filename else ""
                raise ConfigError(f"{key}: cannot write to{where}: {error.strerror}") from None
