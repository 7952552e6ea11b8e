"""
Queues in the database: durable, with visibility timeouts and dead letters.

No library does this on Twisted for all three databases: the known ones run their own
worker processes (Celery, RQ) or support PostgreSQL only (pgmq, procrastinate).
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.deferreds.tasks import detached
from fxprofile.drivers.sql.engine import Database
from fxprofile.drivers.sql.now import DatabaseNow
from fxprofile.drivers.sql.schema import queue_messages as table
from fxprofile.model.errors import LeaseLost, QueueError, StoreError
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import BATCH, IQueue

T = TypeVar("T")

#: Seconds between two checks for messages that another process may have sent.
POLL: Final = 0.25

#: Batches that one receive reads at most while it removes dead letters.
_ROUNDS = 10

#: How far the clock of the database may be set back, in seconds, before its messages are made
#: visible.
STEP: Final = 1

_DEAD = "-dead"

#: The columns of a message that was never received.
_UNRECEIVED: Final[dict[str, Any]] = {"receive_count": 0, "receipt": None}


@implementer(IQueue)
@dataclass(eq=False)
class DatabaseQueue:
    """
    An :class:`fxprofile.model.ports.IQueue` in a table, for any number of processes.

    A message from this process notifies waiting receives at once; for messages of other
    processes they check every :data:`POLL` seconds, with a read that takes no lock.

    Visibility is computed with the clock of the database, so those of the machines need not
    agree.  If that clock is set back, messages become visible at the next check, which each
    process makes once in a visibility timeout.

    A message whose last receipt ran out moves to the queue :attr:`dead` at the next
    receive.  A dead-letter queue has no dead letters.

    :param database: holds the messages.
    :param name: at most 59 characters.
    :param visibility_timeout: seconds.
    :param max_receives: the number of receives after which a message is dead-lettered;
        None for no limit.
    :param clock: for waiting.
    :param now: an expression for the time of the database, in seconds since the epoch.
    """

    database: Database
    name: str
    visibility_timeout: float
    max_receives: int | None
    clock: IReactorTime
    now: ColumnElement[float] = field(default_factory=DatabaseNow)
    _next_check: float = field(init=False, default=0)

    @property
    def dead(self) -> DatabaseQueue:
        """The dead-letter queue."""
        return replace(self, name=dead_name(self.name))

    async def send(self, *, body: str) -> None:
        message = {"body": body, "sent": self.now, **_UNRECEIVED}
        await self._execute(sa.insert(table).values(queue=self.name, **message, **self._hidden(0)))
        self.database.notifier.notify(self.name)

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        if not 1 <= max_messages <= BATCH:
            raise ValueError(f"max_messages is {max_messages}; it must be 1 to {BATCH}")
        hidden = self.visibility_timeout if visibility is None else visibility
        return await self.database.notifier.poll(
            self.name,
            lambda: self._receive(max_messages, hidden),
            clock=self.clock,
            seconds=wait,
            period=POLL,
        )

    async def extend(self, *, message: Message, visibility: float) -> None:
        await self._change(message, self._hidden(visibility))
        if visibility <= 0:
            self.database.notifier.notify(self.name)

    async def release(self, *, message: Message) -> None:
        await self._change(message, self._as_before())
        self.database.notifier.notify(self.name)

    async def delete(self, *, message: Message) -> None:
        is_leased = table.c.visible_at > self.now
        await self._execute(sa.delete(table).where(self._holds(message), is_leased))

    async def depth(self) -> QueueDepth:
        is_visible = table.c.visible_at <= self.now
        query = sa.select(
            self.now.label("now"),
            sa.func.count(sa.case((is_visible, 1))).label("visible"),
            sa.func.count(sa.case((~is_visible, 1))).label("in_flight"),
            sa.func.min(sa.case((is_visible, table.c.sent))).label("oldest"),
        ).where(table.c.queue == self.name)
        row = await self._run(lambda c: c.execute(query).one(), read_only=True)
        return QueueDepth(
            visible=row.visible,
            in_flight=row.in_flight,
            oldest=None if row.oldest is None else max(0.0, float(row.now) - row.oldest),
        )

    async def check(self) -> None:
        await self._run(lambda c: c.execute(sa.select(1)).scalar(), read_only=True)

    # For operators.

    async def browse(self, *, limit: int, after: str = "") -> Sequence[Message]:
        """
        Return the oldest messages without receiving them.

        :param after: only messages that were sent after the one with this id.
        """
        query = (
            sa.select(table)
            .where(table.c.queue == self.name, table.c.seq > _seq(after))
            .order_by(table.c.seq)
            .limit(limit)
        )
        rows = await self._run(lambda c: c.execute(query).all(), read_only=True)
        return [_message(row, row.receipt or "", row.receive_count) for row in rows]

    async def redrive(self, *, message_id: str) -> bool:
        """
        Return a dead letter to this queue, with a receive count of zero.

        :returns: whether there was such a dead letter.
        """
        moved = await self._execute(
            sa.update(table)
            .where(_is(message_id, dead_name(self.name)))
            .values(queue=self.name, **_UNRECEIVED, **self._hidden(0))
        )
        self.database.notifier.notify(self.name)
        return bool(moved)

    async def drop(self, *, message_id: str) -> bool:
        """
        Remove a message, whether or not it is in flight.

        :returns: whether there was such a message.
        """
        return bool(await self._execute(sa.delete(table).where(_is(message_id, self.name))))

    async def _receive(self, limit: int, hidden: float) -> Sequence[Message]:
        """
        Receive the messages that are visible now.

        If the caller cancels this, the receive is undone as soon as it has ended.
        """
        cancelled = False

        async def receive() -> Sequence[Message]:
            await self._undo_clock_step()
            if not await self._has_visible() or cancelled:
                return []
            messages, dead = await self._run(lambda c: self._take(c, limit, hidden))
            if dead:
                self.database.notifier.notify(dead_name(self.name))
            if cancelled and messages:
                await self._undo(messages)
            return messages

        receiving = detached(receive())
        try:
            return await receiving
        except CancelledError:
            cancelled = True
            raise

    async def _undo_clock_step(self) -> None:
        """Make messages visible that the database's clock, set back, would hide for too long."""
        if self.clock.seconds() < self._next_check:
            return
        self._next_check = self.clock.seconds() + self.visibility_timeout
        ahead = self.now + STEP
        # What was hidden after that is visible later still, which an index finds.
        is_ahead = (table.c.visible_at > ahead, table.c.hidden_at > ahead)
        await self._execute(
            sa.update(table).where(table.c.queue == self.name, *is_ahead).values(self._hidden(0))
        )

    async def _has_visible(self) -> bool:
        query = sa.select(table.c.seq).where(self._is_visible()).limit(1)
        return await self._run(lambda c: c.execute(query).first(), read_only=True) is not None

    def _take(self, connection: Connection, limit: int, hidden: float) -> tuple[list[Message], int]:
        """Receive messages in a transaction; return them and the number of dead letters."""
        messages: list[Message] = []
        is_dead_letter_queue = self.max_receives is None or self.name.endswith(_DEAD)
        max_receives = math.inf if is_dead_letter_queue else self.max_receives
        dead = 0
        # There may be any number of dead letters; the next receive goes on.
        for _ in range(_ROUNDS):
            # Rows that another consumer is receiving are skipped.
            rows = connection.execute(
                sa.select(table)
                .where(self._is_visible())
                .order_by(table.c.visible_at, table.c.seq)
                .limit(limit - len(messages))
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                values: dict[str, object]
                if row.receive_count >= max_receives:
                    values = {"queue": dead_name(self.name), **_UNRECEIVED, **self._hidden(0)}
                    dead += 1
                else:
                    message = _message(row, secrets.token_hex(16), row.receive_count + 1)
                    messages.append(message)
                    values = {
                        "receipt": message.receipt_handle,
                        "receive_count": message.receive_count,
                        **self._hidden(hidden),
                    }
                connection.execute(sa.update(table).where(table.c.seq == row.seq).values(values))
            if not rows or len(messages) == limit:
                break
        return messages, dead

    async def _undo(self, messages: Sequence[Message]) -> None:
        """Undo a receive whose messages were not delivered to the caller."""
        values = self._as_before()

        def undo(connection: Connection) -> None:
            for message in messages:
                connection.execute(sa.update(table).where(self._holds(message)).values(values))

        await self._run(undo)
        self.database.notifier.notify(self.name)

    def _hidden(self, seconds: float) -> dict[str, ColumnElement[float]]:
        """The columns of a message that is hidden for so many seconds from now."""
        return {"hidden_at": self.now, "visible_at": self.now + seconds}

    def _as_before(self) -> dict[str, object]:
        """The columns of a message whose receive is undone."""
        return {**self._hidden(0), "receive_count": table.c.receive_count - 1, "receipt": None}

    async def _change(self, message: Message, values: Mapping[str, object]) -> None:
        """
        :raises LeaseLost: if the lease of the message has expired.
        """
        is_leased = table.c.visible_at > self.now
        change = sa.update(table).where(self._holds(message), is_leased).values(values)
        if not await self._execute(change):
            raise LeaseLost(f"{self.name}: the lease of message {message.message_id} is lost")

    def _is_visible(self) -> ColumnElement[bool]:
        return sa.and_(table.c.queue == self.name, table.c.visible_at <= self.now)

    def _holds(self, message: Message) -> ColumnElement[bool]:
        receipt = table.c.receipt == message.receipt_handle
        return sa.and_(_is(message.message_id, self.name), receipt)

    async def _execute(self, statement: sa.Executable) -> int:
        """Execute one statement in a transaction; return the number of rows changed."""
        return await self._run(lambda connection: connection.execute(statement).rowcount)

    async def _run(self, work: Callable[[Connection], T], *, read_only: bool = False) -> T:
        try:
            return await self.database.run(work, read_only=read_only)
        except StoreError as error:
            raise QueueError(f"{self.name}: {error}") from None


def dead_name(name: str) -> str:
    """Return the name of the dead-letter queue of a queue."""
    return name + _DEAD


def _is(message_id: str, queue: str) -> ColumnElement[bool]:
    return sa.and_(table.c.seq == _seq(message_id), table.c.queue == queue)


def _message(row: sa.Row[Any], receipt: str, receive_count: int) -> Message:
    return Message(
        message_id=str(row.seq),
        body=row.body,
        receipt_handle=receipt,
        receive_count=receive_count,
        sent=row.sent,
    )


def _seq(message_id: str) -> int:
    """Return the sequence number in a message id; 0, which no row has, if there is none."""
    if message_id.isascii() and message_id.isdigit() and len(message_id) < 19:
        return int(message_id)
    return 0
