"""
Tests for the queue in memory.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.memory.queue import MemoryQueue
from tests.contracts.queue import QueueContract


class MemoryQueueTests(QueueContract, TestCase):
    """The queue in memory does what every queue does."""

    def setUp(self) -> None:
        self.clock = Clock()

    async def make_queue(self) -> MemoryQueue:
        return MemoryQueue("jobs", self.visibility, self.max_receives, self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds / 0.25))

    async def test_no_timer_stays(self) -> None:
        """Nothing is left on the clock when nobody waits."""
        queue = await self.make_queue()
        await self.test_wait_ends()
        await self.test_cancel_wait()
        await queue.send(body="x")
        await queue.receive(max_messages=1, wait=20)
        self.assertEqual(self.clock.getDelayedCalls(), [])
