"""
Tests of :mod:`fxprofile.worker.jobs`: messages of the jobs queue.
"""

from __future__ import annotations

import json

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.errors import CruncherUnavailable, MalformedMessage, StorageError
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
    """The handler of the jobs queue."""

    def test_message_runs_its_job(self) -> None:
        """The job of a message is run."""
        self.run_now(self.runner.handle(job_message()))
        self.assert_done()

    def test_driver_error_fails_the_message(self) -> None:
        """An error of a driver fails the message, so that it is retried."""
        self.private.fail("get", StorageError("down"))
        self.fails_now(self.runner.handle(job_message()), StorageError)

    def test_malformed_job_is_rejected(self) -> None:
        """A malformed message is rejected before any driver is called."""
        for body in JUNK:
            self.fails_now(self.runner.handle(make_message(body=body)), MalformedMessage)
        self.assertEqual(self.diary, [])

    def test_malformed_messages_are_dead_lettered(self) -> None:
        """Malformed messages are dead-lettered and block no job."""
        queue = MemoryQueue("jobs", 60, 3, self.clock)
        for body in JUNK:
            self.run_now(queue.send(body=body))
        self.run_now(queue.send(body=Job(Op.CRUNCH, ID).encode(0)))
        poller = self.make_poller(queue)
        poller.startService()
        self.clock.pump([0.5] * 20)
        self.assert_done()
        self.assertEqual(self.run_now(queue.dead.depth()).visible, len(JUNK))
        self.successResultOf(poller.stopService())

    def test_a_broken_cruncher_uses_up_no_receives(self) -> None:
        """A job that a worker could not crunch many times is not dead-lettered, but done later."""
        queue = MemoryQueue("jobs", 60, 3, self.clock)
        self.run_now(queue.send(body=Job(Op.CRUNCH, ID).encode(0)))
        self.cruncher.plan = [CruncherUnavailable("no helper") for _ in range(5)]
        poller = self.make_poller(queue)
        poller.startService()
        self.clock.pump([0.5] * 80)
        self.assert_done()
        self.assertTrue(self.run_now(poller.check()))
        self.successResultOf(poller.stopService())

    def make_poller(self, queue: MemoryQueue) -> Poller:
        """Return a poller of a jobs queue."""
        return Poller(
            queue=queue,
            handler=self.runner.handle,
            slots=2,
            visibility_timeout=60,
            metrics=self.metrics,
            clock=self.clock,
        )

    def test_slots_limit_concurrent_crunching(self) -> None:
        """No more images are crunched at the same time than the poller has slots."""
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
