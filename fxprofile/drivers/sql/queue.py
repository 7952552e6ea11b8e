"""
Queues in the database.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, and_, case, delete, func, insert, select, update
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.deferreds.tasks import detached
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.schema import queue_messages as table
from fxprofile.model.errors import LeaseLost, QueueError, StoreError
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import IQueue

T = TypeVar("T")

#: Seconds between two looks for messages that another process may have sent.
POLL: Final = 0.25

#: The most that one receive gives, as with SQS.
MAX_MESSAGES: Final = 10

_ROUNDS = 10
_DEAD = "-dead"


@implementer(IQueue)
class DatabaseQueue:
    """
    An :class:`fxprofile.model.ports.IQueue` in a table, for any number of processes.

    A message that comes from this process wakes who waits for it; others are looked for
    every :data:`POLL` seconds, by a read that takes no lock.

    Visibility is reckoned in the time of the processes, so several machines have to
    agree about it, roughly: what their clocks differ comes off the visibility timeout.
    On the reactor of the daemon the clock gives the seconds since the epoch.

    Dead letters move to the queue :attr:`dead` when somebody looks for messages after
    the last receipt ran out.  A queue of dead letters has none of its own.

    :param database: holds the messages.
    :param name: at most 59 characters.
    :param visibility_timeout: seconds.
    :param max_receives: after how many receipts a message is dead; None for never.
    :param clock: gives the seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        visibility_timeout: float,
        max_receives: int | None,
        clock: IReactorTime,
    ) -> None:
        self.name = name
        self._database = database
        self._visibility = visibility_timeout
        self._max_receives = None if name.endswith(_DEAD) else max_receives
        self._clock = clock

    @property
    def dead(self) -> DatabaseQueue:
        """The queue of the dead letters of this one."""
        return DatabaseQueue(
            self._database,
            dead_name(self.name),
            visibility_timeout=self._visibility,
            max_receives=None,
            clock=self._clock,
        )

    async def send(self, *, body: str) -> None:
        now = self._clock.seconds()
        message = {
            "queue": self.name,
            "body": body,
            "sent": now,
            "visible_at": now,
            "receive_count": 0,
        }
        await self._run(lambda c: c.execute(insert(table).values(message)) and None)
        self._database.notifier.notify(self.name)

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        if not 1 <= max_messages <= MAX_MESSAGES:
            raise ValueError(f"max_messages is {max_messages}")
        hidden = self._visibility if visibility is None else visibility
        deadline = self._clock.seconds() + wait
        while True:
            with self._database.notifier.subscribe(self.name) as subscription:
                messages = await self._take(max_messages, hidden)
                left = deadline - self._clock.seconds()
                if messages or left <= 0:
                    return messages
                await subscription.wait(self._clock, min(left, POLL))

    async def extend(self, *, message: Message, visibility: float) -> None:
        now = self._clock.seconds()
        statement = (
            update(table)
            .where(self._ours(message), table.c.visible_at > now)
            .values(visible_at=now + visibility)
        )
        if not await self._run(lambda c: c.execute(statement).rowcount):
            raise LeaseLost(f"{self.name}: message {message.message_id} is no longer ours")
        if visibility <= 0:
            self._database.notifier.notify(self.name)

    async def delete(self, *, message: Message) -> None:
        statement = delete(table).where(
            self._ours(message), table.c.visible_at > self._clock.seconds()
        )
        await self._run(lambda c: c.execute(statement) and None)

    async def depth(self) -> QueueDepth:
        now = self._clock.seconds()
        waits = table.c.visible_at <= now
        query = select(
            func.count(case((waits, 1))).label("visible"),
            func.count(case((~waits, 1))).label("in_flight"),
            func.min(case((waits, table.c.sent))).label("oldest"),
        ).where(table.c.queue == self.name)
        row = await self._run(lambda c: c.execute(query).one(), read_only=True)
        return QueueDepth(
            visible=row.visible,
            in_flight=row.in_flight,
            oldest=None if row.oldest is None else max(0.0, now - row.oldest),
        )

    async def check(self) -> None:
        await self._run(lambda c: c.execute(select(1)).scalar(), read_only=True)

    # For operators.

    async def browse(self, *, limit: int, after: str = "") -> Sequence[Message]:
        """
        Look at the oldest messages without receiving them.

        :param after: only messages that came after the one with this id.
        """
        query = (
            select(table)
            .where(table.c.queue == self.name, table.c.seq > (_seq(after) or 0))
            .order_by(table.c.seq)
            .limit(limit)
        )
        rows = await self._run(lambda c: c.execute(query).all(), read_only=True)
        return [_message(row, row.receipt or "", row.receive_count) for row in rows]

    async def redrive(self, *, message_id: str) -> bool:
        """
        Put a dead letter of this queue back on it, as if it had never been received.

        :returns: whether there was one.
        """
        statement = (
            update(table)
            .where(self._is(message_id, dead_name(self.name)))
            .values(_moved(self.name, self._clock.seconds()))
        )
        moved = await self._run(lambda c: c.execute(statement).rowcount)
        self._database.notifier.notify(self.name)
        return bool(moved)

    async def drop(self, *, message_id: str) -> bool:
        """
        Remove a message, whoever has received it.

        :returns: whether there was one.
        """
        statement = delete(table).where(self._is(message_id, self.name))
        return bool(await self._run(lambda c: c.execute(statement).rowcount))

    async def _take(self, limit: int, hidden: float) -> Sequence[Message]:
        """
        Receive what is there.  If nobody waits for it any longer by then, the receive is
        undone.
        """
        taking = _Taking(
            queue=self.name,
            limit=limit,
            visibility=hidden,
            max_receives=self._max_receives,
        )
        given_up = False

        async def take() -> Sequence[Message]:
            looked = self._clock.seconds()
            found = await self._run(lambda c: taking.look(c, looked), read_only=True)
            if given_up or not found:
                return []
            # The time is that at which it has its turn: it may wait long for that.
            messages, died = await self._run(lambda c: taking.take(c, self._clock.seconds()))
            if died:
                self._database.notifier.notify(dead_name(self.name))
            if given_up and messages:
                await self._hand_back(messages)
            return messages

        waiter = detached(take())
        try:
            return await waiter
        except CancelledError:
            given_up = True
            raise

    async def _hand_back(self, messages: Sequence[Message]) -> None:
        """Undo a receive whose messages nobody has seen."""
        undone = {
            "visible_at": self._clock.seconds(),
            "receive_count": table.c.receive_count - 1,
            "receipt": None,
        }

        def undo(connection: Connection) -> None:
            for message in messages:
                connection.execute(update(table).where(self._ours(message)).values(undone))

        await self._run(undo)
        self._database.notifier.notify(self.name)

    def _ours(self, message: Message) -> Any:
        return and_(
            self._is(message.message_id, self.name), table.c.receipt == message.receipt_handle
        )

    @staticmethod
    def _is(message_id: str, queue: str) -> Any:
        return and_(table.c.seq == (_seq(message_id) or 0), table.c.queue == queue)

    async def _run(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        try:
            return await self._database.run(work, read_only=read_only)
        except StoreError as error:
            raise QueueError(f"{self.name}: {error}") from None


def dead_name(name: str) -> str:
    """The name of the queue of another one's dead letters."""
    return name + _DEAD


@dataclass(frozen=True)
class _Taking:
    """One receive: what of it runs in a thread."""

    queue: str
    limit: int
    visibility: float
    max_receives: int | None

    def look(self, connection: Connection, now: float) -> bool:
        """Whether a message seems to be there."""
        query = select(table.c.seq).where(self._visible(now)).limit(1)
        return connection.execute(query).first() is not None

    def take(self, connection: Connection, now: float) -> tuple[list[Message], int]:
        """
        Receive messages.

        :returns: them, and how many died on the way.
        """
        messages: list[Message] = []
        died = 0
        # Any number of messages may be dead; the next look goes on with them.
        for _ in range(_ROUNDS):
            # What another consumer is about to receive is passed over, not waited for.
            rows = connection.execute(
                select(table)
                .where(self._visible(now))
                .order_by(table.c.visible_at, table.c.seq)
                .limit(self.limit - len(messages))
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                if self.max_receives is not None and row.receive_count >= self.max_receives:
                    values = _moved(dead_name(self.queue), now)
                    died += 1
                else:
                    receipt = secrets.token_hex(16)
                    messages.append(_message(row, receipt, row.receive_count + 1))
                    values = {
                        "receipt": receipt,
                        "receive_count": row.receive_count + 1,
                        "visible_at": now + self.visibility,
                    }
                connection.execute(update(table).where(table.c.seq == row.seq).values(values))
            if not rows or len(messages) == self.limit:
                break
        return messages, died

    def _visible(self, now: float) -> Any:
        return and_(table.c.queue == self.queue, table.c.visible_at <= now)


def _moved(queue: str, now: float) -> dict[str, Any]:
    return {"queue": queue, "visible_at": now, "receive_count": 0, "receipt": None}


def _message(row: Row[Any], receipt: str, receive_count: int) -> Message:
    return Message(
        message_id=str(row.seq),
        body=row.body,
        receipt_handle=receipt,
        receive_count=receive_count,
        sent=row.sent,
    )


def _seq(message_id: str) -> int | None:
    """The number of a message, which its id is the text of."""
    if message_id.isascii() and message_id.isdigit() and len(message_id) < 19:
        return int(message_id)
    return None
