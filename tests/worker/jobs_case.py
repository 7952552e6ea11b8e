"""Running jobs on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.keys import public_key
from fxprofile.model.messages import Job, Message, Op, Result, ResultStatus
from fxprofile.telemetry.metrics import Metrics
from fxprofile.worker.jobs import JobRunner
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.cruncher import FakeCruncher, pictures_of
from tests.support.fakes.flaky import Flaky
from tests.support.fakes.queue import make_message
from tests.support.fakes.threads import InlineThreads

ID = "0123456789abcdef" * 2
ORIGINAL = b"\xff\xd8\xff an original" * 10_000


class JobsTestCase(SynchronousTestCase):
    """A worker whose private bucket holds one original."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.diary: list[str] = []
        self.private_objects = MemoryBucket(self.clock)
        self.public_objects = MemoryBucket(self.clock)
        self.queue = MemoryQueue("results", 30, None, self.clock)
        self.private = Flaky(self.private_objects, "private", self.diary)
        self.public = Flaky(self.public_objects, "public", self.diary)
        self.results = Flaky(self.queue, "results", self.diary)
        self.cruncher = FakeCruncher()
        self.metrics = Metrics()
        self.runner = JobRunner(
            private=self.private,
            public=self.public,
            results=self.results,
            cruncher=self.cruncher,
            threads=InlineThreads(),
            metrics=self.metrics,
            clock=self.clock,
        )
        self.private_objects.objects[ID] = ORIGINAL

    def run_job(self, op: Op = Op.CRUNCH) -> Deferred[None]:
        """Run a job."""
        return Deferred.fromCoroutine(self.runner.handle(job_message(op)))

    def run_now(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Return the result of work that does not wait."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def fails_now(self, work: Coroutine[Any, Any, Any], *kinds: type[Exception]) -> None:
        """Return the error of work that does not wait."""
        self.failureResultOf(Deferred.fromCoroutine(work), *kinds)

    def reported(self) -> list[Result]:
        """Return the results that were sent since the last call."""
        receiving = Deferred.fromCoroutine(self.queue.receive(max_messages=10, wait=0))
        messages = self.successResultOf(receiving)
        for message in messages:
            self.successResultOf(Deferred.fromCoroutine(self.queue.delete(message=message)))
        return [Result.decode(message.body) for message in messages]

    def expected(self) -> dict[str, bytes]:
        """Return the objects that a finished job leaves in the public bucket."""
        return {public_key(ID, name): data for name, (_, data) in pictures_of(ORIGINAL).items()}

    def assert_done(self) -> None:
        """Assert that the pictures exist, the original does not, and the last result is ready."""
        self.assertEqual(self.public_objects.objects, self.expected())
        self.assertEqual(self.private_objects.objects, {})
        last = self.reported()[-1]
        self.assertEqual((last.id, last.status), (ID, ResultStatus.READY))
        self.assertEqual(
            last.variants, {name: variant for name, (variant, _) in pictures_of(ORIGINAL).items()}
        )

    def counted(self, outcome: str) -> float:
        """Return how many images had this outcome."""
        labels = {"outcome": outcome}
        return self.metrics.registry.get_sample_value("fxprofile_crunched_total", labels) or 0


def job_message(op: Op = Op.CRUNCH) -> Message:
    """Return a received message with a job of the avatar :data:`ID`."""
    return make_message(body=Job(op, ID).encode(0))


async def _bytes_of(body: Any) -> AsyncIterator[int]:
    async for piece in body:
        for byte in piece:
            yield byte
