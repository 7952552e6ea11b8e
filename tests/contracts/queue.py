"""
What every queue does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from zope.interface.verify import verifyObject

from fxprofile.model.errors import LeaseLost
from fxprofile.model.messages import Message
from fxprofile.model.ports import IQueue

BODIES = [
    '{"v": 1}',
    " padded ",
    "lines\nand\ttabs",
    "ümläut, 漢字, \N{FAMILY} and \N{GRINNING FACE}",
    "quotes ' \" ` \\ % :name {brace} ?",
    "x" * 100_000,
]


class QueueContract:
    """
    A test case that is also one of these makes its queue by :meth:`make_queue`.

    :cvar visibility: the visibility timeout of the queues under test, in seconds; a
        whole number, and short if time really has to pass.
    """

    visibility = 60
    max_receives = 3

    async def make_queue(self) -> Any:
        """A new, empty queue with this visibility timeout and number of receives."""
        raise NotImplementedError

    async def dead_letters(self, queue: Any) -> Any:
        """The queue that the dead letters of a queue go to."""
        return queue.dead

    async def pass_time(self, seconds: float) -> None:
        """Let so many seconds pass."""
        raise NotImplementedError

    async def receive(self, queue: Any, max_messages: int = 10) -> Sequence[Message]:
        """What is there now."""
        messages: Sequence[Message] = await queue.receive(max_messages=max_messages, wait=0)
        return messages

    async def receive_all(self, queue: Any, number: int) -> list[Message]:
        """So many messages, however many each receive gives."""
        messages: list[Message] = []
        for _ in range(20 * number):
            messages += await self.receive(queue)
            if len(messages) >= number:
                break
        return messages

    async def test_interface(self) -> None:
        """It provides the interface."""
        verifyObject(IQueue, await self.make_queue())

    async def test_send_and_receive(self) -> None:
        """A message that was sent is received once, with its body and counts."""
        queue = await self.make_queue()
        await queue.send(body="hello")
        (message,) = await self.receive_all(queue, 1)
        self.assertEqual((message.body, message.receive_count), ("hello", 1))
        self.assertTrue(message.message_id)
        self.assertTrue(message.receipt_handle)
        self.assertEqual(await self.receive(queue), [])

    async def test_empty(self) -> None:
        """An empty queue gives nothing."""
        self.assertEqual(await self.receive(await self.make_queue()), [])

    async def test_bodies(self) -> None:
        """Bodies come out as they went in."""
        queue = await self.make_queue()
        for body in BODIES:
            await queue.send(body=body)
            (message,) = await self.receive_all(queue, 1)
            self.assertEqual(message.body, body)
            await queue.delete(message=message)

    async def test_same_body_twice(self) -> None:
        """Two messages with the same body are two messages."""
        queue = await self.make_queue()
        for _ in range(2):
            await queue.send(body="same")
        ids = set()
        for _ in range(20):
            for message in await self.receive(queue):
                self.assertEqual(message.body, "same")
                ids.add(message.message_id)
                await queue.delete(message=message)
        self.assertEqual(len(ids), 2)

    async def test_max_messages(self) -> None:
        """A receive gives no more than it is asked for, and in the end each message once."""
        queue = await self.make_queue()
        bodies = {f"message {i}" for i in range(12)}
        for body in sorted(bodies):
            await queue.send(body=body)
        self.assertLessEqual(len(first := await self.receive(queue, 3)), 3)
        rest = await self.receive_all(queue, 12 - len(first))
        received = [message.body for message in [*first, *rest]]
        self.assertEqual(sorted(received), sorted(bodies))

    async def test_max_messages_is_checked(self) -> None:
        """To ask for none or for more than ten messages is a mistake."""
        queue = await self.make_queue()
        for number in (0, 11):
            with self.assertRaises(ValueError):
                await queue.receive(max_messages=number, wait=0)

    async def test_invisible_and_back(self) -> None:
        """
        A received message is hidden for the visibility timeout and then comes back, with
        a greater count and another receipt.
        """
        queue = await self.make_queue()
        await queue.send(body="x")
        (first,) = await self.receive_all(queue, 1)
        self.assertEqual(await self.receive(queue), [])
        await self.pass_time(self.visibility)
        (second,) = await self.receive_all(queue, 1)
        self.assertEqual(second.message_id, first.message_id)
        self.assertEqual(second.receive_count, 2)
        self.assertNotEqual(second.receipt_handle, first.receipt_handle)

    async def test_hidden_for_another_time(self) -> None:
        """A receive may hide its messages for another time than that of the queue."""
        queue = await self.make_queue()
        await queue.send(body="one")
        (first,) = await queue.receive(max_messages=1, wait=0, visibility=self.visibility / 2)
        await self.pass_time(self.visibility / 2)
        (again,) = await self.receive_all(queue, 1)
        self.assertEqual(again.body, "one")
        with self.assertRaises(LeaseLost):
            await queue.extend(message=first, visibility=self.visibility)

    async def test_delete(self) -> None:
        """A deleted message does not come back, and may be deleted again."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.delete(message=message)
        await queue.delete(message=message)
        await self.pass_time(self.visibility)
        self.assertEqual(await self.receive(queue), [])

    async def test_late_delete(self) -> None:
        """The receipt of an earlier receive deletes nothing."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (first,) = await self.receive_all(queue, 1)
        await self.pass_time(self.visibility)
        (second,) = await self.receive_all(queue, 1)
        await queue.delete(message=first)
        await queue.extend(message=second, visibility=0)
        self.assertEqual(len(await self.receive_all(queue, 1)), 1)

    async def test_extend(self) -> None:
        """An extended message stays hidden longer."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.extend(message=message, visibility=self.visibility * 3)
        await self.pass_time(self.visibility)
        self.assertEqual(await self.receive(queue), [])
        await queue.extend(message=message, visibility=self.visibility)
        await self.pass_time(self.visibility)
        self.assertEqual(len(await self.receive_all(queue, 1)), 1)

    async def test_hand_back(self) -> None:
        """A message whose visibility is set to 0 can be received at once."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.extend(message=message, visibility=0)
        (again,) = await self.receive_all(queue, 1)
        self.assertEqual(again.receive_count, 2)

    async def test_lease_lost(self) -> None:
        """A message that is visible again, or gone, cannot be extended."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await self.pass_time(self.visibility)
        with self.assertRaises(LeaseLost):
            await queue.extend(message=message, visibility=self.visibility)
        (message,) = await self.receive_all(queue, 1)
        await queue.delete(message=message)
        with self.assertRaises(LeaseLost):
            await queue.extend(message=message, visibility=self.visibility)

    async def test_dead_letters(self) -> None:
        """A message that was received so often without being deleted is a dead letter."""
        queue = await self.make_queue()
        dead = await self.dead_letters(queue)
        await queue.send(body="poison")
        for count in range(1, self.max_receives + 1):
            (message,) = await self.receive_all(queue, 1)
            self.assertEqual(message.receive_count, count)
            self.assertEqual(await self.receive(dead), [])
            await queue.extend(message=message, visibility=0)
        self.assertEqual(await self.receive(queue), [])
        (message,) = await self.receive_all(dead, 1)
        self.assertEqual(message.body, "poison")
        await dead.delete(message=message)
        self.assertEqual((await dead.depth()).visible, 0)

    async def test_dead_letters_do_not_block(self) -> None:
        """The messages behind many dead ones are received."""
        queue = await self.make_queue()
        dead = await self.dead_letters(queue)
        for i in range(15):
            await queue.send(body=f"poison {i}")
        for _ in range(self.max_receives):
            for message in await self.receive_all(queue, 15):
                await queue.extend(message=message, visibility=0)
        await queue.send(body="good")
        (message,) = await self.receive_all(queue, 1)
        self.assertEqual(message.body, "good")
        self.assertEqual(len(await self.receive_all(dead, 15)), 15)

    async def test_last_receive_counts(self) -> None:
        """A message that is deleted at its last receive does not die."""
        queue = await self.make_queue()
        dead = await self.dead_letters(queue)
        await queue.send(body="x")
        for _ in range(self.max_receives - 1):
            (message,) = await self.receive_all(queue, 1)
            await queue.extend(message=message, visibility=0)
        (message,) = await self.receive_all(queue, 1)
        await queue.delete(message=message)
        await self.pass_time(self.visibility)
        self.assertEqual(await self.receive(queue), [])
        self.assertEqual(await self.receive(dead), [])

    async def test_wait_for_a_message(self) -> None:
        """A receive that waits gives a message soon after it was sent."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=10, wait=10))
        await queue.send(body="x")
        (message,) = await waiting
        self.assertEqual(message.body, "x")

    async def test_wait_ends(self) -> None:
        """A receive that waits in vain ends with nothing."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=1))
        await self.pass_time(1)
        self.assertEqual(await waiting, [])

    async def test_cancel_wait(self) -> None:
        """Cancelling a receive that waits loses no message."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=10))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        self.assertEqual(message.body, "x")

    async def test_competing_consumers(self) -> None:
        """Of several consumers at once, each message goes to one."""
        # So long that no machine is slow enough for one to come back.
        self.visibility = 600
        queue = await self.make_queue()
        bodies = [f"message {i:02}" for i in range(30)]
        await gatherResults([Deferred.fromCoroutine(queue.send(body=body)) for body in bodies])
        received: list[str] = []

        async def consume() -> None:
            for _ in range(40):
                for message in await queue.receive(max_messages=2, wait=0):
                    received.append(message.body)
                    await queue.delete(message=message)
                if len(received) >= len(bodies):
                    break

        await gatherResults([Deferred.fromCoroutine(consume()) for _ in range(4)])
        self.assertEqual(sorted(received), bodies)

    async def test_depth(self) -> None:
        """The depth counts what waits and what is in hand."""
        queue = await self.make_queue()
        for _ in range(3):
            await queue.send(body="x")
        (message, *_) = await self.receive(queue, 1)
        depth = await queue.depth()
        self.assertEqual((depth.visible, depth.in_flight), (2, 1))
        await queue.delete(message=message)
        depth = await queue.depth()
        self.assertEqual((depth.visible, depth.in_flight), (2, 0))

    async def test_oldest(self) -> None:
        """The depth tells the age of the oldest waiting message, or None."""
        queue = await self.make_queue()
        self.assertIsNone((await queue.depth()).oldest)
        await queue.send(body="x")
        await self.pass_time(1)
        oldest = (await queue.depth()).oldest
        self.assertTrue(oldest is None or oldest >= 1, oldest)

    async def test_check(self) -> None:
        """A queue that can be used says so."""
        self.assertIsNone(await (await self.make_queue()).check())
