"""
The services of a command: those of the daemon, read-only; and what commands look up with them.

A command changes only what it is asked to change: it creates and upgrades no database, and does
not clean the folders of the buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from tempfile import TemporaryFile
from typing import IO, Any, Final, TypeVar, cast

from sqlalchemy import ColumnElement, select
from twisted.internet.defer import Deferred, DeferredSemaphore, FirstError, gatherResults
from twisted.internet.interfaces import IReactorTime

from fxprofile.admin.shared.output import moment
from fxprofile.app.services import Services
from fxprofile.crunch.helper_connection import START_TIMEOUT
from fxprofile.crunch.pool import CrunchPool
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.drivers.sql.connect import file_of, is_embedded, parse_url
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.migrate import current, is_usable
from fxprofile.drivers.sql.schema import REVISION, avatars
from fxprofile.model.errors import ConfigError, ObjectNotFound, StoreError
from fxprofile.model.keys import private_key, public_keys
from fxprofile.model.messages import Job, Op
from fxprofile.model.ports import IBucket, IQueue, ObjectInfo
from fxprofile.settings.model import Settings

T = TypeVar("T")
R = TypeVar("R")


#: Why no command sees the jobs and results of a combined process.
IN_MEMORY: Final = (
    "queue.driver is memory, the default of the combined role: jobs, results and their dead letters"
    " are in that process, and its metrics count them; if web and worker are apart, set"
    " queue.driver = database"
)


class LocalDeletions(MemoryQueue):
    """
    Deletes objects itself, in place of a worker whose jobs queue is in its own memory.

    A row stays in ``deleting`` until the worker repeats that.
    """

    def __init__(self, clock: IReactorTime, *, private: IBucket, public: IBucket) -> None:
        super().__init__("jobs", 0, None, clock)
        self._private, self._public = private, public

    async def send(self, *, body: str) -> None:
        job = Job.decode(body)
        if job.op is Op.DELETE:
            await self._public.delete(keys=public_keys(job.id))
            await self._private.delete(keys=[private_key(job.id)])


class NotMigrated(StoreError):
    """The database does not exist, or its schema is of another version."""


class Tools(Services):
    """
    The services that commands work with.

    :param settings: choose the drivers.
    :ivar database_url: the setting ``database.url`` with its password.
    """

    def __init__(self, settings: Settings, reactor: Any) -> None:
        super().__init__(settings, reactor, read_only=True)
        self.database_url = settings.database.url.get_secret_value()

    async def open_database(self) -> Database:
        """
        Return the database, if this version can work with its schema.

        :raises NotMigrated: if it can not, or there is no database.
        :raises StoreError: if the database cannot be reached.
        """
        found = await self.files.run(current, self.database_url)
        if found is None:
            raise NotMigrated(
                f"{where(self.database_url)} does not exist or is empty: check database.url, or run"
                " fxprofile-admin migrate"
            )
        if not is_usable(found):
            raise NotMigrated(
                f"the schema of {where(self.database_url)} is {found}, but this version needs"
                f" {REVISION}: run fxprofile-admin migrate of the newer version"
            )
        return self.database

    async def crunch_pool(self) -> CrunchPool:
        """
        Return the crunch pool of the worker, once it is started.

        :raises CruncherUnavailable: if its sandbox is not available.
        """
        pool = cast(CrunchPool, self.cruncher)
        await pool.when_ready(START_TIMEOUT)
        return pool

    def bucket(self, which: str) -> IBucket:
        """Return the ``private`` or the ``public`` bucket."""
        return self.private_bucket if which == "private" else self.public_bucket

    @cached_property
    def jobs_queue(self) -> IQueue:
        """Jobs for workers; one in the memory of another process is out of reach."""
        if self.settings.queue.driver != "memory":
            return super().jobs_queue
        return LocalDeletions(self.reactor, private=self.private_bucket, public=self.public_bucket)

    def is_in_memory(self, name: str) -> bool:
        """Return whether only the combined process can see a queue, by its name."""
        return self.settings.queue.driver == "memory" and name not in ("events", "updates")

    def queue(self, name: str) -> IQueue | None:
        """
        Return a queue by its name in the settings; None if it is not configured.

        :raises ConfigError: if it is in the memory of another process.
        """
        if self.is_in_memory(name):
            raise ConfigError(IN_MEMORY)
        queues: dict[str, Callable[[], IQueue | None]] = {
            "jobs": lambda: self.jobs_queue,
            "results": lambda: self.results_queue,
            "dead": lambda: self.dead_jobs_queue,
            "results_dead": lambda: self.dead_results_queue,
            "events": lambda: self.events_queue,
            "updates": lambda: self.updates_queue,
        }
        return queues[name]()

    def queue_at(self, name: str, url: str) -> IQueue:
        """Return the queue with a URL that is not in the settings."""
        return self._queue(name, url)

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
    url = parse_url(database_url)
    if is_embedded(url):
        return str(file_of(url))
    return url.set(query={}).render_as_string(hide_password=True)


def temporary_file(data: bytes) -> IO[bytes]:
    """Return an unnamed file with these bytes; the caller closes it.  Blocks."""
    file = TemporaryFile()  # noqa: SIM115
    file.write(data)
    file.flush()
    return file


async def gathered(
    call: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], slots: int
) -> list[R]:
    """
    Call a coroutine function for each item, a bounded number at the same time.

    Twisted's ``gatherResults`` neither bounds the calls nor cancels the others when one fails.

    :param slots: how many calls may run at the same time.
    :returns: the results in the order of the items.
    :raises Exception: the first that a call raises; the other calls are cancelled.
    """
    semaphore = DeferredSemaphore(slots)
    running: list[Deferred[R]] = [semaphore.run(call, item) for item in items]
    try:
        return list(await gatherResults(running, consumeErrors=True))
    except FirstError as error:
        error.subFailure.raiseException()
        raise
    finally:
        for work in running:
            work.cancel()


@dataclass
class AvatarRecord:
    """
    A row of the avatars table.

    :ivar updated: when the status last changed; all times are seconds since the epoch.
    :ivar job_sent: when its pending job was sent, None if that is still to do.
    :ivar owed_since: since when it has a pending job, None if it has none.
    :ivar source_digest: of the upload, :data:`fxprofile.model.avatars.DIGEST`; None if unknown.
    :ivar pixels_digest: of the largest picture's pixels, likewise.
    """

    id: str
    uid: str
    seq: int
    status: str
    error: str | None
    created: float
    updated: float
    job_sent: float | None
    owed_since: float | None
    source_digest: str | None
    pixels_digest: str | None


#: Members of the JSON of a record that are times.
_TIMES = ("created", "updated", "job_sent", "owed_since")
_COLUMNS = [avatars.c[field.name] for field in fields(AvatarRecord)]


def record_members(record: AvatarRecord | None) -> dict[str, object]:
    """Return a record as JSON, with null for every member if there is none."""
    if record is None:
        return dict.fromkeys(field.name for field in fields(AvatarRecord))
    members = asdict(record)
    return members | {name: moment(members[name]) for name in _TIMES}


async def avatar_records(
    tools: Tools,
    *where: ColumnElement[bool],
    order: ColumnElement[object] = avatars.c.id,
    limit: int | None = None,
) -> Sequence[AvatarRecord]:
    """Return the records that match; the database is open."""
    query = select(*_COLUMNS).where(*where).order_by(order).limit(limit)
    rows = await tools.database.run(lambda c: c.execute(query).all(), read_only=True)
    return [AvatarRecord(*row) for row in rows]


async def avatar_record(tools: Tools, avatar_id: str) -> AvatarRecord | None:
    """Return the record of an avatar, or None; the database is open."""
    return next(iter(await avatar_records(tools, avatars.c.id == avatar_id)), None)


async def head(bucket: IBucket, key: str) -> ObjectInfo | None:
    """
    Return the size and age of an object, or None if there is no such object.

    :raises StorageError: if the bucket cannot be reached.
    """
    try:
        return await bucket.head(key=key)
    except ObjectNotFound:
        return None
