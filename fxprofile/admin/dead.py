"""
``fxprofile-admin dead``: dead letters, which are messages that were received too often.

The database queue can be browsed.  SQS can only be received from, so there each dead letter is
received and, unless it is redriven or dropped, released.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import click
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.commands import AdminGroup, Answer, with_tools
from fxprofile.admin.shared.output import Members, listing, moment, pairs
from fxprofile.admin.shared.tools import AvatarRecord, Tools, avatar_record, head
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model.errors import ConfigError, DriverError, LeaseLost, MalformedMessage
from fxprofile.model.keys import private_key
from fxprofile.model.messages import Job, Message, Op, Result
from fxprofile.model.ports import BATCH, IQueue

_log = Logger()

#: The queues that messages die on, and the settings of their dead-letter queues on SQS.
SOURCES: Final = {"jobs": "dead", "results": "results_dead", "events": None}

#: Seconds to wait for a further dead letter on SQS: without a wait it asks only some of its
#: servers.
_WAIT: Final = 1

#: Dead letters of one page of the database.
_PAGE: Final = 100

#: Characters of a malformed dead letter in a table.
_EXCERPT: Final = 60

_HELP_IDS: Final = "An ID is that of a dead letter or of an avatar."


@dataclass(frozen=True)
class DeadLetter:
    """
    A dead letter and what it is about.

    :ivar op: what it asks for or reports; None if it is malformed and can only die again.
    :ivar job: the job, if it is one.
    """

    message: Message
    op: str | None
    avatar_id: str | None = None
    job: Job | None = None

    @classmethod
    def read(cls, source: str, message: Message) -> DeadLetter:
        """
        Read a dead letter.

        :param source: the queue that it died on.
        """
        if source == "events":
            return cls(message, "event")
        try:
            if source == "results":
                result = Result.decode(message.body)
                return cls(message, result.status, result.id)
            job = Job.decode(message.body)
            return cls(message, job.op, job.id, job)
        except MalformedMessage:
            return cls(message, None)

    @property
    def ids(self) -> set[str]:
        """Its own id and that of its avatar."""
        return {self.message.message_id, self.avatar_id or self.message.message_id}

    def members(self) -> Members:
        """Return the members of its JSON that every command gives."""
        return {"letter": self.message.message_id, "op": self.op, "avatar": self.avatar_id}


@dataclass
class DeadLetters:
    """
    The dead letters of one queue.

    What was received from SQS is hidden from other processes until it is released; if this
    process is killed, it comes back after the visibility timeout.

    :param source: the name of the queue that they died on.
    """

    source: str
    queue: IQueue
    dead: IQueue
    clock: IReactorTime
    _after: str = ""
    _held: dict[str, Message] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    async def more(self) -> Sequence[DeadLetter]:
        """Return the next ones, the oldest first as far as the queue knows; none at the end."""
        if isinstance(self.dead, DatabaseQueue):
            new = list(await self.dead.browse(limit=_PAGE, after=self._after))
            self._after = new[-1].message_id if new else self._after
        else:
            received = await self.dead.receive(max_messages=BATCH, wait=_WAIT)
            self._held.update((message.message_id, message) for message in received)
            # If there are very many, the first come back before the last are received.
            new = [message for message in received if message.message_id not in self._seen]
            self._seen.update(self._held)
        return [DeadLetter.read(self.source, message) for message in new]

    async def redrive(self, letter: DeadLetter) -> bool:
        """Send the message again and remove the dead letter; return whether it still existed."""
        if isinstance(self.queue, DatabaseQueue):
            return await self.queue.redrive(message_id=letter.message.message_id)
        body = letter.message.body
        if letter.job is not None:
            body = letter.job.encode(self.clock.seconds())
        # Sent before it is dropped: doing it twice does no harm, losing it does.
        await self.queue.send(body=body)
        return await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> bool:
        """Remove a dead letter; return whether it still existed."""
        if isinstance(self.dead, DatabaseQueue):
            return await self.dead.drop(message_id=letter.message.message_id)
        message = self._held.pop(letter.message.message_id, letter.message)
        await self.dead.delete(message=message)
        return True

    async def close(self) -> None:
        """Release what was received."""
        held, self._held = list(self._held.values()), {}
        for message in held:
            try:
                await self.dead.extend(message=message, visibility=0)
            except LeaseLost:
                continue
            except DriverError as error:
                _log.warn("Cannot release a dead letter: {error}", error=error)


async def open_dead_letters(tools: Tools, source: str) -> DeadLetters:
    """
    Return the dead letters of a queue.

    On SQS its dead-letter queue is that of the settings, or else of its redrive policy.

    :raises ConfigError: if the settings do not lead to them.
    """
    queue, setting = tools.needed_queue(source), SOURCES[source]
    if isinstance(queue, DatabaseQueue):
        await tools.open_database()
        return DeadLetters(source, queue, queue.dead, tools.reactor)
    dead = None if setting is None else tools.queue(setting)
    if dead is None:
        from fxprofile.admin.shared.aws import dead_url

        url = await dead_url(tools, getattr(tools.settings.queue, f"{source}_url"))
        if url is None:
            raise ConfigError(f"queue.{source}_url: the queue has no dead-letter queue")
        dead = tools.queue_at(f"{source}-dead", url)
    return DeadLetters(source, queue, dead, tools.reactor)


async def _each(
    tools: Tools,
    source: str,
    wanted: Sequence[str],
    act: Callable[[DeadLetters, DeadLetter], Awaitable[Members]],
    limit: float = float("inf"),
) -> tuple[list[Members], list[str]]:
    """
    Call a function with each dead letter that is wanted, and then release the others.

    :param wanted: ids of dead letters or avatars; empty for all.
    :param limit: stop after so many.
    :returns: the results, and the ids that were not found.
    """
    done: list[Members] = []
    missing = set(wanted)
    letters = await open_dead_letters(tools, source)
    try:
        while (missing or not wanted) and len(done) < limit and (page := await letters.more()):
            for letter in page:
                if len(done) < limit and (not wanted or letter.ids & set(wanted)):
                    missing -= letter.ids
                    done.append(await act(letters, letter))
    finally:
        await letters.close()
    return done, sorted(missing)


_queue_option = click.option(
    "--queue",
    "source",
    type=click.Choice(list(SOURCES)),
    default="jobs",
    help="The queue that they died on.",
)


_all_option = click.option("--all", "everything", is_flag=True, help="Every dead letter.")
_ids_argument = click.argument("wanted", metavar="[ID]...", nargs=-1)


@click.group(cls=AdminGroup)
def dead() -> None:
    """
    Inspect, redrive or drop dead letters.

    A message that was received too often without success is a dead letter. The web role
    turns the row of a dead job failed; the dead letter stays until it is redriven or
    dropped.
    """


@dead.command(name="list")
@commands.limit_option(help="How many to list.")
@_queue_option
@with_tools
async def list_letters(tools: Tools, source: str, limit: int) -> Answer:
    """
    List dead letters, with the row and the original of each.

    On SQS this hides them for some seconds.
    """
    found, _ = await _each(tools, source, (), partial(_describe, tools, source), limit)
    rows = [
        {
            **about,
            "avatar": about["avatar"] or about["body"][:_EXCERPT],
            "row": about["row"] or ("gone" if about["avatar"] else None),
            "original": {True: "there", False: "gone"}.get(about["original"]),
        }
        for about in found
    ]
    columns = ("letter", "age_seconds", "op", "avatar", "row", "original")
    return Answer({"letters": found}, _listed(rows, *columns))


@dead.command()
@click.argument("wanted", metavar="ID")
@_queue_option
@with_tools
async def show(tools: Tools, source: str, wanted: str) -> Answer:
    """Show one dead letter whole; ID is that of the dead letter or of its avatar."""
    found, missing = await _each(tools, source, [wanted], partial(_describe, tools, source), 1)
    if missing:
        raise commands.Problem(_missing(missing))
    return Answer(found[0], pairs(found[0]))


@dead.command(epilog=_HELP_IDS)
@_ids_argument
@_all_option
@_queue_option
@with_tools
async def redrive(tools: Tools, source: str, wanted: Sequence[str], everything: bool) -> Answer:
    """
    Send dead letters again, and remove them.

    A row that has failed becomes ready if its job succeeds now. Malformed dead letters
    stay, because they would only die again.
    """
    _check_ids(wanted, everything)
    return await _change(tools, source, wanted, DeadLetters.redrive, "redriven")


@dead.command(epilog=_HELP_IDS)
@_ids_argument
@_all_option
@_queue_option
@commands.yes_option
@with_tools
async def drop(tools: Tools, source: str, wanted: Sequence[str], everything: bool) -> Answer:
    """
    Remove dead letters without doing what they ask for.

    The rows of dead crunch jobs have failed already. Pictures that a dropped delete job
    should have removed stay until the job of their row is sent again, or, without a row,
    until fxprofile-admin orphans finds them.
    """
    _check_ids(wanted, everything)
    commands.require_yes()

    which = "every dead letter" if everything else f"the dead letters of {', '.join(wanted)}"
    commands.confirm(f"Drop {which}?")
    return await _change(tools, source, wanted, DeadLetters.drop, "dropped")


def _check_ids(wanted: Sequence[str], everything: bool) -> None:
    if bool(wanted) == everything:
        raise click.UsageError("Give ids of dead letters or avatars, or --all.")


async def _change(
    tools: Tools,
    source: str,
    wanted: Sequence[str],
    change: Callable[[DeadLetters, DeadLetter], Awaitable[bool]],
    changed: str,
) -> Answer:
    """
    Change the dead letters that are wanted.

    :param change: see the methods of :class:`DeadLetters`.
    :param changed: the outcome of one that still existed.
    """

    async def act(letters: DeadLetters, letter: DeadLetter) -> Members:
        if changed == "redriven" and letter.op is None:
            outcome = "left: malformed"
        else:
            outcome = changed if await change(letters, letter) else "gone already"
        return letter.members() | {"outcome": outcome}

    done, missing = await _each(tools, source, wanted, act)
    failed = changed == "redriven" and wanted and any(d["outcome"] != changed for d in done)
    return Answer(
        {"letters": done, "missing": missing},
        _listed(done, "letter", "op", "avatar", "outcome") if done or not missing else "",
        status=1 if failed else 0,
        errors=[_missing(missing)] if missing else (),
    )


def _listed(letters: Sequence[Members], *columns: str) -> str:
    shown = [{**letter, "op": letter["op"] or "malformed"} for letter in letters]
    return listing(shown, *columns) if shown else "There are no dead letters."


def _missing(ids: Sequence[str]) -> str:
    return (
        f"no dead letter {', '.join(ids)}; if another process has received it, it comes back"
        " within a minute"
    )


async def _describe(tools: Tools, source: str, _: DeadLetters, letter: DeadLetter) -> Members:
    """Return the members of a dead letter with its row and its original."""
    await tools.open_database()
    record = original = None
    if letter.avatar_id is not None:
        record = await avatar_record(tools, letter.avatar_id)
        original = await head(tools.private_bucket, private_key(letter.avatar_id)) is not None
    return letter.members() | {
        "sent": moment(letter.message.sent),
        "age_seconds": round(max(0.0, tools.reactor.seconds() - letter.message.sent), 1),
        "row": record and record.status,
        "error": record and record.error,
        "original": original,
        "prospect": _prospect(source, letter, record, original),
        "body": letter.message.body,
    }


def _prospect(
    source: str, letter: DeadLetter, record: AvatarRecord | None, original: bool | None
) -> str:
    """Return what would happen to a message that is sent again."""
    if letter.op is None:
        return "it is malformed and would die again"
    if source != "jobs":
        return "it would be applied, however late"
    if letter.op == Op.DELETE:
        return "what is left of the avatar would be removed"
    if record is None:
        return "it has no row; the pictures that it makes would be removed again"
    if not original:
        return "the original is gone; it would fail as lost, unless the pictures exist"
    return "the avatar would be crunched again"
