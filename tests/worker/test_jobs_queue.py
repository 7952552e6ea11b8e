"""
Tests of :mod:`fxprofile.worker.jobs`.
"""

from __future__ import annotations

import json

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.errors import MalformedMessage, StorageError
from fxprofile.model.messages import Job, Op
from fxprofile.worker.poller import Poller
from tests.support.fakes.queue import make_message
from tests.worker.jobs_case import ID, ORIGINAL, JobsTestCase, job_message

JUNK = (
    "",
    "null",
    "not JSON",
    json.dumps({"v": 1, "op": "crunch", "id": "../../etc/passwd"}),
    json.dumps({"v": 1, "op": "crunch"}),
    json.dumps({"v": 1, "op": "drop", "id": ID}),
    json.dumps({"v": 2, "op": "crunch", "id": ID}),
    json.dumps({"v": True, "op": "crunch", "id": ID}),
    json.dumps({"v": 1, "op": ["crunch"], "id": ID}),
    json.dumps({"v": 1, "op": "crunch", "id": ID, "more": "x" * 5000}),
)


class JobsTests(JobsTestCase):
    """What becomes of the messages of the jobs queue."""

    def test_done(self) -> None:
        """A job is done."""
        self.run_now(self.runner.handle(job_message()))
        self.assert_done()

    def test_fails(self) -> None:
        """What fails outside is tried again."""
        self.private.fail("get", StorageError("down"))
        self.fails_now(self.runner.handle(job_message()), StorageError)

    def test_junk(self) -> None:
        """What is no job can never be understood, and touches nothing."""
        for body in JUNK:
            self.fails_now(self.runner.handle(make_message(body=body)), MalformedMessage)
        self.assertEqual(self.diary, [])

    def test_with_poller(self) -> None:
        """Junk among jobs stops nothing, and ends among the dead."""
        queue = MemoryQueue("jobs", 60, 3, self.clock)
        for body in JUNK:
            self.run_now(queue.send(body=body))
        self.run_now(queue.send(body=Job(Op.CRUNCH, ID).encode(0)))
        poller = Poller(
            queue=queue,
            handler=self.runner.handle,
            slots=2,
            visibility_timeout=60,
            metrics=self.metrics,
            clock=self.clock,
        )
        poller.startService()
        self.clock.pump([0.5] * 20)
        self.assert_done()
        self.assertEqual(self.run_now(queue.dead.depth()).visible, len(JUNK))
        self.successResultOf(poller.stopService())

    def test_slots(self) -> None:
        """No more images are crunched at one time than there are slots."""
        queue = MemoryQueue("jobs", 60, 3, self.clock)
        ids = [f"{number:032x}" for number in range(5)]
        held = [self.cruncher.hold() for _ in ids]
        for avatar_id in ids:
            self.private_objects.objects[avatar_id] = ORIGINAL
            self.run_now(queue.send(body=Job(Op.CRUNCH, avatar_id).encode(0)))
        poller = Poller(
            queue=queue,
            handler=self.runner.handle,
            slots=self.cruncher.slots,
            visibility_timeout=60,
            metrics=self.metrics,
            clock=self.clock,
        )
        poller.startService()
        for number, work in enumerate(held):
            self.assertEqual(len(self.cruncher.crunched), min(5, number + 2))
            work.callback(None)
        self.successResultOf(poller.stopService())
        self.assertEqual(len(self.reported()), 5)
