"""
The object graph of a process: every driver and every use case, made from the settings.

This is the only module that chooses a driver.  Services are imported where they are made, so
that a process loads only what its role uses.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.application.service import Service
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString

from fxprofile import __version__
from fxprofile.deferreds.services import Stack
from fxprofile.deferreds.threads import Threads
from fxprofile.model.errors import ConfigError
from fxprofile.model.keys import new_id
from fxprofile.model.ports import (
    Handler,
    IBucket,
    ICruncher,
    IIdentity,
    IProfileCache,
    IProfileStore,
    IQueue,
    IRateWindows,
    IRevocations,
)
from fxprofile.serving.channel import StreamingSite
from fxprofile.serving.health import Health
from fxprofile.serving.listener import Listener
from fxprofile.settings.model import Settings
from fxprofile.telemetry import traces
from fxprofile.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from fxprofile.app.processes import Inherited
    from fxprofile.drivers.aws.client.client import AwsClient
    from fxprofile.drivers.filesystem.space import DiskSpace
    from fxprofile.drivers.fxa.customs import Customs
    from fxprofile.drivers.memory.queue import MemoryQueue
    from fxprofile.drivers.redis.connection import RedisConnection
    from fxprofile.drivers.sql.engine import Database
    from fxprofile.drivers.sql.queue import DatabaseQueue
    from fxprofile.http_client.agent import HttpAgent
    from fxprofile.profiles.invalidation import ProfileInvalidator
    from fxprofile.profiles.read import Profiles
    from fxprofile.uploads.accept import Intake
    from fxprofile.uploads.cdn import CdnPurge
    from fxprofile.uploads.outbox import Outbox
    from fxprofile.uploads.overload import LoadShedder
    from fxprofile.uploads.repair import Repair
    from fxprofile.uploads.selection import Selection
    from fxprofile.web.limits import RateLimiter
    from fxprofile.web.upload import UploadAdmission
    from fxprofile.worker.jobs import JobRunner
    from fxprofile.worker.poller import Poller

#: Threads for work on files.
FILE_THREADS = 16

#: Connections that wait in the kernel until the reactor accepts them, unless the endpoint says
#: how many.  The kernel refuses further ones.
BACKLOG = 1024
_HAVE_BACKLOG = ("tcp:", "tcp6:", "ssl:", "unix:")

#: Age in seconds at which an original is removed if nothing else removed it: longer than any
#: message or failed upload is kept.
ORIGINALS_EXPIRE = 30 * 86400

#: Visibility timeout (seconds) and maximum receives of the results and events queues.  Both
#: outlast a short outage of the database.
RESULTS_VISIBILITY = 30
RESULTS_MAX_RECEIVES = 10

#: Seconds until a result in memory that could not be applied is retried, by its receive count.
MEMORY_RETRY_DELAYS = (1, 2, 5, 10)

#: Seconds for a transaction: a client that waits for it gets an error within ten seconds.
DATABASE_TIMEOUT = 5.0

S = TypeVar("S", bound=Service)

#: Applies a new value of a setting; returns False if that needs a restart.
Follower = Callable[[Any], object]


class Services:
    """
    The services of one process, each made when it is first used.

    A service that must be started joins :attr:`stack` when it is made, after everything that
    it uses: so services start in the order of their dependencies, and stop in reverse.

    :param reactor: the Twisted reactor; a test may pass a clock and every driver.
    :param read_only: create, upgrade and clean nothing: no schema, no folder.
    :param replacements: attributes of this class, such as drivers, to use instead of what the
        settings describe; the caller starts and stops them.
    :raises TypeError: if there is no attribute of the name of a replacement.
    :ivar on_disk: what must exist before the reactor runs: a setting, and a blocking call that
        creates what it names.
    :ivar readiness: calls that return when the process can work, or raise.
    :ivar inherited: the socket of the role, if another process has opened it.
    :ivar followers: what applies a new value, by the key of the setting.
    """

    #: Makes the id of an upload.
    new_id = staticmethod(new_id)
    #: Returns random numbers from 0 to 1 for the jitter of retries.
    chance = staticmethod(random.random)
    #: Results and account events that a process handles at the same time.
    result_slots = 10
    #: See :data:`fxprofile.worker.poller.RETRY_DELAYS`, the default.
    retry_delays: tuple[float, ...] | None = None

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        read_only: bool = False,
        **replacements: object,
    ) -> None:
        self.settings = settings
        self.reactor = reactor
        self.stack = Stack()
        self.health = Health(reactor)
        self.listeners: list[Listener] = []
        self.on_disk: list[tuple[str, Callable[[], None]]] = []
        self.readiness: list[Callable[[], Awaitable[object]]] = []
        self.inherited: Inherited | None = None
        self.followers: dict[str, list[Follower]] = {}
        self._read_only = read_only
        if unknown := replacements.keys() - vars(Services).keys():
            raise TypeError(f"no such service: {unknown}")
        # An attribute that is set takes the place of the cached property of its name.
        vars(self).update(replacements)

    def started(self, service: S) -> S:
        """Have a service started and stopped with the process."""
        service.setServiceParent(self.stack)
        return service

    def follow(self, key: str, apply: Follower) -> None:
        """
        Have a setting take effect when the settings are read again.

        :param apply: takes the new value; returns False if that needs a restart.
        """
        self.followers.setdefault(key, []).append(apply)

    # What drivers share.

    @cached_property
    def metrics(self) -> Metrics:
        """The metrics of this process."""
        return Metrics()

    @cached_property
    def files(self) -> Threads:
        """Threads for work on files."""
        return self.started(Threads(self.reactor, "files", FILE_THREADS))

    @cached_property
    def aws(self) -> AwsClient:
        """The client of S3 and SQS, whose credentials and connections all drivers share."""
        from fxprofile.drivers.aws.client.client import AwsClient

        return self.started(
            AwsClient(
                self.reactor,
                self.files,
                self.settings.aws.region,
                user_agent=f"fxprofile/{__version__}",
                headers=traces.headers,
            )
        )

    @cached_property
    def database(self) -> Database:
        """The database of the store and, unless they are on SQS or in memory, of the queues."""
        from fxprofile.drivers.sql.engine import Database

        url = self.settings.database.url.get_secret_value()
        migrate = self.settings.environment == "development" and not self._read_only
        database = self.started(
            Database(self.reactor, url, migrate=migrate, timeout=DATABASE_TIMEOUT)
        )
        self.readiness.append(database.ready)
        self.on_disk.append(("database.url", database.make_file))
        return database

    @cached_property
    def http(self) -> HttpAgent:
        """Sends the HTTP requests of all drivers except AWS."""
        from fxprofile.http_client.agent import HttpAgent

        return self.started(HttpAgent(self.reactor))

    @cached_property
    def redis(self) -> RedisConnection | None:
        """The connection of the cache, the rate limits and the revocations, if configured."""
        url = self.settings.cache.url
        if self.settings.cache.driver != "redis" or url is None:
            return None
        try:
            from fxprofile.drivers.redis.connection import RedisAddress, RedisConnection
        except ImportError as error:
            # fxprofile-admin reads the settings as the images role does, which has no cache.
            raise ConfigError(f"cache.driver: redis needs fxprofile[redis]: {error}") from None
        address = RedisAddress.parse(url.get_secret_value())
        return self.started(RedisConnection(self.reactor, address))

    # Drivers.

    @cached_property
    def store(self) -> IProfileStore:
        """Profiles and avatars."""
        from fxprofile.drivers.sql.store import SqlProfileStore

        return SqlProfileStore(self.database)

    @cached_property
    def disk_space(self) -> DiskSpace | None:
        """What originals may take of the disk; None if they are not on a disk."""
        storage = self.settings.storage
        if storage.driver != "filesystem":
            return None
        from fxprofile.drivers.filesystem.space import DiskSpace

        directory = storage.directory.absolute() / storage.private_bucket
        return DiskSpace(self.files, directory, storage.reserve)

    @cached_property
    def private_bucket(self) -> IBucket:
        """Originals, which are never served."""
        name, space = self.settings.storage.private_bucket, self.disk_space
        return self._bucket(name, expire_after=ORIGINALS_EXPIRE, shared=False, space=space)

    @cached_property
    def public_bucket(self) -> IBucket:
        """Avatars in every size, which the images role serves."""
        return self._bucket(self.settings.storage.public_bucket, expire_after=None, shared=True)

    def _bucket(
        self,
        name: str,
        *,
        expire_after: float | None,
        shared: bool,
        space: DiskSpace | None = None,
    ) -> IBucket:
        settings = self.settings
        if settings.storage.driver == "s3":
            from fxprofile.drivers.aws.s3 import s3_bucket

            return s3_bucket(settings, self.aws, name)
        from fxprofile.drivers.filesystem.bucket import FilesystemBucket

        bucket = FilesystemBucket(
            self.files,
            settings.storage.directory.absolute() / name,
            self.reactor,
            expire_after=expire_after,
            shared=shared,
            space=space,
        )
        # It works without being started; started, it cleans its folder.
        return bucket if self._read_only else self.started(bucket)

    @cached_property
    def jobs_queue(self) -> IQueue:
        """Jobs for workers."""
        return self._queue("jobs", self.settings.queue.jobs_url)

    @cached_property
    def results_queue(self) -> IQueue:
        """Results of jobs, for web processes."""
        return self._queue("results", self.settings.queue.results_url)

    @cached_property
    def dead_jobs_queue(self) -> IQueue | None:
        """Dead letters of the jobs queue, if configured."""
        return self._dead_letters("dead", self.settings.queue.dead_url, self.jobs_queue)

    @cached_property
    def dead_results_queue(self) -> IQueue | None:
        """Dead letters of the results queue, if configured."""
        url = self.settings.queue.results_dead_url
        return self._dead_letters("results_dead", url, self.results_queue)

    @cached_property
    def events_queue(self) -> IQueue | None:
        """Account events from the auth server, if configured."""
        return self._optional_queue("events", self.settings.queue.events_url)

    @cached_property
    def updates_queue(self) -> IQueue | None:
        """Notifications of profile changes for other services, if configured."""
        return self._optional_queue("updates", self.settings.queue.updates_url)

    def _dead_letters(self, name: str, url: str | None, source: IQueue) -> IQueue | None:
        if self.settings.queue.driver == "sqs":
            return self._optional_queue(name, url)
        # Each driver of this service has one; a test may wrap it.
        dead: IQueue = cast("MemoryQueue | DatabaseQueue", source).dead
        return dead

    def _optional_queue(self, name: str, url: str | None) -> IQueue | None:
        return None if url is None else self._queue(name, url)

    def _queue(self, name: str, url: str | None) -> IQueue:
        visibility, max_receives = self.settings.queue.visibility_timeout, None
        if name in ("results", "results_dead", "events"):
            visibility, max_receives = RESULTS_VISIBILITY, RESULTS_MAX_RECEIVES
        if self.settings.queue.driver == "sqs":
            from fxprofile.drivers.aws.sqs import sqs_queue

            if url is None:
                raise ConfigError(f"queue.{name}_url: must be set")
            return self.started(
                sqs_queue(
                    self.settings, self.aws, name=name, url=url, visibility_timeout=visibility
                )
            )
        # The end of its URL, if it has one.
        title = (url or name).rpartition("/")[2]
        limit = max_receives or self.settings.queue.max_receives
        if self.settings.queue.driver == "memory" and name in ("jobs", "results"):
            from fxprofile.drivers.memory.queue import MemoryQueue

            until_deleted = name == "results"
            return MemoryQueue(title, visibility, limit, self.reactor, until_deleted=until_deleted)
        from fxprofile.drivers.sql.queue import DatabaseQueue

        return DatabaseQueue(
            self.database,
            name=title,
            visibility_timeout=visibility,
            max_receives=limit,
            clock=self.reactor,
        )

    @cached_property
    def cache(self) -> IProfileCache:
        """Profiles that were read recently."""
        if self.redis is not None:
            from fxprofile.drivers.redis.cache import RedisProfileCache

            return RedisProfileCache(self.redis, ttl=self.settings.cache.ttl)
        from fxprofile.drivers.memory.expiring import MemoryProfileCache

        ttl = self.settings.cache.ttl
        if self.settings.web.processes > 1:
            # Another process may change a profile, so none is kept.
            return MemoryProfileCache(self.reactor, ttl=ttl, max_bytes=0)
        return MemoryProfileCache(self.reactor, ttl=ttl)

    @cached_property
    def revocations(self) -> IRevocations | None:
        """Revoked tokens that web processes share, if they share a Redis."""
        if self.redis is None:
            return None
        from fxprofile.drivers.redis.revocations import KEEP, RedisRevocations

        seconds = math.ceil(self.settings.identity.token_cache_seconds)
        return RedisRevocations(self.redis, keep=max(KEEP, seconds))

    @cached_property
    def rate_windows(self) -> IRateWindows:
        """The counters of the rate limits."""
        from fxprofile.drivers.memory.expiring import MemoryRateWindows

        local = MemoryRateWindows(self.reactor)
        if self.redis is None:
            return local
        from fxprofile.drivers.redis.windows import RedisRateWindows

        return RedisRateWindows(self.redis, local)

    @cached_property
    def identity(self) -> IIdentity:
        """Verifies tokens and looks up accounts."""
        if self.settings.identity.driver == "fxa":
            from fxprofile.drivers.fxa.identity import FxaIdentity

            return FxaIdentity(
                self.http,
                self.reactor,
                self.metrics,
                self.settings.identity,
                revocations=self.revocations,
            )
        from fxprofile.drivers.dev.identity import DevIdentity

        return DevIdentity(self.settings.identity.dev.accounts)

    @cached_property
    def customs(self) -> Customs | None:
        """The fraud and abuse server, if configured."""
        url = self.settings.customs.url
        if url is None:
            return None
        from fxprofile.drivers.fxa.customs import Customs

        return Customs(self.http, self.metrics, url)

    @cached_property
    def cruncher(self) -> ICruncher:
        """Decodes and encodes images in sandboxed child processes."""
        from fxprofile.crunch.pool import pool_from_settings

        pool = self.started(pool_from_settings(self.reactor, self.settings))
        self.follow("crunch.processes", pool.resize)

        async def ready() -> None:
            layers = await pool.when_ready()
            for layer, in_force in layers.items():
                self.metrics.sandbox_layer.labels(layer).set(in_force)

        self.readiness.append(ready)
        return pool

    # Use cases.

    @cached_property
    def cdn(self) -> CdnPurge | None:
        """Purges pictures from a CDN, if configured."""
        images = self.settings.images
        if images.purge_url is None:
            return None
        from fxprofile.uploads.cdn import CdnPurge

        token = images.purge_token
        return CdnPurge(
            self.http,
            self.metrics,
            images.purge_url,
            template=images.url,
            token=None if token is None else token.get_secret_value(),
        )

    @cached_property
    def outbox(self) -> Outbox:
        """Sends the jobs of avatars."""
        from fxprofile.uploads.outbox import Outbox

        return Outbox(jobs=self.jobs_queue, store=self.store, clock=self.reactor)

    @cached_property
    def invalidator(self) -> ProfileInvalidator:
        """Invalidates cached profiles and notifies other services."""
        from fxprofile.profiles.invalidation import RETRIES, ProfileInvalidator

        return self.started(
            ProfileInvalidator(
                cache=self.cache,
                updates=self.updates_queue,
                metrics=self.metrics,
                clock=self.reactor,
                backoff=replace(RETRIES, chance=self.chance),
            )
        )

    @cached_property
    def selection(self) -> Selection:
        """Applies results, selects and deletes avatars."""
        from fxprofile.uploads.selection import Selection

        return Selection(
            store=self.store,
            outbox=self.outbox,
            invalidator=self.invalidator,
            metrics=self.metrics,
            clock=self.reactor,
            cdn=self.cdn,
        )

    @cached_property
    def intake(self) -> Intake:
        """Accepts uploads."""
        from fxprofile.uploads.accept import Intake

        return Intake(
            private=self.private_bucket,
            store=self.store,
            outbox=self.outbox,
            invalidator=self.invalidator,
            clock=self.reactor,
            heic=self.settings.crunch.heic,
            new_id=self.new_id,
        )

    @cached_property
    def shedder(self) -> LoadShedder:
        """Refuses uploads while there is too much to do."""
        from fxprofile.uploads.overload import LoadShedder

        uploads = self.settings.uploads
        shedder = LoadShedder(
            store=self.store,
            metrics=self.metrics,
            clock=self.reactor,
            max_pending=uploads.max_pending,
            max_pending_per_user=uploads.max_pending_per_user,
            max_age=uploads.max_age,
            room=None if self.disk_space is None else self.disk_space.available,
        )
        for name in ("max_pending", "max_pending_per_user", "max_age"):
            self.follow(f"uploads.{name}", partial(setattr, shedder, name))
        return shedder

    @cached_property
    def profiles(self) -> Profiles:
        """Reads profiles."""
        from fxprofile.profiles.monogram import Monograms
        from fxprofile.profiles.read import Profiles

        monograms = Monograms(
            store=self.store,
            invalidator=self.invalidator,
            metrics=self.metrics,
            url=f"{self.settings.web.public_url}/v1/avatar/",
        )
        return Profiles(
            identity=self.identity,
            store=self.store,
            cache=self.cache,
            invalidator=self.invalidator,
            metrics=self.metrics,
            clock=self.reactor,
            image_template=self.settings.images.url,
            monograms=monograms if self.settings.monogram.enabled else None,
            caches_avatars=self._sees_every_change,
        )

    @property
    def _sees_every_change(self) -> bool:
        """Whether the cache is that of every web process, or there is one web process alone."""
        settings = self.settings
        return settings.cache.driver == "redis" or settings.queue.driver == "memory"

    @cached_property
    def admission(self) -> UploadAdmission:
        """Admits or refuses uploads, by rate limits and customs."""
        from fxprofile.web.upload import UploadAdmission

        limiter = self.limiter("upload", "uploads.per_hour", 3600)
        return UploadAdmission(limiter=limiter, customs=self.customs)

    def limiter(self, name: str, key: str, seconds: int) -> RateLimiter:
        """
        Return a rate limit on calls of a kind.

        :param key: the setting that is the limit.
        """
        from fxprofile.web.limits import RateLimiter

        limiter = RateLimiter(
            windows=self.rate_windows,
            metrics=self.metrics,
            name=name,
            limit=attrgetter(key)(self.settings),
            seconds=seconds,
        )
        self.follow(key, partial(setattr, limiter, "limit"))
        return limiter

    @cached_property
    def job_runner(self) -> JobRunner:
        """Runs the jobs of a worker."""
        from fxprofile.worker.jobs import JobRunner

        return JobRunner(
            private=self.private_bucket,
            public=self.public_bucket,
            results=self.results_queue,
            cruncher=self.cruncher,
            threads=self.files,
            metrics=self.metrics,
            clock=self.reactor,
        )

    # What runs in the background.

    @cached_property
    def repair(self) -> Repair:
        """The loops that resend, expire and clean up."""
        from fxprofile.uploads.repair import Repair

        return self.started(
            Repair(
                store=self.store,
                outbox=self.outbox,
                selection=self.selection,
                intake=self.intake,
                dead=self.dead_jobs_queue,
                dead_results=self.dead_results_queue,
                resend=self.settings.queue.driver == "memory",
                metrics=self.metrics,
                clock=self.reactor,
                owner=self.new_id(),
                queues=(self.jobs_queue, self.results_queue),
            )
        )

    @cached_property
    def jobs_poller(self) -> Poller:
        """Receives jobs, as many at the same time as images can be crunched."""
        poller = self._poller(
            self.jobs_queue,
            self.job_runner.handle,
            slots=self.settings.crunch.processes,
            visibility_timeout=self.settings.queue.visibility_timeout,
            ready=self.cruncher.when_ready,
        )
        self.follow("crunch.processes", partial(setattr, poller, "slots"))
        return poller

    @cached_property
    def results_poller(self) -> Poller:
        """Receives the results of jobs."""
        retries = self.retry_delays
        if self.settings.queue.driver == "memory":
            # A job in progress waits until its result was handled.
            retries = MEMORY_RETRY_DELAYS
        return self._poller(self.results_queue, self.selection.handle, retry_delays=retries)

    @cached_property
    def events_poller(self) -> Poller | None:
        """Receives account events, if configured."""
        if self.events_queue is None:
            return None
        from fxprofile.profiles.account_events import AccountEvents

        events = AccountEvents(
            selection=self.selection,
            invalidator=self.invalidator,
            identity=self.identity,
            metrics=self.metrics,
        )
        return self._poller(self.events_queue, events.handle)

    def _poller(
        self,
        queue: IQueue,
        handler: Handler,
        *,
        slots: int | None = None,
        visibility_timeout: float = RESULTS_VISIBILITY,
        ready: Callable[[], Awaitable[object]] | None = None,
        retry_delays: tuple[float, ...] | None = None,
    ) -> Poller:
        from fxprofile.worker.poller import RETRY_DELAYS, Poller

        return self.started(
            Poller(
                queue=queue,
                handler=handler,
                slots=slots or self.result_slots,
                visibility_timeout=visibility_timeout,
                metrics=self.metrics,
                clock=self.reactor,
                chance=self.chance,
                retry_delays=retry_delays or self.retry_delays or RETRY_DELAYS,
                ready=ready,
            )
        )

    # Listeners.

    def listen(self, key: str, description: str, site: StreamingSite) -> Listener:
        """
        Add a listener.

        :param key: the setting that describes the endpoint, for errors.
        :param description: as :func:`twisted.internet.endpoints.serverFromString` reads it.
        :raises ConfigError: if it describes no endpoint.
        """
        inherited = self.inherited
        if inherited is not None and key != "admin.listen":
            descriptor, family = inherited.descriptor, inherited.family
            endpoint = AdoptedStreamServerEndpoint(self.reactor, descriptor, family)
        else:
            endpoint = self._endpoint(key, description)
        listener = Listener(
            endpoint=endpoint,
            site=site,
            clock=self.reactor,
            where=key,
            description=description,
        )
        self.listeners.append(self.started(listener))
        return listener

    def _endpoint(self, key: str, description: str) -> Any:
        backlog = ""
        if description.startswith(_HAVE_BACKLOG) and ":backlog=" not in description:
            backlog = f":backlog={BACKLOG}"
        try:
            return serverFromString(self.reactor, description + backlog)
        except Exception as error:
            # Each kind of endpoint has its own parser, and some read certificates.
            raise ConfigError(f"{key}: {description!r} is no endpoint: {error}") from None
