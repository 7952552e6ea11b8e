"""
Tests of :mod:`fxprofile.uploads.selection`: messages of the results queue.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.avatars import Status
from fxprofile.model.errors import MalformedMessage, QueueError, StoreError
from fxprofile.model.messages import ResultStatus
from fxprofile.worker.poller import Poller
from tests.support.core import CoreTestCase, make_id, result
from tests.support.fakes.queue import make_message

JUNK = ("", "null", "[]", "{}", '{"v":2}', "\x00", "[" * 4000, "9" * 5000)


class ResultsTests(CoreTestCase):
    """The handler of the results queue."""

    def message(self, outcome: ResultStatus, reason: str | None = None) -> object:
        return make_message(body=result(make_id(1), outcome, reason).encode())

    def counted(self, status: str) -> float:
        labels = {"status": status}
        return self.metrics.registry.get_sample_value("fxprofile_results_total", labels) or 0

    def test_results_are_applied_and_counted(self) -> None:
        """Each result is applied, and counted by its status."""
        avatar = self.upload()
        self.run_now(self.selection.handle(self.message(ResultStatus.FAILED, "crashed")))
        self.assertEqual(self.status(avatar.id), Status.FAILED)
        self.run_now(self.selection.handle(self.message(ResultStatus.READY)))
        self.assertEqual(self.status(avatar.id), Status.READY)
        self.run_now(self.selection.handle(self.message(ResultStatus.DELETED)))
        self.assertEqual([self.counted(s) for s in ("failed", "ready", "deleted")], [1, 1, 1])

    def test_store_error_fails_the_message(self) -> None:
        """A result that cannot be applied fails its message and is not counted."""
        self.upload()
        self.store.fail("ready", StoreError("down"))
        self.fails_now(self.selection.handle(self.message(ResultStatus.READY)), StoreError)
        self.assertEqual(self.counted("ready"), 0)

    def test_malformed_result_is_rejected(self) -> None:
        """A message that is not a result raises MalformedMessage."""
        for body in JUNK:
            self.fails_now(self.selection.handle(make_message(body=body)), MalformedMessage)

    def test_malformed_messages_are_dead_lettered(self) -> None:
        """
        Malformed messages are dead-lettered, and failed results are retried until they are applied.
        """
        queue = MemoryQueue("results", 30, 3, self.clock)
        poller = Poller(
            queue=queue,
            handler=self.selection.handle,
            slots=10,
            visibility_timeout=30,
            metrics=self.metrics,
            clock=self.clock,
        )
        avatar = self.upload()
        for body in JUNK:
            self.run_now(queue.send(body=body))
        self.run_now(queue.send(body=result(avatar.id, ResultStatus.READY).encode()))
        self.store.fail("ready", StoreError("down"))
        self.store.fail("ready", QueueError("odd"), after=True)
        poller.startService()
        self.clock.pump([0.5] * 200)
        self.assertEqual(self.selected(), avatar.id)
        depth = self.run_now(queue.depth())
        self.assertEqual((depth.visible, depth.in_flight), (0, 0))
        self.assertEqual(self.run_now(queue.dead.depth()).visible, len(JUNK))
        stopping: Deferred[None] = poller.stopService()
        self.successResultOf(stopping)
