"""``fxprofile-admin dead``: the jobs that nobody could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from fxprofile.admin.shared.commands import AdminGroup, pass_session, yes_option
from fxprofile.admin.shared.dead_letters import SOURCES, Letters, Subject, open_letters, subject_of
from fxprofile.admin.shared.output import duration, moment, pairs, table
from fxprofile.admin.shared.session import Problem, Session
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.messages import Message, Op

_HELP_IDS = "IDs are those of letters, or of avatars."

#: Characters of a malformed letter, in a table.
_GLIMPSE = 60


_queue_option = click.option(
    "--queue",
    "source",
    type=click.Choice(SOURCES),
    default="jobs",
    show_default=True,
    help="The queue that they died on.",
)


@click.group(cls=AdminGroup)
def dead() -> None:
    """
    Look after dead letters.

    A message is dead when it was received too often without being handled. The web role
    turns the row of a dead job failed; the letter stays until somebody redrives or drops
    it.
    """


@dead.command(name="list")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many to list.",
)
@_queue_option
@pass_session
def list_letters(session: Session, source: str, limit: int) -> None:
    """
    List dead letters, with the row and the original of each.

    On SQS, looking hides them for some seconds.
    """

    async def work(tools: Tools) -> list[dict[str, Any]]:
        async def look(letters: Letters) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            while len(found) < limit and (some := await letters.more()):
                found += [await _about(tools, source, x) for x in some[: limit - len(found)]]
            return found

        return await _with_letters(tools, source, look)

    found = session.run(work)
    session.answer(
        {"letters": found},
        table(
            ("LETTER", "AGE", "JOB", "AVATAR", "ROW", "ORIGINAL"),
            [
                (
                    about["letter"],
                    duration(about["age_seconds"]),
                    about["op"] or "malformed",
                    about["avatar"] or about["body"][:_GLIMPSE],
                    about["row"] or ("gone" if about["avatar"] else None),
                    {True: "there", False: "gone", None: None}[about["original"]],
                )
                for about in found
            ],
        )
        if found
        else "There are no dead letters.",
    )


@dead.command()
@click.argument("wanted", metavar="ID")
@_queue_option
@pass_session
def show(session: Session, source: str, wanted: str) -> None:
    """Show one dead letter whole; ID is that of the letter, or of the avatar."""

    async def work(tools: Tools) -> dict[str, Any]:
        async def look(letters: Letters) -> dict[str, Any]:
            while some := await letters.more():
                for letter in some:
                    if _is_meant(source, letter, {wanted}):
                        return await _about(tools, source, letter)
            raise _missing([wanted])

        return await _with_letters(tools, source, look)

    about = session.run(work)
    session.answer(
        about,
        pairs(
            [
                ("letter", about["letter"]),
                ("sent", about["sent"]),
                ("job", about["op"] or "malformed"),
                ("avatar", about["avatar"]),
                ("row", about["row"] or "gone"),
                ("error", about["error"]),
                ("original", {True: "there", False: "gone", None: None}[about["original"]]),
                ("body", about["body"]),
                ("redriven", about["prospect"]),
            ]
        ),
    )


@dead.command(epilog=_HELP_IDS)
@click.argument("wanted", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that can be done again.")
@_queue_option
@pass_session
def redrive(session: Session, source: str, wanted: Sequence[str], everything: bool) -> None:
    """
    Send dead messages again, and remove their letters.

    A row that has failed meanwhile becomes ready if the job is done now. Malformed
    letters stay: they would only die again.
    """
    _one_of(wanted, everything)

    async def work(tools: Tools) -> tuple[list[dict[str, Any]], list[str]]:
        async def act(letters: Letters, letter: Message) -> str:
            if subject_of(source, letter) is None:
                return "left: malformed"
            return "redriven" if await letters.redrive(letter) else "gone already"

        return await _each(tools, source, set(wanted), act)

    done, missing = session.run(work)
    _report(session, done, missing)
    if wanted and any(about["outcome"] != "redriven" for about in done):
        raise SystemExit(1)


@dead.command(epilog=_HELP_IDS)
@click.argument("wanted", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_queue_option
@yes_option
@pass_session
def drop(session: Session, source: str, wanted: Sequence[str], everything: bool, yes: bool) -> None:
    """
    Remove dead letters; what they ask for is never done.

    The rows of crunch jobs have failed already. Pictures that a dropped delete job was
    to remove stay until the job of its row is sent again, or until fxprofile-admin orphans
    finds them if there is no row.
    """
    _one_of(wanted, everything)
    session.no_questions(yes)

    async def work(tools: Tools) -> tuple[list[dict[str, Any]], list[str]]:
        which = "every dead letter" if everything else "the dead letters of " + ", ".join(wanted)
        session.confirm(f"Drop {which}?", yes)

        async def act(letters: Letters, letter: Message) -> str:
            return "dropped" if await letters.drop(letter) else "gone already"

        return await _each(tools, source, set(wanted), act)

    _report(session, *session.run(work))


def _one_of(wanted: Sequence[str], everything: bool) -> None:
    if bool(wanted) == everything:
        raise click.UsageError("Give the ids of letters or avatars, or --all.")


async def _with_letters(tools: Tools, source: str, look: Callable[[Letters], Any]) -> Any:
    letters = await open_letters(tools, source)
    try:
        # Only now, as the queue may need no database.
        await tools.open_database()
        return await look(letters)
    finally:
        await letters.close()


async def _each(
    tools: Tools, source: str, wanted: set[str], act: Callable[[Letters, Message], Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Do something to the letters that are wanted, or to all if none is named.

    :returns: what was done, and what was wanted and is not there.
    """
    done: list[dict[str, Any]] = []
    missing = set(wanted)

    letters = await open_letters(tools, source)
    try:
        while (missing or not wanted) and (some := await letters.more()):
            for letter in some:
                if wanted and not _is_meant(source, letter, wanted):
                    continue
                subject = subject_of(source, letter)
                missing -= {letter.message_id, subject and subject.avatar_id}
                done.append(
                    {
                        "letter": letter.message_id,
                        "op": subject and subject.word,
                        "avatar": subject and subject.avatar_id,
                        "outcome": await act(letters, letter),
                    }
                )
    finally:
        await letters.close()
    return done, sorted(missing)


def _is_meant(source: str, letter: Message, wanted: set[str]) -> bool:
    subject = subject_of(source, letter)
    return letter.message_id in wanted or (subject is not None and subject.avatar_id in wanted)


def _missing(wanted: Sequence[str]) -> Problem:
    return Problem(
        f"no dead letter {', '.join(wanted)}; if another process is just looking at it, it is"
        " back in a minute"
    )


def _report(session: Session, done: list[dict[str, Any]], missing: list[str]) -> None:
    if done or not missing or session.as_json:
        session.answer(
            {"letters": done, "missing": missing},
            table(
                ("LETTER", "JOB", "AVATAR", "OUTCOME"),
                [(d["letter"], d["op"] or "malformed", d["avatar"], d["outcome"]) for d in done],
            )
            if done
            else "There are no dead letters.",
        )
    if missing:
        raise _missing(missing)


async def _about(tools: Tools, source: str, letter: Message) -> dict[str, Any]:
    from fxprofile.admin.shared.lookups import avatar_row, head
    from fxprofile.model.keys import private_key

    subject = subject_of(source, letter)
    avatar_id = subject and subject.avatar_id
    row = original = None
    if avatar_id:
        row = await avatar_row(tools, avatar_id)
        original = await head(tools.bucket("private"), private_key(avatar_id)) is not None
    return {
        "letter": letter.message_id,
        "sent": moment(letter.sent),
        "age_seconds": round(max(0.0, tools.reactor.seconds() - letter.sent), 1),
        "op": subject and subject.word,
        "avatar": avatar_id,
        "row": row and row.status,
        "error": row and row.error,
        "original": original,
        "prospect": _prospect(source, subject, row, original),
        "body": letter.body,
    }


def _prospect(source: str, subject: Subject | None, row: Any, original: bool | None) -> str:
    """What would come of a message that is sent again."""
    if subject is None:
        return "it is malformed, and would die again"
    if source != "jobs":
        return "it would be applied, however late"
    if subject.word == Op.DELETE:
        return "what is left of the avatar would be removed"
    if row is None:
        return "nobody waits for it; what it makes would be removed again"
    if not original:
        return "the original is gone; it would fail as lost, unless the pictures are there"
    return "the avatar would be crunched again"
