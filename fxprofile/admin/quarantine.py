"""
``fxprofile-admin quarantine``, and ``avatar quarantine``: pictures that may not be uploaded again.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, replace

import click
from sqlalchemy import select

from fxprofile.admin.shared.commands import (
    AdminGroup,
    Answer,
    Problem,
    confirm,
    limit_option,
    require_yes,
    with_tools,
)
from fxprofile.admin.shared.output import Members, listing, moment
from fxprofile.admin.shared.tools import (
    AvatarRecord,
    Tools,
    avatar_record,
    avatar_records,
    head,
    temporary_file,
)
from fxprofile.crunch.limits import MAX_BYTES
from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.tasks import sleep
from fxprofile.drivers.sql.quarantine import is_public, shows
from fxprofile.drivers.sql.schema import quarantine as entries
from fxprofile.images.memory_cache import FRESH_SECONDS
from fxprofile.model.avatars import QuarantineEntry
from fxprofile.model.errors import CruncherUnavailable, ObjectNotFound, StorageError
from fxprofile.model.keys import public_key, public_keys

#: Seconds to wait for a worker to remove pictures that this host may not remove, before the CDN is
#: purged, and between two polls.
REMOVAL_WAIT, REMOVAL_POLL = 30.0, 1.0


def operator() -> str:
    """Return who runs this command: the user behind sudo, if any, and the host."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _words(_: click.Context, option: click.Parameter, value: str) -> str:
    """Return a text for the record."""
    most = 255 if option.name == "by" else 2000
    if not value.strip() or len(value) > most:
        raise click.BadParameter(f"must have 1 to {most} characters")
    return value.strip()


reason_option = click.option(
    "--reason", required=True, metavar="TEXT", callback=_words, help="Why, for the record."
)
by_option = click.option(
    "--by",
    default=operator,
    show_default="USER@HOST",
    metavar="NAME",
    callback=_words,
    help="Who decided this, for the record.",
)


async def take_down(tools: Tools, avatar_id: str | None, entry: QuarantineEntry) -> Answer:
    """
    Quarantine a picture, and take down every avatar that shows it.

    The entry is committed first: if this command is interrupted, a web process does the rest.

    :param avatar_id: an avatar with the picture, if one is named.
    :param entry: who and why, and the digest of the bytes if it is given.
    """
    require_yes()
    await tools.open_database()
    if avatar_id is not None:
        entry = await _with_digests(tools, avatar_id, entry)
    found = await _showing(tools, entry)
    digests = [entry.source_digest, entry.pixels_digest]
    question = "Take down these avatars, and refuse the picture in future?"
    confirm(question if any(digests) else "Take down this avatar?", _listing(found))
    number = await _number(tools, entry)
    ids = list(dict.fromkeys([*filter(None, [avatar_id]), *(record.id for record in found)]))
    for record in found:
        await tools.selection.delete(uid=record.uid, avatar_id=record.id)
    await tools.invalidator.flush_updates()
    unremoved = await _remove(tools, ids)
    unpurged = await tools.cdn.purge(ids) if tools.cdn is not None and ids else None
    about: Members = {
        "number": number,
        "source_digest": entry.source_digest,
        "pixels_digest": entry.pixels_digest,
        "avatars": ids,
        "removed": unremoved is None,
        "purged": None if tools.cdn is None or not ids else unpurged is None,
    }
    errors = [] if unpurged is None else [f"{unpurged}; run the same command again to purge it"]
    return Answer(about, _text(tools, about, unremoved), errors=errors)


async def _with_digests(tools: Tools, avatar_id: str, entry: QuarantineEntry) -> QuarantineEntry:
    """
    Add what is known of an avatar's picture to an entry.

    :raises Problem: if there is no such avatar.
    """
    record = await avatar_record(tools, avatar_id)
    if record is None:
        # It was deleted, but its pictures may have been left.
        keys = public_keys(avatar_id)
        if not any([await head(tools.public_bucket, key) for key in keys]):
            raise Problem(f"there is no avatar {avatar_id}, neither row nor picture")
    source = None if record is None else record.source_digest
    pixels = None if record is None else record.pixels_digest
    if pixels is None:
        pixels = await _digest_of_picture(tools, avatar_id)
    return replace(entry, avatar_id=avatar_id, source_digest=source, pixels_digest=pixels)


async def _digest_of_picture(tools: Tools, avatar_id: str) -> str | None:
    """
    Return the digest of a published picture, which is older than the digests in the database.

    It is decoded as uploads are, in a sandboxed child process.
    """
    try:
        _, body = await tools.public_bucket.get(key=public_key(avatar_id, "large"))
        data = await read_all(body, MAX_BYTES["large"])
        pool = await tools.crunch_pool()
        with await tools.files.run(temporary_file, data) as original:
            report = await pool.examine(original=original)
    except ObjectNotFound:
        return None
    except (OverflowError, StorageError, CruncherUnavailable) as error:
        click.echo(f"fxprofile-admin: the pixels of {avatar_id} are unknown: {error}", err=True)
        return None
    return report.outcome.pixels or None


async def _showing(tools: Tools, entry: QuarantineEntry) -> Sequence[AvatarRecord]:
    """Return the named avatar, and all whose pictures are, or may become, public."""
    digests = {"source_digest": entry.source_digest, "pixels_digest": entry.pixels_digest}
    named = shows(id=entry.avatar_id)
    return await avatar_records(tools, named | (shows(**digests) & is_public()))


async def _number(tools: Tools, entry: QuarantineEntry) -> int:
    """Return the number of the entry in force for the same picture; add one if there is none."""
    same = [
        entries.c[name].is_not_distinct_from(getattr(entry, name))
        for name in ("source_digest", "pixels_digest", "avatar_id")
    ]
    query = select(entries.c.seq).where(*same, entries.c.lifted.is_(None)).limit(1)
    number = await tools.database.run(lambda c: c.execute(query).scalar(), read_only=True)
    if number is not None:
        return int(number)
    return await tools.store.quarantine(entry=entry, now=tools.reactor.seconds())


async def _remove(tools: Tools, avatar_ids: Sequence[str]) -> str | None:
    """
    Remove the pictures of avatars, or else wait for a worker to do so.

    :returns: None if they are removed; otherwise why they may not be.
    """
    try:
        for avatar_id in avatar_ids:
            await tools.public_bucket.delete(keys=public_keys(avatar_id))
    except StorageError as error:
        # Pictures that are still there would return to a CDN after it was purged.
        end, rows = tools.reactor.seconds() + REMOVAL_WAIT, list(avatar_ids)
        while tools.reactor.seconds() < end:
            rows = [each for each in rows if await tools.store.avatar(avatar_id=each) is not None]
            if not rows:
                return None
            await sleep(tools.reactor, REMOVAL_POLL)
        return str(error)
    return None


def _listing(records: Sequence[AvatarRecord]) -> str:
    if not records:
        return "No avatar shows this picture now."
    return listing([asdict(record) for record in records], "id", "uid", "status")


def _text(tools: Tools, about: Members, unremoved: str | None) -> str:
    lines = [f"Quarantine {about['number']}: {len(about['avatars'])} avatars taken down."]
    if about["source_digest"] is None and about["pixels_digest"] is None:
        lines.append(
            "No digest of the picture is known, so the same picture can be uploaded again."
        )
    if not about["avatars"]:
        return "\n".join(lines)
    if unremoved is not None:
        lines.append(f"The worker removes the pictures; this host may not: {unremoved}")
    max_age = tools.settings.images.max_age
    lines.append(
        f"Processes of the images role serve a picture from memory for at most {FRESH_SECONDS:g} s"
        f" more. Browsers may show it from their caches for {max_age} s."
    )
    if about["purged"] is None:
        lines.append(f"images.purge_url is not set: a CDN may serve it for {max_age} s, too.")
    elif about["purged"]:
        lines.append("The CDN was purged.")
    return "\n".join(lines)


@click.group(cls=AdminGroup)
def quarantine() -> None:
    """List and lift quarantines; avatar quarantine makes one."""


@quarantine.command(name="list")
@click.option("--all", "with_lifted", is_flag=True, help="Show lifted ones, too.")
@limit_option(help="How many to show, the newest first.")
@with_tools
async def list_entries(tools: Tools, with_lifted: bool, limit: int) -> Answer:
    """Show which pictures are quarantined: since when, by whom, and why."""
    await tools.open_database()
    query = select(entries).order_by(entries.c.seq.desc()).limit(limit)
    if not with_lifted:
        query = query.where(entries.c.lifted.is_(None))
    rows = await tools.database.run(lambda c: c.execute(query).all(), read_only=True)
    found = [
        {
            "number": row.seq,
            **{name: value for name, value in row._asdict().items() if name != "seq"},
            "created": moment(row.created),
            "lifted": moment(row.lifted),
        }
        for row in rows
    ]
    shown = ["number", "created", "created_by", "reason", "avatar_id"]
    shown += ["lifted", "lifted_by", "lift_reason"] if with_lifted else []
    text = listing(found, *shown) if found else "Nothing is quarantined."
    return Answer({"entries": found}, text)


@quarantine.command()
@click.argument("number", type=click.IntRange(min=1))
@reason_option
@by_option
@with_tools
async def lift(tools: Tools, number: int, reason: str, by: str) -> Answer:
    """
    Allow a picture to be uploaded again.

    NUMBER is that of the quarantine, which stays on record. Avatars that were taken down do not
    come back.
    """
    await tools.open_database()
    now = tools.reactor.seconds()
    if not await tools.store.lift(number=number, by=by, reason=reason, now=now):
        raise Problem(f"there is no quarantine {number}, or it is lifted already")
    return Answer({"number": number, "lifted": True}, f"Quarantine {number} is lifted.")
