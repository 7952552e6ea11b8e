"""
A queue that the test controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fxprofile.model.messages import Message, QueueDepth
from fxprofile.model.ports import IQueue


def make_message(name: str = "1", *, body: str = "", receive_count: int = 1) -> Message:
    """A message that was received."""
    return Message(
        message_id=name,
        body=body,
        receipt_handle=f"{name}-{receive_count}",
        receive_count=receive_count,
        sent=0,
    )


@implementer(IQueue)
class ScriptedQueue:
    """
    Records its calls, and returns what the test tells it to.

    :ivar polls: how many messages each receive asks for, and how long it waits.
    :ivar hidden: for how long each receive hides them.
    :ivar extended: the id and the visibility of each extension.
    :ivar released: the ids of the messages that were released.
    :ivar deleted: the ids of the messages that were deleted.
    :ivar errors: by method, what the next calls raise.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.polls: list[tuple[int, float]] = []
        self.hidden: list[float | None] = []
        self.extended: list[tuple[str, float]] = []
        self.released: list[str] = []
        self.deleted: list[str] = []
        self.errors: dict[str, list[BaseException]] = {}
        self.held: dict[str, list[Deferred[None]]] = {}
        self._poll: Deferred[Sequence[Message]] | None = None

    @property
    def polling(self) -> bool:
        """Whether a receive is waiting."""
        return self._poll is not None

    def give(self, *messages: Message) -> None:
        """Answer the receive with messages."""
        self.answer(messages)

    def answer(self, answer: Any) -> None:
        """Answer the receive with any value."""
        poll, self._poll = self._poll, None
        assert poll is not None
        poll.callback(answer)

    def refuse(self, error: BaseException) -> None:
        """Make the receive fail."""
        poll, self._poll = self._poll, None
        assert poll is not None
        poll.errback(error)

    async def receive(
        self, *, max_messages: int, wait: float, visibility: float | None = None
    ) -> Sequence[Message]:
        self.polls.append((max_messages, wait))
        self.hidden.append(visibility)
        await self._moment("receive")
        assert self._poll is None, "polled twice at a time"
        self._poll = poll = Deferred()
        try:
            return await poll
        finally:
            self._poll = None

    async def extend(self, *, message: Message, visibility: float) -> None:
        self.extended.append((message.message_id, visibility))
        await self._moment("extend")

    async def release(self, *, message: Message) -> None:
        self.released.append(message.message_id)
        await self._moment("release")

    async def delete(self, *, message: Message) -> None:
        self.deleted.append(message.message_id)
        await self._moment("delete")

    async def send(self, *, body: str) -> None:
        await self._moment("send")

    async def depth(self) -> QueueDepth:
        return QueueDepth(visible=0, in_flight=0)

    async def check(self) -> None:
        await self._moment("check")

    async def _moment(self, method: str) -> None:
        if held := self.held.get(method):
            await held.pop(0)
        if errors := self.errors.get(method):
            raise errors.pop(0)
