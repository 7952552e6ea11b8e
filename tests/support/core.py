"""
The use cases of the web role on drivers in memory, for tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.app.services import Services
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.memory.expiring import MemoryProfileCache
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Avatar, Status, Variant
from fxprofile.model.keys import VARIANTS
from fxprofile.model.messages import Job, Result, ResultStatus
from fxprofile.settings.model import Settings
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.flaky import Flaky
from tests.support.fakes.store import MemoryProfileStore

T = TypeVar("T")

ALICE = "a" * 32
BOB = "b" * 32
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(200))

PICTURES = {name: Variant(side, side, side * 10) for name, (_, side) in VARIANTS.items()}


def make_id(number: int) -> str:
    """Return an avatar id made of a number."""
    return f"{number:032x}"


class CoreTestCase(SynchronousTestCase):
    """
    The services of one web process; its drivers fail when a test says so.

    :ivar diary: the calls of the private bucket, the store and the jobs queue.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.diary: list[str] = []
        self.rows = MemoryProfileStore()
        self.originals = MemoryBucket(self.clock)
        self.jobs_queue = MemoryQueue("jobs", 60, 5, self.clock)
        self.updates_queue = MemoryQueue("updates", 60, 5, self.clock)
        self.store = Flaky(self.rows, "store", self.diary)
        self.private = Flaky(self.originals, "private", self.diary)
        self.jobs = Flaky(self.jobs_queue, "jobs", self.diary)
        self.updates = Flaky(self.updates_queue)
        self.cache = Flaky(MemoryProfileCache(self.clock, ttl=3600))
        self.services = self.make_services(Settings())
        self.metrics = self.services.metrics
        self.outbox = self.services.outbox
        self.invalidator = self.services.invalidator
        self.selection = self.services.selection
        self.intake = self.services.intake
        self.logged: list[str] = []
        globalLogPublisher.addObserver(self._log)
        self.addCleanup(globalLogPublisher.removeObserver, self._log)

    def make_services(
        self, settings: Settings, *, first_id: int = 1, **replacements: object
    ) -> Services:
        """
        Return the services of a process that shares the drivers of this case.

        :param first_id: the number of the first id of its uploads.
        """
        ids = itertools.count(first_id)
        return Services(
            settings,
            self.clock,
            store=self.store,
            private_bucket=self.private,
            jobs_queue=self.jobs,
            updates_queue=self.updates,
            cache=self.cache,
            new_id=lambda: make_id(next(ids)),
            **replacements,
        )

    def _log(self, event: LogEvent) -> None:
        self.logged.append(formatEvent(event))

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine that does not wait."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def fails_now(self, work: Coroutine[Any, Any, Any], *kinds: type[Exception]) -> Exception:
        """Return the error of a coroutine that does not wait."""
        return self.failureResultOf(Deferred.fromCoroutine(work), *kinds).value

    def upload(self, uid: str = ALICE, data: bytes = JPEG) -> Avatar:
        """Accept an upload."""
        return self.run_now(self.intake.accept(uid=uid, body=BytesBody(data), length=len(data)))

    def apply(self, avatar_id: str, status: ResultStatus, reason: str | None = None) -> None:
        """Apply the result of a worker."""
        self.run_now(self.selection.apply(result(avatar_id, status, reason)))

    def ready(self, avatar_id: str) -> None:
        """Apply the result of a successful job."""
        self.apply(avatar_id, ResultStatus.READY)

    def received(self, queue: MemoryQueue) -> list[str]:
        """Receive and delete all messages of a queue; return their bodies."""
        bodies = []
        while messages := self.run_now(queue.receive(max_messages=10, wait=0)):
            for message in messages:
                bodies.append(message.body)
                self.run_now(queue.delete(message=message))
        return bodies

    def sent(self) -> list[tuple[str, str]]:
        """Return the jobs that were sent since the last call."""
        jobs = [Job.decode(body) for body in self.received(self.jobs_queue)]
        return [(job.op.value, job.id) for job in jobs]

    def status(self, avatar_id: str) -> Status | None:
        """Return the status of an avatar; None if it has no row."""
        row = self.rows.rows.get(avatar_id)
        return row and row.status

    def selected(self, uid: str = ALICE) -> str | None:
        """Return the id of the selected avatar."""
        return self.run_now(self.rows.profile(uid=uid)).avatar_id


def result(avatar_id: str, status: ResultStatus, reason: str | None = None) -> Result:
    """Return the result of a job."""
    ready = status is ResultStatus.READY
    return Result(avatar_id, status, reason, variants=PICTURES if ready else {})
