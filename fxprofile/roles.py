"""
The roles: which parts a process is made of.

One function a role, and this is the only place that sees every part.  Imports are
inside the functions, so that no process loads what its role does not need: the web role
never imports Pillow, the worker never Klein, the images role neither database nor queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint

from fxprofile.aio import Stack, Threads
from fxprofile.config import Role, Settings
from fxprofile.errors import ConfigError
from fxprofile.interfaces import IBucket, IQueue
from fxprofile.metrics import Metrics
from fxprofile.serving.admin import AdminResource
from fxprofile.serving.health import Health
from fxprofile.serving.site import Listener, StreamingSite

#: Threads for files, and transactions at one time.
FILE_THREADS = 16

#: Results that the web role applies at one time.
RESULT_SLOTS = 10


#: Seconds after which an original expires that nothing else removed: longer than any
#: message or failed upload is kept.
ORIGINALS_EXPIRE = 30 * 86400

#: Uploads an hour from one address, for each that a user may make.
USERS_BEHIND_AN_ADDRESS = 10


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
        self._made: dict[str, Any] = {}
        self._ready: list[Callable[[], Awaitable[object]]] = []

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            made = self._made[name] = make()
            if IService.providedBy(made):
                made.setServiceParent(self.stack)
        return self._made[name]

    @property
    def files(self) -> Threads:
        """Threads for work on files."""
        return self._once("files", lambda: Threads(self.reactor, "files", FILE_THREADS))

    @property
    def database(self) -> Any:
        """The database."""

        def make() -> Any:
            from fxprofile.database.engine import Database

            database = Database(
                self.reactor,
                self.settings.database.url.get_secret_value(),
                migrate=self.settings.environment == "development",
            )
            self.must_be_ready(database.ready)
            return database

        return self._once("database", make)

    @property
    def store(self) -> Any:
        """The profile store."""

        def make() -> Any:
            from fxprofile.database.store import SqlProfileStore

            return SqlProfileStore(self.database)

        return self._once("store", make)

    def bucket(self, which: str) -> IBucket:
        """The ``private`` or the ``public`` bucket."""

        def make() -> Any:
            from fxprofile.storage import bucket_from_config

            return bucket_from_config(
                self.settings,
                which,
                reactor=self.reactor,
                threads=self.files,
                expire_after=ORIGINALS_EXPIRE if which == "private" else None,
            )

        return self._once(f"{which} bucket", make)

    def queue(self, name: str) -> IQueue | None:
        """The queue ``jobs``, ``results``, ``dead``, ``events`` or ``updates``."""

        def make() -> Any:
            from fxprofile.queues import queue_from_config

            database = self.database if self.settings.queue.driver == "database" else None
            return queue_from_config(
                self.settings,
                name,
                reactor=self.reactor,
                database=database,
                threads=self.files,
            )

        return self._once(f"{name} queue", make)

    def needed_queue(self, name: str) -> IQueue:
        """A queue without which there is no service."""
        queue = self.queue(name)
        if queue is None:
            raise ConfigError(f"queue.{name}_url: must be set")
        return queue

    def endpoint(self, key: str, description: str) -> IStreamServerEndpoint:
        """The endpoint that a setting names."""
        try:
            return serverFromString(self.reactor, description)
        except (ValueError, KeyError, TypeError, IndexError, OSError) as error:
            raise ConfigError(f"{key}: {description!r} is no endpoint: {error}") from None

    def listen(self, key: str, description: str, site: StreamingSite) -> None:
        """Add a listener."""
        listener = Listener(
            endpoint=self.endpoint(key, description),
            site=site,
            clock=self.reactor,
            where=key,
        )
        listener.setServiceParent(self.stack)
        # It is known at once, so it is asked before what takes longer.
        self._ready.insert(0, listener.ready)

    def must_be_ready(self, ready: Callable[[], Awaitable[object]]) -> None:
        """Name something without which the process had better end at its start."""
        self._ready.append(ready)

    async def ready(self) -> None:
        """
        Wait until the process can do its work.

        :raises ConfigError: or another error with one line, if it cannot.
        """
        for ready in self._ready:
            await ready()


class _GoingDown(Service):
    """Stops first: tells the heartbeats that this process is about to end."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def stopService(self) -> None:
        super().stopService()
        self._health.stopping = True


def make_role(role: Role, settings: Settings, reactor: Any) -> Parts:
    """
    Put a process together.

    :returns: its parts; their ``stack`` is the service to start.
    :raises ConfigError: if a setting cannot be used.
    """
    parts = Parts(settings, reactor, Stack())
    add_admin(parts, role)
    if role in (Role.WORKER, Role.COMBINED):
        add_worker(parts)
    if role in (Role.WEB, Role.COMBINED):
        add_web(parts)
    if role in (Role.IMAGES, Role.COMBINED):
        add_images(parts)
    _GoingDown(parts.health).setServiceParent(parts.stack)
    return parts


def add_admin(parts: Parts, role: Role) -> None:
    """Add the admin listener: it starts first and ends last."""
    site = StreamingSite(
        AdminResource(health=parts.health, metrics=parts.metrics), reactor=parts.reactor
    )
    parts.listen("admin.listen", parts.settings.admin_listen(role), site)


def add_images(parts: Parts) -> None:
    """Add the images role: it serves the public bucket, and knows nothing else."""
    from fxprofile.images.site import make_site

    settings = parts.settings
    public = parts.bucket("public")
    parts.health.add("public bucket", public.check)
    site = make_site(
        bucket=public,
        max_age=settings.images.max_age,
        clock=parts.reactor,
        metrics=parts.metrics,
    )
    parts.listen("images.listen", settings.images.listen, site)


def add_worker(parts: Parts) -> None:
    """Add the worker role: jobs in, pictures and results out."""
    from fxprofile.compute.pool import pool_from_settings
    from fxprofile.crunch import Crunch
    from fxprofile.queues.poller import Poller
    from fxprofile.worker.jobs import jobs_handler

    settings = parts.settings
    jobs = parts.needed_queue("jobs")
    results = parts.needed_queue("results")
    private, public = parts.bucket("private"), parts.bucket("public")
    cruncher = pool_from_settings(parts.reactor, settings)
    cruncher.setServiceParent(parts.stack)

    async def sandboxed() -> None:
        for layer, in_force in (await cruncher.when_ready()).items():
            parts.metrics.sandbox_layer.labels(layer).set(in_force)

    parts.must_be_ready(sandboxed)
    crunch = Crunch(
        private=private,
        public=public,
        results=results,
        cruncher=cruncher,
        threads=parts.files,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller = Poller(
        queue=jobs,
        handler=jobs_handler(crunch),
        slots=settings.crunch.processes,
        visibility_timeout=settings.queue.visibility_timeout,
        metrics=parts.metrics,
        clock=parts.reactor,
    )
    poller.setServiceParent(parts.stack)
    _is_healthy(parts.health, "jobs poller", poller)
    parts.health.add("jobs queue", jobs.check)
    parts.health.add("private bucket", private.check)


def add_web(parts: Parts) -> None:
    """Add the web role: the API, the results, and the repair loops."""
    from fxprofile.cache import cache_from_config
    from fxprofile.cache.windows import MemoryWindows
    from fxprofile.events.repair import Repair
    from fxprofile.events.results import results_handler
    from fxprofile.identity import identity_from_config
    from fxprofile.intake import Intake
    from fxprofile.outbox import Outbox
    from fxprofile.profiles import Changes, Profiles
    from fxprofile.queues import RESULTS_VISIBILITY
    from fxprofile.queues.poller import Poller
    from fxprofile.selection import Selection
    from fxprofile.web.api import Api
    from fxprofile.web.avatar import Avatars
    from fxprofile.web.dockerflow import Dockerflow
    from fxprofile.web.gate import Gate
    from fxprofile.web.limits import RateLimits
    from fxprofile.web.playground_page import Playground
    from fxprofile.web.profile import ProfileEndpoints
    from fxprofile.web.site import Endpoints, make_site
    from fxprofile.web.upload import Uploads

    settings, reactor, metrics = parts.settings, parts.reactor, parts.metrics
    store, private = parts.store, parts.bucket("private")
    jobs, results = parts.needed_queue("jobs"), parts.needed_queue("results")
    identity = identity_from_config(settings, reactor)
    cache = cache_from_config(settings, reactor)
    for driver in (identity, cache):
        if IService.providedBy(driver):
            driver.setServiceParent(parts.stack)
    outbox = Outbox(jobs=jobs, store=store, clock=reactor)
    changes = Changes(cache=cache, updates=parts.queue("updates"), metrics=metrics)
    selection = Selection(store=store, outbox=outbox, changes=changes, clock=reactor)
    intake = Intake(private=private, store=store, outbox=outbox, clock=reactor)
    profiles = Profiles(
        identity=identity,
        store=store,
        cache=cache,
        changes=changes,
        metrics=metrics,
        clock=reactor,
        image_template=settings.images.url,
        monogram_url=f"{settings.web.public_url}/v1/avatar/" if settings.monogram.enabled else None,
    )
    gate = Gate(
        limits=RateLimits(
            MemoryWindows(reactor),
            reactor,
            metrics,
            per_user=settings.uploads.per_hour,
            per_address=settings.uploads.per_hour * USERS_BEHIND_AN_ADDRESS,
        ),
        address_depth=settings.web.client_address_depth,
    )
    poller = Poller(
        queue=results,
        handler=results_handler(selection, metrics),
        slots=RESULT_SLOTS,
        visibility_timeout=RESULTS_VISIBILITY,
        metrics=metrics,
        clock=reactor,
    )
    poller.setServiceParent(parts.stack)
    Repair(
        store=store,
        outbox=outbox,
        selection=selection,
        intake=intake,
        dead=parts.queue("dead"),
        metrics=metrics,
        clock=reactor,
    ).setServiceParent(parts.stack)
    parts.health.add("database", store.check)
    parts.health.add("private bucket", private.check)
    parts.health.add("jobs queue", jobs.check)
    parts.health.add("results queue", results.check)
    _is_healthy(parts.health, "results poller", poller)
    groups: list[Endpoints] = [
        Uploads(
            intake=intake,
            selection=selection,
            store=store,
            gate=gate,
            metrics=metrics,
            max_bytes=settings.uploads.max_bytes,
            wait=settings.uploads.wait,
            image_template=settings.images.url,
        ),
        Avatars(profiles=profiles, selection=selection, monograms=settings.monogram.enabled),
        ProfileEndpoints(profiles=profiles, started=reactor.seconds()),
    ]
    page = None
    if settings.environment == "development" and settings.identity.driver == "dev":
        playground = Playground(
            accounts=settings.identity.dev.accounts,
            public_url=settings.web.public_url,
            image_template=settings.images.url,
            max_bytes=settings.uploads.max_bytes,
            threads=parts.files,
        )
        groups.append(playground)
        page = playground.page
    groups.append(Dockerflow(health=parts.health, page=page))
    api = Api(identity=identity, metrics=metrics, clock=reactor)
    parts.listen("web.listen", settings.web.listen, make_site(api, groups, reactor))


def _is_healthy(health: Health, name: str, poller: Any) -> None:
    async def check() -> bool:
        return bool(poller.healthy)

    health.add(name, check)
