"""
Tests of :mod:`fxprofile.drivers.memory.queue`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from fxprofile.drivers.memory.queue import MAX_DEAD, MemoryQueue
from tests.contracts.queue import QueueContract


class MemoryQueueTests(QueueContract, TestCase):
    """The memory queue fulfils the contract of queues."""

    def setUp(self) -> None:
        self.clock = Clock()

    async def make_queue(self) -> MemoryQueue:
        return MemoryQueue("jobs", self.visibility, self.max_receives, self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds / 0.25))

    async def test_send_waits_for_the_deletion(self) -> None:
        """A queue that is asked to returns from a send when the message was handled."""
        queue = MemoryQueue("results", 60, 1, self.clock, until_deleted=True)
        for source in (queue, queue.dead):
            sending = Deferred.fromCoroutine(queue.send(body="x"))
            (message,) = await self.receive(queue)
            if source is queue.dead:
                await queue.extend(message=message, visibility=0)
                await self.receive(queue)
                (message,) = await self.receive(queue.dead)
            self.assertFalse(sending.called)
            await source.delete(message=message)
            await sending

    async def test_dead_letters_are_bounded(self) -> None:
        """The dead-letter queue keeps the newest dead letters, up to a limit."""
        queue = MemoryQueue("jobs", 60, 0, self.clock)
        for number in range(MAX_DEAD + 2):
            await queue.send(body=str(number))
        await self.receive(queue)
        (oldest,) = await self.receive(queue.dead, 1)
        depth = await queue.dead.depth()
        self.assertEqual((oldest.body, depth.visible), ("2", MAX_DEAD - 1))

    async def test_finished_receive_leaves_no_timer(self) -> None:
        """A receive that has ended leaves no timer."""
        queue = await self.make_queue()
        await self.test_wait_times_out()
        await self.test_cancelled_wait_loses_no_message()
        await queue.send(body="x")
        await queue.receive(max_messages=1, wait=20)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_a_wait_ends_when_a_message_becomes_visible(self) -> None:
        """A waiting receive gets a hidden message when it becomes visible, and no later."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive(queue)
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        await queue.extend(message=message, visibility=7.1)
        self.clock.advance(7)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        (again,) = await waiting
        self.assertEqual(again.body, "x")

    async def test_a_wait_for_nothing_does_nothing(self) -> None:
        """A receive that waits at an empty queue has one timer, that of its end."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [20])
        self.clock.advance(20)
        self.assertEqual(await waiting, [])
