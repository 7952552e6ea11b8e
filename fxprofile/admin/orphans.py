"""``fxprofile-admin orphans``: objects that no row needs, and rows without their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import click

from fxprofile.admin.shared.commands import AdminCommand, pass_session, yes_option
from fxprofile.admin.shared.output import moment, say, size, table
from fxprofile.admin.shared.session import Problem, Session
from fxprofile.admin.shared.tools import Tools

#: Hours that an object has to be there before it may be called an orphan.
GRACE: Final = 48

#: How many of all avatars may go in one run, unless the operator says so.
SHARE: Final = 0.01


@click.command(cls=AdminCommand)
@click.option("--delete", is_flag=True, help="Send a delete job for each.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    help="With --delete: delete nothing if there are more than this.  [default: 1 % of all]",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=1),
    default=GRACE,
    show_default=True,
    metavar="HOURS",
    help="How old an object has to be.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many of each kind to list.",
)
@yes_option
@pass_session
def orphans(
    session: Session, delete: bool, most: int | None, grace: float, limit: int, yes: bool
) -> None:
    """
    Find objects that no row needs, and ready avatars without their pictures.

    Looks through both buckets and all rows. With --delete the worker removes what was
    found, by jobs like any other; if that is more than 1 % of all avatars, look first
    whether this is the right database, and then say --most. The status is 1 if there are
    orphans that were not deleted, or avatars without their pictures: their users have to
    upload them again, or the bucket has to be restored.
    """
    if delete:
        session.no_questions(yes)

    async def work(tools: Tools) -> tuple[dict[str, Any], str | None]:
        from fxprofile.admin.shared.sweep import sweep_of

        await tools.open_database()
        sweep = sweep_of(tools, grace=grace * 3600)
        findings = await sweep.find()
        about = _described(findings, limit)
        number = len(findings.orphans)
        if not delete or not number:
            return about, None
        allowed = math.ceil(findings.avatars * SHARE) if most is None else most
        if number > allowed:
            return about, (
                f"nothing was deleted: {number} orphans of {findings.avatars} avatars are more"
                f" than {allowed}; if {_place(tools)} is the right database, say --most={number}"
            )
        if not yes:
            say(_text(about))
        session.confirm(f"Delete {number} orphans?", yes)
        about["sent"] = await sweep.remove(findings)
        return about, None

    about, refused = session.run(work)
    asked = about["sent"] is not None and not yes
    session.answer(about, _outcome(about) if asked else _text(about))
    if refused:
        raise Problem(refused)
    if about["broken_total"] or (about["orphans_total"] and about["sent"] is None):
        raise SystemExit(1)


def _place(tools: Tools) -> str:
    from fxprofile.admin.shared.tools import where

    return where(tools.database_url)


def _described(findings: Any, limit: int) -> dict[str, Any]:
    return {
        "looked_at": {
            "rows": findings.rows,
            "pictures": findings.pictures,
            "originals": findings.originals,
        },
        "orphans_total": len(findings.orphans),
        "orphans": [
            {
                "avatar": found.id,
                "row": found.status,
                "objects": [info.key for info in found.objects],
                "bytes": sum(info.length for info in found.objects),
                "modified": moment(max(info.modified for info in found.objects)),
            }
            for found in findings.orphans[:limit]
        ],
        "broken_total": len(findings.broken),
        "broken": [
            {
                "avatar": found.id,
                "uid": found.row.uid,
                "missing": found.missing,
                "updated": moment(found.row.updated),
            }
            for found in findings.broken[:limit]
        ],
        "sent": None,
    }


def _text(about: dict[str, Any]) -> str:
    return "\n".join(_lines(about))


def _lines(about: dict[str, Any]) -> Iterable[str]:
    looked_at = about["looked_at"]
    yield (
        f"Looked at {looked_at['rows']} rows, the pictures of {looked_at['pictures']} avatars,"
        f" and {looked_at['originals']} originals."
    )
    if orphans := about["orphans"]:
        yield ""
        yield table(
            ("ORPHAN", "ROW", "OBJECTS", "SIZE", "PUT"),
            [
                (o["avatar"], o["row"], len(o["objects"]), size(o["bytes"]), o["modified"])
                for o in orphans
            ],
        )
        yield from _more(about["orphans_total"], orphans)
    if broken := about["broken"]:
        yield ""
        yield table(
            ("WITHOUT PICTURES", "USER", "MISSING", "READY SINCE"),
            [(b["avatar"], b["uid"], len(b["missing"]), b["updated"]) for b in broken],
        )
        yield from _more(about["broken_total"], broken)
    yield ""
    yield _outcome(about)


def _more(total: int, listed: list[Any]) -> Iterable[str]:
    if total > len(listed):
        yield f"… and {total - len(listed)} more"


def _outcome(about: dict[str, Any]) -> str:
    said = []
    if about["sent"] is not None:
        said.append(f"Sent {about['sent']} delete jobs; the worker removes the objects.")
    elif about["orphans_total"]:
        said.append(f"{about['orphans_total']} orphans: --delete has the worker remove them.")
    if about["broken_total"]:
        said.append(
            f"PROBLEM: {about['broken_total']} ready avatars without all of their pictures: restore"
            " the public bucket, or let their users upload them again."
        )
    return "\n".join(said) or "All is well."
