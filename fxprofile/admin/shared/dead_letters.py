"""
Dead letters: the messages that were received too often.

The queue of the database can be looked at; that of SQS can only be received from, so
there each letter is taken and, unless something is done with it, handed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.logger import Logger

from fxprofile.admin.shared.tools import Tools
from fxprofile.model.errors import ConfigError, DriverError, LeaseLost, MalformedMessage
from fxprofile.model.messages import Job, Message, Result
from fxprofile.model.ports import BATCH, IQueue

#: Seconds that a queue gets to give another letter, where it does not tell at once that
#: there is none: SQS asks only some of its servers when it is not to wait.
_WAIT: Final = 1

#: Letters of one look at the database.
_PAGE: Final = 100


#: The queues that messages die on.
SOURCES: Final = ("jobs", "results", "events")


@dataclass(frozen=True)
class Subject:
    """
    What a letter is about.

    :ivar word: what it asks for, or reports.
    """

    word: str
    avatar_id: str | None
    job: Job | None = None


def subject_of(source: str, letter: Message) -> Subject | None:
    """
    What a letter is about.

    :param source: the queue that it died on.
    :returns: None if it can only die again, as it is not of the right form.
    """
    try:
        if source == "jobs":
            job = Job.decode(letter.body)
            return Subject(job.op.value, job.id, job)
        if source == "results":
            result = Result.decode(letter.body)
            return Subject(result.status.value, result.id)
    except MalformedMessage:
        return None
    return Subject("event", None)


class Letters(Protocol):
    """
    Dead letters, some at a time.

    :ivar source: the queue that they died on.
    """

    source: str

    async def more(self) -> Sequence[Message]:
        """The next letters, the oldest first as far as the queue knows; none at the end."""

    async def redrive(self, letter: Message) -> bool:
        """
        Send a message again, and then remove its letter.

        :returns: whether the letter was still there.
        """

    async def drop(self, letter: Message) -> bool:
        """
        Remove a letter.

        :returns: whether it was still there.
        """

    async def close(self) -> None:
        """Hand back what was received."""


async def open_letters(tools: Tools, source: str) -> Letters:
    """
    The dead letters of a queue.

    :raises ConfigError: if the settings do not lead to them.
    """
    queue: Any = tools.needed_queue(source)
    if tools.settings.queue.driver == "database":
        await tools.open_database()
        return StoredLetters(source, queue=queue, dead=queue.dead)
    known = {"jobs": "dead", "results": "results_dead"}.get(source)
    dead = None if known is None else tools.queue(known)
    if dead is None:
        dead = await _found_on_sqs(tools, source)
    return ReceivedLetters(source, queue=queue, dead=dead, clock=tools.reactor)


async def _found_on_sqs(tools: Tools, source: str) -> IQueue:
    """The queue of dead letters that the redrive policy of a queue names."""
    from fxprofile.admin.provision.sqs import Queues
    from fxprofile.drivers.aws.shared import client_of
    from fxprofile.drivers.aws.sqs import sqs_queue

    settings = tools.settings
    client = client_of(settings, reactor=tools.reactor, threads=tools.files)
    url = await Queues(client, settings).dead_url(getattr(settings.queue, f"{source}_url"))
    if url is None:
        raise ConfigError(f"queue.{source}_url: the queue has no queue of dead letters")
    dead = sqs_queue(
        settings,
        name=f"{source}-dead",
        url=url,
        visibility_timeout=settings.queue.visibility_timeout,
        reactor=tools.reactor,
        threads=tools.files,
    )
    dead.setServiceParent(tools.stack)
    return dead


class StoredLetters:
    """
    Letters in the database.

    :param queue: a :class:`fxprofile.drivers.sql.queue.DatabaseQueue`.
    :param dead: its dead letters.
    """

    def __init__(self, source: str, *, queue: Any, dead: Any) -> None:
        self.source = source
        self._queue = queue
        self._dead = dead
        self._after = ""

    async def more(self) -> Sequence[Message]:
        page: Sequence[Message] = await self._dead.browse(limit=_PAGE, after=self._after)
        if page:
            self._after = page[-1].message_id
        return page

    async def redrive(self, letter: Message) -> bool:
        return bool(await self._queue.redrive(message_id=letter.message_id))

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

    def __init__(self, source: str, *, queue: IQueue, dead: IQueue, clock: Any) -> None:
        self.source = source
        self._queue = queue
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
        subject = subject_of(self.source, letter)
        body = letter.body
        if subject is not None and subject.job is not None:
            body = subject.job.encode(self._clock.seconds())
        # Before the letter goes: what is done twice does no harm, what is never done does.
        await self._queue.send(body=body)
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
