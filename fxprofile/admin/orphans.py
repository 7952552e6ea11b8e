"""``fxprofile-admin orphans``: list objects that no row needs, and rows without their pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import click

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import Members, moment, size, table
from fxprofile.admin.shared.tools import Tools, where
from fxprofile.admin.sweep import SweepReport, sweep_of

#: Age in hours from which an object may be called an orphan.
GRACE: Final = 48

#: The share of all avatars that one run may delete, unless ``--most`` gives a number.
SHARE: Final = 0.01


@click.command(cls=commands.AdminCommand)
@click.option("--delete", is_flag=True, help="Send a delete job for each orphan.")
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
    help="The age from which an object may be an orphan.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many of each kind to list.",
)
@commands.yes_option
@commands.with_tools
async def orphans(
    tools: Tools, delete: bool, most: int | None, grace: float, limit: int
) -> commands.Answer:
    """
    Find objects that no row needs, and ready avatars without their pictures.

    Reads both buckets and all rows. With --delete the worker removes the orphans, by
    ordinary delete jobs; if they are more than 1 % of all avatars, check first that this is
    the right database, and then give --most. The status is 1 if there are orphans that were
    not deleted, or avatars without their pictures: their users have to upload them again,
    or the bucket has to be restored.
    """
    if delete:
        commands.require_yes()
    await tools.open_database()
    sweep = sweep_of(tools, grace=grace * 3600)
    report = await sweep.find()
    about = _members(report, limit)
    listing, errors = "\n".join(_lines(about)), []
    if delete and report.orphans:
        number = len(report.orphans)
        allowed = math.ceil(report.avatars * SHARE) if most is None else most
        if number > allowed:
            errors.append(
                f"nothing was deleted: {number} orphans of {report.avatars} avatars are more"
                f" than {allowed}; if {where(tools.database_url)} is the right database, add"
                f" --most={number}"
            )
        else:
            commands.confirm(f"Delete {number} orphans?", listing)
            about["sent"], listing = await sweep.remove(report), ""
    left = report.broken or (report.orphans and about["sent"] is None)
    text = f"{listing}\n\n{_outcome(about)}".strip()
    return commands.Answer(about, text, status=1 if left else 0, errors=errors)


def _members(report: SweepReport, limit: int) -> Members:
    return {
        "looked_at": {
            "rows": report.rows,
            "pictures": report.pictures,
            "originals": report.originals,
        },
        "orphans_total": len(report.orphans),
        "orphans": [
            {
                "avatar": found.id,
                "row": found.status,
                "objects": [info.key for info in found.objects],
                "bytes": sum(info.length for info in found.objects),
                "modified": moment(max(info.modified for info in found.objects)),
            }
            for found in report.orphans[:limit]
        ],
        "broken_total": len(report.broken),
        "broken": [
            {
                "avatar": found.id,
                "uid": found.row and found.row.uid,
                "missing": found.missing,
                "updated": found.row and moment(found.row.updated),
            }
            for found in report.broken[:limit]
        ],
        "sent": None,
    }


def _lines(about: Members) -> Iterator[str]:
    read = about["looked_at"]
    yield (
        f"Read {read['rows']} rows, the pictures of {read['pictures']} avatars,"
        f" and {read['originals']} originals."
    )
    yield from _listed(
        ("ORPHAN", "ROW", "OBJECTS", "SIZE", "PUT"),
        [
            (o["avatar"], o["row"], len(o["objects"]), size(o["bytes"]), o["modified"])
            for o in about["orphans"]
        ],
        about["orphans_total"],
    )
    yield from _listed(
        ("WITHOUT PICTURES", "USER", "MISSING", "READY SINCE"),
        [(b["avatar"], b["uid"], len(b["missing"]), b["updated"]) for b in about["broken"]],
        about["broken_total"],
    )


def _listed(headings: Sequence[str], rows: Sequence[Sequence[object]], total: int) -> Iterator[str]:
    if rows:
        yield ""
        yield table(headings, rows)
    if total > len(rows):
        yield f"… and {total - len(rows)} more"


def _outcome(about: Members) -> str:
    lines = []
    if about["sent"] is not None:
        lines.append(f"Sent {about['sent']} delete jobs; the worker removes the objects.")
    elif about["orphans_total"]:
        lines.append(f"{about['orphans_total']} orphans: --delete lets the worker remove them.")
    if about["broken_total"]:
        lines.append(
            f"PROBLEM: {about['broken_total']} ready avatars lack pictures: restore the public"
            " bucket, or let their users upload them again."
        )
    return "\n".join(lines) or "All is well."
