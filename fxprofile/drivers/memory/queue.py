"""
Queues in memory, for the combined role.

Messages do not survive the process, so nothing may depend on them: at its start the process sends
the jobs of all pending rows, and a job waits until its result was handled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import count

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.deferreds.notifier import Notifier
from fxprofile.model.errors import LeaseLost
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import BATCH, IQueue

#: Dead letters that a queue keeps; more push the oldest ones out.
MAX_DEAD = 1000


@attrs.define(eq=False)
class _Entry:
    message: Message
    visible_at: float
    # Fires when the message is deleted.
    deleted: Deferred[None] = attrs.field(factory=Deferred)

    def order(self) -> tuple[float, int]:
        return self.visible_at, int(self.message.message_id)


@implementer(IQueue)
@attrs.define(eq=False, slots=False, repr=False)
class MemoryQueue:
    """
    An :class:`fxprofile.model.ports.IQueue` in the memory of one process.

    :param name: for logs and metrics.
    :param visibility_timeout: seconds.
    :param max_receives: the number of receives after which a message is dead-lettered; None
        for no limit.
    :param until_deleted: whether :meth:`send` waits until the message has been received and
        deleted: the process may be killed until then, and its caller has to repeat its work.
    """

    name: str
    _visibility_timeout: float
    _max_receives: int | None
    _clock: IReactorTime
    _until_deleted: bool = attrs.field(default=False, kw_only=True)
    _notifier: Notifier = attrs.field(factory=Notifier, init=False)
    _numbers: Iterator[int] = attrs.field(factory=partial(count, 1), init=False)
    _receipts: Iterator[int] = attrs.field(factory=count, init=False)
    # By message id.
    _entries: dict[str, _Entry] = attrs.field(factory=dict, init=False)

    @cached_property
    def dead(self) -> MemoryQueue:
        """The dead-letter queue, which has no dead letters itself."""
        dead = MemoryQueue(f"{self.name}-dead", self._visibility_timeout, None, self._clock)
        # A dead letter keeps its id.
        dead._numbers = self._numbers
        return dead

    async def send(self, *, body: str) -> None:
        now = self._clock.seconds()
        entry = _Entry(Message(str(next(self._numbers)), body, "", 0, now), now)
        self._add(entry)
        if self._until_deleted:
            await entry.deleted

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        if not 1 <= max_messages <= BATCH:
            raise ValueError(f"max_messages is {max_messages}; it must be 1 to {BATCH}")
        hidden = self._visibility_timeout if visibility is None else visibility

        deadline = self._clock.seconds() + wait
        while True:
            with self._notifier.subscribe(self.name) as subscription:
                messages = self._take(max_messages, hidden)
                now = self._clock.seconds()
                if messages or now >= deadline:
                    return messages
                # The next hidden message becomes visible without a notification.
                until = min((e.visible_at for e in self._entries.values()), default=deadline)
                await subscription.wait(self._clock, max(0, min(until, deadline) - now))

    async def extend(self, *, message: Message, visibility: float) -> None:
        entry = self._require_leased(message)
        before, entry.visible_at = entry.visible_at, self._clock.seconds() + visibility
        if entry.visible_at < before:
            self._notifier.notify(self.name)

    async def release(self, *, message: Message) -> None:
        entry = self._require_leased(message)
        # Before anything receives it again.
        entry.message = replace(entry.message, receive_count=message.receive_count - 1)
        await self.extend(message=message, visibility=0)

    async def delete(self, *, message: Message) -> None:
        entry = self._leased(message)
        if entry is not None:
            del self._entries[message.message_id]
            if not entry.deleted.called:
                entry.deleted.callback(None)

    async def depth(self) -> QueueDepth:
        now = self._clock.seconds()
        waiting = [entry for entry in self._entries.values() if entry.visible_at <= now]
        return QueueDepth(
            visible=len(waiting),
            in_flight=len(self._entries) - len(waiting),
            oldest=max((now - entry.message.sent for entry in waiting), default=None),
        )

    async def check(self) -> None:
        pass

    def _add(self, entry: _Entry) -> None:
        self._entries[entry.message.message_id] = entry
        self._notifier.notify(self.name)

    def _bury(self, entry: _Entry) -> None:
        """Move a message to the dead-letter queue, visible at once."""
        del self._entries[entry.message.message_id]
        entry.message = replace(entry.message, receipt_handle="", receive_count=0)
        entry.visible_at = self._clock.seconds()
        dead = self.dead
        dead._add(entry)
        if len(dead._entries) > MAX_DEAD:
            del dead._entries[next(iter(dead._entries))]

    def _take(self, limit: int, hidden: float) -> list[Message]:
        now = self._clock.seconds()
        messages: list[Message] = []
        for entry in sorted(self._entries.values(), key=_Entry.order):
            if entry.visible_at > now or len(messages) == limit:
                break
            received = entry.message.receive_count
            if self._max_receives is not None and received >= self._max_receives:
                self._bury(entry)
                continue
            entry.message = replace(
                entry.message, receipt_handle=str(next(self._receipts)), receive_count=received + 1
            )
            entry.visible_at = now + hidden
            messages.append(entry.message)
        return messages

    def _require_leased(self, message: Message) -> _Entry:
        entry = self._leased(message)
        if entry is None:
            raise LeaseLost(f"{self.name}: the lease of message {message.message_id} is lost")
        return entry

    def _leased(self, message: Message) -> _Entry | None:
        entry = self._entries.get(message.message_id)
        is_leased = (
            entry is not None
            and entry.message.receipt_handle == message.receipt_handle
            and entry.visible_at > self._clock.seconds()
        )
        return entry if is_leased else None
