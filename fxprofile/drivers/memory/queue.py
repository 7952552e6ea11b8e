"""
Queues in memory, for the combined role: a restart sends the jobs of pending rows again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import count

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from fxprofile.deferreds.notifier import Notifier
from fxprofile.model.errors import LeaseLost
from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import BATCH, IQueue

#: Seconds between two checks for messages that have become visible again.
POLL = 0.25


@attrs.define(eq=False)
class _Entry:
    seq: int
    body: str
    sent: float
    visible_at: float
    receipt: str | None = None
    receive_count: int = 0


@implementer(IQueue)
@attrs.define(eq=False, slots=False, repr=False)
class MemoryQueue:
    """
    An :class:`fxprofile.model.ports.IQueue` in the memory of one process.

    :param name: for logs and metrics.
    :param visibility_timeout: seconds.
    :param max_receives: the number of receives after which a message is dead-lettered; None
        for no limit.
    """

    name: str
    _visibility_timeout: float
    _max_receives: int | None
    _clock: IReactorTime
    _notifier: Notifier = attrs.field(factory=Notifier, init=False)
    _numbers: Iterator[int] = attrs.field(factory=partial(count, 1), init=False)
    _entries: list[_Entry] = attrs.field(factory=list, init=False)

    @cached_property
    def dead(self) -> MemoryQueue:
        """The dead-letter queue, which has no dead letters itself."""
        dead = MemoryQueue(f"{self.name}-dead", self._visibility_timeout, None, self._clock)
        dead._numbers = self._numbers
        return dead

    async def send(self, *, body: str) -> None:
        now = self._clock.seconds()
        self._add(_Entry(seq=next(self._numbers), body=body, sent=now, visible_at=now))

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
                left = deadline - self._clock.seconds()
                if messages or left <= 0:
                    return messages
                await subscription.wait(self._clock, min(left, POLL))

    async def extend(self, *, message: Message, visibility: float) -> None:
        entry = self._leased(message)
        if entry is None:
            raise LeaseLost(f"{self.name}: the lease of message {message.message_id} is lost")
        entry.visible_at = self._clock.seconds() + visibility
        if visibility <= 0:
            self._notifier.notify(self.name)

    async def delete(self, *, message: Message) -> None:
        entry = self._leased(message)
        if entry is not None:
            self._entries.remove(entry)

    async def depth(self) -> QueueDepth:
        now = self._clock.seconds()
        waiting = [entry for entry in self._entries if entry.visible_at <= now]
        return QueueDepth(
            visible=len(waiting),
            in_flight=len(self._entries) - len(waiting),
            oldest=max((now - entry.sent for entry in waiting), default=None),
        )

    async def check(self) -> None:
        pass

    def _add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._notifier.notify(self.name)

    def _take(self, limit: int, hidden: float) -> list[Message]:
        now = self._clock.seconds()
        messages: list[Message] = []
        for entry in sorted(self._entries, key=lambda entry: (entry.visible_at, entry.seq)):
            if entry.visible_at > now or len(messages) == limit:
                break
            if self._max_receives is not None and entry.receive_count >= self._max_receives:
                self._entries.remove(entry)
                entry.receive_count, entry.receipt, entry.visible_at = 0, None, now
                self.dead._add(entry)
                continue
            entry.receive_count += 1
            entry.receipt = secrets.token_hex(16)
            entry.visible_at = now + hidden
            messages.append(
                Message(
                    message_id=str(entry.seq),
                    body=entry.body,
                    receipt_handle=entry.receipt,
                    receive_count=entry.receive_count,
                    sent=entry.sent,
                )
            )
        return messages

    def _leased(self, message: Message) -> _Entry | None:
        now = self._clock.seconds()
        for entry in self._entries:
            if entry.receipt == message.receipt_handle and entry.visible_at > now:
                return entry
        return None
