"""
Dead letters: the jobs that were received too often.

The queue of the database can be looked at; that of SQS can only be received from, so
there each letter is taken and, unless something is done with it, handed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from twisted.logger import Logger

from fxprofile.admin.tools import Tools
from fxprofile.errors import ConfigError, DriverError, LeaseLost, MalformedMessage
from fxprofile.interfaces import IQueue
from fxprofile.model import Job, Message
from fxprofile.queues.poller import BATCH

#: Seconds that a queue gets to give another letter, where it does not tell at once that
#: there is none: SQS asks only some of its servers when it is not to wait.
_WAIT: Final = 1

#: Letters of one look at the database.
_PAGE: Final = 100


class Letters(Protocol):
    """Dead letters, some at a time."""

    async def more(self) -> Sequence[Message]:
        """The next letters, the oldest first as far as the queue knows; none at the end."""

    async def redrive(self, letter: Message) -> bool:
        """
        Send a job again, and then remove its letter.

        :returns: whether the letter was still there.
        """

    async def drop(self, letter: Message) -> bool:
        """
        Remove a letter.

        :returns: whether it was still there.
        """

    async def close(self) -> None:
        """Hand back what was received."""


def job_of(letter: Message) -> Job | None:
    """What a letter asks for; None if it is not of the right form."""
    try:
        return Job.decode(letter.body)
    except MalformedMessage:
        return None


async def open_letters(tools: Tools) -> Letters:
    """
    The dead letters of the jobs queue.

    :raises ConfigError: if the settings name no such queue.
    """
    if tools.settings.queue.driver == "database":
        await tools.open_database()
        return StoredLetters(jobs=tools.needed_queue("jobs"), dead=tools.needed_queue("dead"))
    dead = tools.queue("dead")
    if dead is None:
        raise ConfigError("queue.dead_url: must be set, or nobody knows where the letters are")
    return ReceivedLetters(jobs=tools.needed_queue("jobs"), dead=dead, clock=tools.reactor)


class StoredLetters:
    """
    Letters in the database.

    :param jobs: a :class:`fxprofile.queues.database.DatabaseQueue`.
    :param dead: its dead letters.
    """

    def __init__(self, *, jobs: Any, dead: Any) -> None:
        self._jobs = jobs
        self._dead = dead
        self._after = ""

    async def more(self) -> Sequence[Message]:
        page: Sequence[Message] = await self._dead.browse(limit=_PAGE, after=self._after)
        if page:
            self._after = page[-1].message_id
        return page

    async def redrive(self, letter: Message) -> bool:
        return bool(await self._jobs.redrive(message_id=letter.message_id))

    async def drop(self, letter: Message) -> bool:
        return bool(await self._dead.drop(message_id=letter.message_id))

    async def close(self) -> None:
        pass


class ReceivedLetters:
    """
    Letters on a queue that only gives them away.

    While they are looked at nobody else sees them; if this process is killed, they come
    back after the visibility timeout.
    """

    _log = Logger()

    def __init__(self, *, jobs: IQueue, dead: IQueue, clock: Any) -> None:
        self._jobs = jobs
        self._dead = dead
        self._clock = clock
        self._held: dict[str, Message] = {}
        self._seen: set[str] = set()

    async def more(self) -> Sequence[Message]:
        received = await self._dead.receive(max_messages=BATCH, wait=_WAIT)
        # With very many letters the first come back while the last are looked at.
        new = [letter for letter in received if letter.message_id not in self._seen]
        self._seen.update(letter.message_id for letter in received)
        self._held.update((letter.message_id, letter) for letter in received)
        return new

    async def redrive(self, letter: Message) -> bool:
        job = job_of(letter)
        body = letter.body if job is None else job.encode(self._clock.seconds())
        # Before the letter goes: a job that runs twice does no harm, one that never runs
        # does.
        await self._jobs.send(body=body)
        return await self.drop(letter)

    async def drop(self, letter: Message) -> bool:
        await self._dead.delete(message=self._held.get(letter.message_id, letter))
        self._held.pop(letter.message_id, None)
        return True

    async def close(self) -> None:
        held, self._held = list(self._held.values()), {}
        for letter in held:
            try:
                await self._dead.extend(message=letter, visibility=0)
            except LeaseLost:
                continue
            except DriverError as error:
                self._log.warn("A dead letter stays hidden for a while: {error}", error=error)
