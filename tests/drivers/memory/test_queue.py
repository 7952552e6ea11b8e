"""
Tests of :mod:`fxprofile.drivers.memory.queue`.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.memory.queue import MemoryQueue
from tests.contracts.queue import QueueContract


class MemoryQueueTests(QueueContract, TestCase):
    """The memory queue fulfils the contract of queues."""

    def setUp(self) -> None:
        self.clock = Clock()

    async def make_queue(self) -> MemoryQueue:
        return MemoryQueue("jobs", self.visibility, self.max_receives, self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds / 0.25))

    async def test_finished_receive_leaves_no_timer(self) -> None:
        """A receive that has ended leaves no timer."""
        queue = await self.make_queue()
        await self.test_wait_times_out()
        await self.test_cancelled_wait_loses_no_message()
        await queue.send(body="x")
        await queue.receive(max_messages=1, wait=20)
        self.assertEqual(self.clock.getDelayedCalls(), [])
