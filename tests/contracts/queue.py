"""
The contract of queues.
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
    :cvar undoes_receives: whether the receive of a released message does not count.
    """

    visibility = 60
    max_receives = 3
    undoes_receives = True

    async def make_queue(self) -> Any:
        """Return a new, empty queue with this visibility timeout and maximum receive count."""
        raise NotImplementedError

    async def dead_letters(self, queue: Any) -> Any:
        """Return the dead-letter queue of a queue."""
        return queue.dead

    async def pass_time(self, seconds: float) -> None:
        """Let this many seconds pass."""
        raise NotImplementedError

    async def receive(self, queue: Any, max_messages: int = 10) -> Sequence[Message]:
        """Return the messages that are visible now."""
        messages: Sequence[Message] = await queue.receive(max_messages=max_messages, wait=0)
        return messages

    async def receive_all(self, queue: Any, number: int) -> list[Message]:
        """Receive this many messages, in as many receives as it takes."""
        messages: list[Message] = []
        for _ in range(20 * number):
            messages += await self.receive(queue)
            if len(messages) >= number:
                break
        return messages

    async def test_queue_provides_its_interface(self) -> None:
        """The queue provides IQueue."""
        verifyObject(IQueue, await self.make_queue())

    async def test_sent_message_is_received_once(self) -> None:
        """A message that was sent is received once, with its body and counts."""
        queue = await self.make_queue()
        await queue.send(body="hello")
        (message,) = await self.receive_all(queue, 1)
        self.assertEqual((message.body, message.receive_count), ("hello", 1))
        self.assertTrue(message.message_id)
        self.assertTrue(message.receipt_handle)
        self.assertEqual(await self.receive(queue), [])

    async def test_empty_queue(self) -> None:
        """A receive from an empty queue returns no message."""
        self.assertEqual(await self.receive(await self.make_queue()), [])

    async def test_bodies_are_unchanged(self) -> None:
        """Bodies are received as they were sent."""
        queue = await self.make_queue()
        for body in BODIES:
            await queue.send(body=body)
            (message,) = await self.receive_all(queue, 1)
            self.assertEqual(message.body, body)
            await queue.delete(message=message)

    async def test_same_body_is_two_messages(self) -> None:
        """Two messages with the same body are received as two messages."""
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

    async def test_receive_is_limited(self) -> None:
        """A receive returns at most the requested number, and each message is received once."""
        queue = await self.make_queue()
        bodies = {f"message {i}" for i in range(12)}
        for body in sorted(bodies):
            await queue.send(body=body)
        self.assertLessEqual(len(first := await self.receive(queue, 3)), 3)
        rest = await self.receive_all(queue, 12 - len(first))
        received = [message.body for message in [*first, *rest]]
        self.assertEqual(sorted(received), sorted(bodies))

    async def test_max_messages_is_checked(self) -> None:
        """A request for no message, or more than ten, is a ValueError."""
        queue = await self.make_queue()
        for number in (0, 11):
            with self.assertRaises(ValueError):
                await queue.receive(max_messages=number, wait=0)

    async def test_message_returns_after_the_visibility_timeout(self) -> None:
        """
        A received message is invisible for the visibility timeout and then returns with a new
        receipt.
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

    async def test_receive_may_set_the_visibility(self) -> None:
        """A receive may set a visibility that differs from the queue's timeout."""
        queue = await self.make_queue()
        await queue.send(body="one")
        (first,) = await queue.receive(max_messages=1, wait=0, visibility=self.visibility / 2)
        await self.pass_time(self.visibility / 2)
        (again,) = await self.receive_all(queue, 1)
        self.assertEqual(again.body, "one")
        with self.assertRaises(LeaseLost):
            await queue.extend(message=first, visibility=self.visibility)

    async def test_deleted_message_does_not_return(self) -> None:
        """A deleted message does not return, and may be deleted again."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.delete(message=message)
        await queue.delete(message=message)
        await self.pass_time(self.visibility)
        self.assertEqual(await self.receive(queue), [])

    async def test_delete_with_an_expired_receipt(self) -> None:
        """A delete with the receipt of an earlier receive has no effect."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (first,) = await self.receive_all(queue, 1)
        await self.pass_time(self.visibility)
        (second,) = await self.receive_all(queue, 1)
        await queue.delete(message=first)
        await queue.extend(message=second, visibility=0)
        self.assertEqual(len(await self.receive_all(queue, 1)), 1)

    async def test_extended_message_stays_invisible(self) -> None:
        """An extended message stays invisible for longer."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.extend(message=message, visibility=self.visibility * 3)
        await self.pass_time(self.visibility)
        self.assertEqual(await self.receive(queue), [])
        await queue.extend(message=message, visibility=self.visibility)
        await self.pass_time(self.visibility)
        self.assertEqual(len(await self.receive_all(queue, 1)), 1)

    async def test_released_message_is_visible_at_once(self) -> None:
        """A message whose visibility is set to 0 can be received at once."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        await queue.extend(message=message, visibility=0)
        (again,) = await self.receive_all(queue, 1)
        self.assertEqual(again.receive_count, 2)

    async def test_release_undoes_the_receive(self) -> None:
        """A released message is visible at once, and its receive counts only on SQS."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (first,) = await self.receive_all(queue, 1)
        await queue.release(message=first)
        (second,) = await self.receive_all(queue, 1)
        self.assertEqual(second.receive_count, 1 if self.undoes_receives else 2)
        with self.assertRaises(LeaseLost):
            await queue.release(message=first)
        self.assertEqual(await self.receive(queue), [])

    async def test_released_message_reaches_a_waiting_receive(self) -> None:
        """A waiting receive returns a released message with the receive count of before."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (first,) = await self.receive_all(queue, 1)
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=10))
        await queue.release(message=first)
        (second,) = await waiting
        self.assertEqual(second.receive_count, 1 if self.undoes_receives else 2)

    async def test_extend_with_an_expired_receipt(self) -> None:
        """Extending a message that is visible again or deleted raises LeaseLost."""
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

    async def test_message_is_dead_lettered_after_max_receives(self) -> None:
        """A message received the maximum number of times without being deleted is dead-lettered."""
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
        """Messages behind many dead letters are received."""
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

    async def test_delete_at_the_last_receive(self) -> None:
        """A message that is deleted at its last receive is not dead-lettered."""
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

    async def test_send_ends_the_wait(self) -> None:
        """A waiting receive returns a message soon after it was sent."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=10, wait=10))
        await queue.send(body="x")
        (message,) = await waiting
        self.assertEqual(message.body, "x")

    async def test_wait_times_out(self) -> None:
        """A waiting receive returns no message after its wait."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=1))
        await self.pass_time(1)
        self.assertEqual(await waiting, [])

    async def test_cancelled_wait_loses_no_message(self) -> None:
        """A cancelled receive loses no message."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=10))
        waiting.cancel()
        with self.assertRaises(CancelledError):
            await waiting
        await queue.send(body="x")
        (message,) = await self.receive_all(queue, 1)
        self.assertEqual(message.body, "x")

    async def test_each_message_is_received_by_one_consumer(self) -> None:
        """Each message is received by exactly one of several consumers."""
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

    async def test_depth_counts_visible_and_in_flight(self) -> None:
        """The depth counts visible messages and messages in flight."""
        queue = await self.make_queue()
        for _ in range(3):
            await queue.send(body="x")
        (message, *_) = await self.receive(queue, 1)
        depth = await queue.depth()
        self.assertEqual((depth.visible, depth.in_flight), (2, 1))
        await queue.delete(message=message)
        depth = await queue.depth()
        self.assertEqual((depth.visible, depth.in_flight), (2, 0))

    async def test_depth_has_the_oldest_age(self) -> None:
        """The depth has the age of the oldest visible message, or None."""
        queue = await self.make_queue()
        self.assertIsNone((await queue.depth()).oldest)
        await queue.send(body="x")
        await self.pass_time(1)
        oldest = (await queue.depth()).oldest
        self.assertTrue(oldest is None or oldest >= 1, oldest)

    async def test_check_of_a_usable_queue_succeeds(self) -> None:
        """The check of a usable queue succeeds."""
        self.assertIsNone(await (await self.make_queue()).check())
