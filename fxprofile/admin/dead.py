"""``fxprofile-admin dead``: the jobs that nobody could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from fxprofile.admin.commands import AdminGroup, pass_session, yes_option
from fxprofile.admin.letters import Letters, job_of, open_letters
from fxprofile.admin.output import duration, moment, pairs, table
from fxprofile.admin.session import Problem, Session
from fxprofile.admin.tools import Tools
from fxprofile.model import Job, Message, Op

_HELP_IDS = "IDs are those of letters, or of avatars."

#: Characters of a letter that is none of ours, in a table.
_GLIMPSE = 60


@click.group(cls=AdminGroup)
def dead() -> None:
    """
    Look after the dead letters of the jobs queue.

    A job is dead when it was received too often without being done. The web role turns
    its row failed; the letter stays until somebody redrives or drops it.
    """


@dead.command(name="list")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@pass_session
def list_letters(session: Session, limit: int) -> None:
    """
    List dead letters, with the row and the original of each.

    On SQS, looking hides them for some seconds.
    """

    async def work(tools: Tools) -> list[dict[str, Any]]:
        async def look(letters: Letters) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            while len(found) < limit and (some := await letters.more()):
                found += [await _about(tools, letter) for letter in some[: limit - len(found)]]
            return found

        return await _with_letters(tools, look)

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
@pass_session
def show(session: Session, wanted: str) -> None:
    """Show one dead letter whole; ID is that of the letter, or of the avatar."""

    async def work(tools: Tools) -> dict[str, Any]:
        async def look(letters: Letters) -> dict[str, Any]:
            while some := await letters.more():
                for letter in some:
                    if _is_meant(letter, {wanted}):
                        return await _about(tools, letter)
            raise _missing([wanted])

        return await _with_letters(tools, look)

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
@pass_session
def redrive(session: Session, wanted: Sequence[str], everything: bool) -> None:
    """
    Send dead jobs again, and remove their letters.

    A row that has failed meanwhile becomes ready if the job is done now. Letters that
    are no jobs stay: they would only die again.
    """
    _one_of(wanted, everything)

    async def work(tools: Tools) -> tuple[list[dict[str, Any]], list[str]]:
        async def act(letters: Letters, letter: Message) -> str:
            if job_of(letter) is None:
                return "left: it is no job"
            return "redriven" if await letters.redrive(letter) else "gone already"

        return await _each(tools, set(wanted), act)

    done, missing = session.run(work)
    _report(session, done, missing)
    if wanted and any(about["outcome"] != "redriven" for about in done):
        raise SystemExit(1)


@dead.command(epilog=_HELP_IDS)
@click.argument("wanted", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@yes_option
@pass_session
def drop(session: Session, wanted: Sequence[str], everything: bool, yes: bool) -> None:
    """
    Remove dead letters; their jobs are never done.

    The rows of crunch jobs have failed already. Pictures that a dropped delete job was
    to remove stay until its row is sent again, or for ever if there is no row.
    """
    _one_of(wanted, everything)
    session.no_questions(yes)

    async def work(tools: Tools) -> tuple[list[dict[str, Any]], list[str]]:
        which = "every dead letter" if everything else "the dead letters of " + ", ".join(wanted)
        session.confirm(f"Drop {which}?", yes)

        async def act(letters: Letters, letter: Message) -> str:
            return "dropped" if await letters.drop(letter) else "gone already"

        return await _each(tools, set(wanted), act)

    _report(session, *session.run(work))


def _one_of(wanted: Sequence[str], everything: bool) -> None:
    if bool(wanted) == everything:
        raise click.UsageError("Give the ids of letters or avatars, or --all.")


async def _with_letters(tools: Tools, look: Callable[[Letters], Any]) -> Any:
    letters = await open_letters(tools)
    try:
        # Only now, as the queue may need no database.
        await tools.open_database()
        return await look(letters)
    finally:
        await letters.close()


async def _each(
    tools: Tools, wanted: set[str], act: Callable[[Letters, Message], Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Do something to the letters that are wanted, or to all if none is named.

    :returns: what was done, and what was wanted and is not there.
    """
    done: list[dict[str, Any]] = []
    missing = set(wanted)

    letters = await open_letters(tools)
    try:
        while (missing or not wanted) and (some := await letters.more()):
            for letter in some:
                if wanted and not _is_meant(letter, wanted):
                    continue
                job = job_of(letter)
                missing -= {letter.message_id, job.id if job else ""}
                done.append(
                    {
                        "letter": letter.message_id,
                        "op": job and job.op.value,
                        "avatar": job and job.id,
                        "outcome": await act(letters, letter),
                    }
                )
    finally:
        await letters.close()
    return done, sorted(missing)


def _is_meant(letter: Message, wanted: set[str]) -> bool:
    job = job_of(letter)
    return letter.message_id in wanted or (job is not None and job.id in wanted)


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


async def _about(tools: Tools, letter: Message) -> dict[str, Any]:
    from fxprofile.admin.lookups import avatar_row, head
    from fxprofile.keys import private_key

    job = job_of(letter)
    row = None if job is None else await avatar_row(tools, job.id)
    original = None
    if job is not None:
        original = await head(tools.bucket("private"), private_key(job.id)) is not None
    return {
        "letter": letter.message_id,
        "sent": moment(letter.sent),
        "age_seconds": round(max(0.0, tools.reactor.seconds() - letter.sent), 1),
        "op": job and job.op.value,
        "avatar": job and job.id,
        "row": row and row.status,
        "error": row and row.error,
        "original": original,
        "prospect": _prospect(job, row, original),
        "body": letter.body,
    }


def _prospect(job: Job | None, row: Any, original: bool | None) -> str:
    """What would come of a job that is sent again."""
    if job is None:
        return "it is no job, and would die again"
    if job.op is Op.DELETE:
        return "what is left of the avatar would be removed"
    if row is None:
        return "nobody waits for it; what it makes would be removed again"
    if not original:
        return "the original is gone; it would fail as lost, unless the pictures are there"
    return "the avatar would be crunched again"
