"""
Tests of the queues in a database.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Double, bindparam, create_engine
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater

from fxprofile.drivers.sql.queue import POLL, DatabaseQueue
from fxprofile.model.errors import LeaseLost, QueueError
from fxprofile.model.keys import new_id
from fxprofile.model.messages import Message
from tests.contracts.queue import QueueContract
from tests.drivers.sql.backends import Backend, MariadbBackend, PostgresqlBackend, SqliteBackend

ROOT = Path(__file__).parents[3]


class DatabaseQueueContract(QueueContract, Backend):
    """The contract of queues, and tests that are specific to queues in a database."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.url = self.empty_url()
        self.database = self.open(self.url)

    async def make_queue(self, **options: Any) -> DatabaseQueue:
        return self.same(f"test-{new_id()}", **options)

    def same(self, name: str, database: Any = None, clock: Any = None) -> DatabaseQueue:
        """
        Return a queue of this name.

        :param clock: of the process; the database's own clock then counts.
        """
        queue = DatabaseQueue(
            database or self.database,
            name,
            self.visibility,
            self.max_receives,
            clock or self.clock,
        )
        return queue if clock else replace(queue, now=self.now())

    def now(self) -> Any:
        """The clock of the test as that of the database."""
        return bindparam("now", callable_=self.clock.seconds, type_=Double(), unique=True)

    async def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds / 0.25))

    def consumer(self, queue: DatabaseQueue, mode: str) -> subprocess.Popen[str]:
        """Start a process that consumes a queue when it is signalled."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.drivers.consumer", self.url, queue.name, mode],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def go(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.stdin.write("go\n")
        process.stdin.flush()

    async def real_turns(self, seconds: float = 0) -> None:
        await deferLater(reactor, seconds)

    async def test_messages_are_received_in_order(self) -> None:
        """Messages are received in the order in which they were sent."""
        queue = await self.make_queue()
        for i in range(5):
            await queue.send(body=str(i))
        bodies = [message.body for message in await self.receive(queue)]
        self.assertEqual(bodies, list("01234"))

    async def test_queues_are_independent(self) -> None:
        """A message of one queue cannot be received, deleted or extended on another."""
        one, other = await self.make_queue(), await self.make_queue()
        await one.send(body="x")
        self.assertEqual(await self.receive(other), [])
        (message,) = await self.receive(one)
        await self.same(other.name).delete(message=message)
        with self.assertRaises(LeaseLost):
            await other.extend(message=message, visibility=9)
        await one.extend(message=message, visibility=0)
        self.assertEqual(len(await self.receive(one)), 1)

    async def test_send_wakes_a_receive_of_this_process(self) -> None:
        """A message sent by this process wakes a waiting receive at once."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        while not self.clock.getDelayedCalls():
            await self.real_turns(0.01)
        await self.same(queue.name).send(body="x")
        (message,) = await waiting
        self.assertEqual(message.body, "x")
        self.assertEqual(self.clock.seconds(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_release_wakes_a_receive_of_this_process(self) -> None:
        """A message released by this process wakes a waiting receive at once."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive(queue)
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        while not self.clock.getDelayedCalls():
            await self.real_turns(0.01)
        await queue.extend(message=message, visibility=0)
        (message,) = await waiting
        self.assertEqual(message.receive_count, 2)

    async def test_message_of_another_process_is_polled(self) -> None:
        """A message sent by another process is found at the next poll."""
        queue = await self.make_queue()
        waiting = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=20))
        await self.same(queue.name, self.open(self.url)).send(body="x")
        while not waiting.called:
            self.clock.advance(POLL)
            await self.real_turns(0.01)
        (message,) = await waiting
        self.assertEqual(message.body, "x")
        self.assertLess(self.clock.seconds(), 20)

    async def test_cancelled_receive_loses_no_message(self) -> None:
        """A receive cancelled at any point of its transactions is undone."""
        queue = await self.make_queue()
        for i in range(10):
            await queue.send(body=str(i))
        cancelled = 0
        for _ in range(30):
            receiving = Deferred.fromCoroutine(queue.receive(max_messages=10, wait=0))
            await self.real_turns(random.uniform(0, 0.02))
            if receiving.called:
                for message in await receiving:
                    await queue.extend(message=message, visibility=0)
                await self.restore(queue)
                continue
            receiving.cancel()
            with self.assertRaises(CancelledError):
                await receiving
            cancelled += 1
        self.assertGreater(cancelled, 0)
        # Each transaction in flight, and the one that undoes it, ends before the database stops.
        await self.database.stopService()
        self.database.startService()
        messages = await self.receive(queue)
        self.assertEqual([message.receive_count for message in messages], [1] * 10)

    async def restore(self, queue: DatabaseQueue) -> None:
        """Replace all messages with ten new ones."""
        for message in await queue.browse(limit=10):
            await queue.drop(message_id=message.message_id)
        for i in range(10):
            await queue.send(body=str(i))

    async def test_dead_letter_can_be_received_any_number_of_times(self) -> None:
        """A dead letter can be received any number of times."""
        queue = await self.make_queue()
        dead = queue.dead
        self.assertEqual(dead.name, f"{queue.name}-dead")
        by_name = self.same(dead.name)
        await dead.send(body="x")
        for _ in range(self.max_receives + 2):
            (message,) = await self.receive(by_name)
            await by_name.extend(message=message, visibility=0)

    async def test_dead_letter_wakes_a_receive(self) -> None:
        """A new dead letter wakes a receive that waits for dead letters."""
        queue = await self.make_queue()
        await queue.send(body="x")
        for _ in range(self.max_receives):
            (message,) = await self.receive(queue)
            await queue.extend(message=message, visibility=0)
        waiting = Deferred.fromCoroutine(queue.dead.receive(max_messages=1, wait=20))
        while not self.clock.getDelayedCalls():
            await self.real_turns(0.01)
        await self.receive(queue)
        self.assertEqual([message.body for message in await waiting], ["x"])

    async def test_browse_does_not_receive(self) -> None:
        """Messages can be browsed in pages without being received."""
        queue = await self.make_queue()
        for i in range(5):
            await queue.send(body=str(i))
        first = await queue.browse(limit=3)
        second = await queue.browse(limit=3, after=first[-1].message_id)
        self.assertEqual([message.body for message in [*first, *second]], list("01234"))
        received = await self.receive(queue)
        self.assertEqual([message.receive_count for message in received], [1] * 5)
        self.assertEqual(
            [m.message_id for m in received], [m.message_id for m in [*first, *second]]
        )

    async def test_redriven_message_starts_anew(self) -> None:
        """A redriven dead letter has a receive count of one at its next receive."""
        queue = await self.make_queue()
        await queue.dead.send(body="x")
        await queue.dead.send(body="y")
        (letter, _) = await queue.dead.browse(limit=10)
        self.assertIs(await queue.redrive(message_id=letter.message_id), True)
        self.assertIs(await queue.redrive(message_id=letter.message_id), False)
        (message,) = await self.receive(queue)
        self.assertEqual((message.body, message.receive_count), ("x", 1))
        self.assertEqual(message.message_id, letter.message_id)
        self.assertEqual((await queue.dead.depth()).visible, 1)

    async def test_drop_removes_from_one_queue(self) -> None:
        """A dead letter can be dropped from its own queue only."""
        queue = await self.make_queue()
        await queue.dead.send(body="x")
        (letter,) = await queue.dead.browse(limit=10)
        self.assertIs(await queue.drop(message_id=letter.message_id), False)
        self.assertIs(await queue.dead.drop(message_id=letter.message_id), True)
        self.assertIs(await queue.dead.drop(message_id=letter.message_id), False)
        self.assertEqual(await queue.dead.browse(limit=10), [])

    async def test_invalid_message_ids(self) -> None:
        """Operations on invalid message ids find no message and raise no database error."""
        queue = await self.make_queue()
        await queue.send(body="x")
        await self.receive(queue)
        for strange in ("", "x", "-1", "0", "1e3", "9" * 40, "²", "1 OR 1=1", "\ud800"):
            message = Message(strange, "", "nothing", 1, 0)
            await queue.delete(message=message)
            with self.assertRaises(LeaseLost):
                await queue.extend(message=message, visibility=1)
            self.assertIs(await queue.redrive(message_id=strange), False)
            self.assertIs(await queue.drop(message_id=strange), False)
        self.assertEqual(len(await queue.browse(limit=9, after="x")), 1)

    async def test_closed_database_is_a_queue_error(self) -> None:
        """Every call on a closed database raises a QueueError."""
        queue = await self.make_queue()
        await self.database.stopService()
        for call in (
            queue.check,
            queue.depth,
            lambda: queue.send(body="x"),
            lambda: queue.receive(max_messages=1, wait=0),
        ):
            with self.assertRaises(QueueError):
                await call()

    async def test_each_message_is_received_by_one_process(self) -> None:
        """Each message is received by exactly one of several processes."""
        queue = await self.make_queue(clock=reactor)
        bodies = [f"message {i:03}" for i in range(60)]
        for body in bodies:
            await queue.send(body=body)
        processes = [self.consumer(queue, "drain") for _ in range(3)]
        for process in processes:
            self.go(process)
        received: list[str] = []
        for process in processes:
            output, _ = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0)
            received += output.splitlines()
        self.assertEqual(sorted(received), bodies)

    async def test_clocks_of_processes_do_not_count(self) -> None:
        """A message is visible and leased alike to processes whose clocks differ by an hour."""
        name = f"test-{new_id()}"
        ahead, behind = Clock(), Clock()
        ahead.advance(time.time() + 3600)
        behind.advance(time.time() - 3600)
        sender, receiver = (self.same(name, clock=clock) for clock in (ahead, behind))
        await sender.send(body="x")
        (message,) = await self.receive(receiver)
        self.assertEqual(await self.receive(sender), [])
        depth = await receiver.depth()
        self.assertEqual((depth.visible, depth.in_flight), (0, 1))
        await receiver.extend(message=message, visibility=0)
        self.assertEqual(len(await self.receive(sender)), 1)
        self.assertLess(abs(message.sent - time.time()), 600)

    async def test_messages_survive_a_clock_that_is_set_back(self) -> None:
        """After the database's clock was set back, messages come within a visibility timeout."""
        await self.pass_time(7200)
        queue = await self.make_queue()
        for body in ("leased", "new"):
            await queue.send(body=body)
        await queue.receive(max_messages=1, wait=0)
        self.clock.rightNow -= 3600
        process = Clock()
        queue = replace(queue, clock=process)
        process.advance(self.visibility)
        received = await queue.receive(max_messages=10, wait=0)
        self.assertEqual({message.body for message in received}, {"leased", "new"})

    async def test_messages_of_a_killed_process_return(self) -> None:
        """A message received by a killed process becomes visible after the visibility timeout."""
        queue = await self.make_queue()
        self.clock.advance(time.time())
        await queue.send(body="x")
        process = self.consumer(queue, "hold")
        with closing(process.stdout) as output:  # type: ignore[type-var]
            self.go(process)
            self.assertEqual(output.readline(), "x\n")
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.clock.advance(30)
        self.assertEqual(await self.receive(queue), [])
        self.clock.advance(120)
        (message,) = await self.receive(queue)
        self.assertEqual((message.body, message.receive_count), ("x", 2))


class SqliteQueueTests(SqliteBackend, DatabaseQueueContract):
    """Queues in SQLite."""

    async def test_empty_receive_takes_no_lock(self) -> None:
        """A receive from an empty queue does not wait for a writing process."""
        queue = await self.make_queue()
        await queue.send(body="x")
        (message,) = await self.receive(queue)
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self.assertEqual(await self.receive(queue), [])
            self.assertEqual((await queue.depth()).in_flight, 1)
        engine.dispose()
        await queue.delete(message=message)

    async def test_lease_starts_with_the_transaction(self) -> None:
        """The visibility timeout starts when the receive has got the lock."""
        queue = await self.make_queue()
        await queue.send(body="x")
        engine = create_engine(self.url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            receiving = Deferred.fromCoroutine(queue.receive(max_messages=1, wait=0))
            await self.real_turns(0.5)
            self.clock.advance(self.visibility - 1)
        engine.dispose()
        self.assertEqual(len(await receiving), 1)
        self.clock.advance(self.visibility - 1)
        self.assertEqual(await self.receive(queue), [])


class MariadbQueueTests(MariadbBackend, DatabaseQueueContract):
    """Queues in MariaDB."""


class PostgresqlQueueTests(PostgresqlBackend, DatabaseQueueContract):
    """Queues in PostgreSQL."""


# What is no test case of its own is not to be found by the runner.
del DatabaseQueueContract, QueueContract
del Backend, SqliteBackend, MariadbBackend, PostgresqlBackend
