"""``fxprofile-admin user``: show, export or delete what is stored about a user."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import click
from sqlalchemy import select

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import Members, listing, moment, pairs
from fxprofile.admin.shared.tools import Tools, avatar_records, record_members
from fxprofile.admin.user_export import export as export_to
from fxprofile.deferreds.tasks import sleep
from fxprofile.drivers.sql.schema import avatars, profiles
from fxprofile.uploads.repair import TOMBSTONE_AGE

#: Seconds between two polls of whether a worker has removed the avatars.
_POLL = 0.5

_user_argument = click.argument("uid", metavar="USER", callback=commands.checked_uid)


@click.group(cls=commands.AdminGroup)
def user() -> None:
    """
    Inspect, export or delete what is stored about a user.

    USER is a uid. With the accounts for development it may also be their e-mail address.
    """


@user.command()
@_user_argument
@commands.with_tools
async def show(tools: Tools, uid: str) -> commands.Answer:
    """Show the profile and the avatars of a user; the status is 1 if there are none."""
    about = await _known(tools, uid)
    return commands.Answer(about, _text(about))


@user.command()
@_user_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@commands.with_tools
async def export(tools: Tools, uid: str, file: Path) -> commands.Answer:
    """
    Write all that is stored about a user into the tar archive FILE.

    The archive has the rows of the database in profile.json, and every original and picture. It
    appears when it is complete, and only its owner can read it. E-mail address, locale and the
    like are data of the accounts server, which this service does not store.
    """
    about = await _known(tools, uid)
    made = await export_to(tools, about, file)
    text = f"{file}: {len(made['members'])} files, {made['bytes']} bytes, SHA-256 {made['sha256']}"
    return commands.Answer({"uid": about["uid"], **made}, text)


@user.command()
@_user_argument
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the receipt there, too; the file must not exist.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait until the worker has removed the avatars.",
)
@commands.yes_option
@commands.with_tools
async def delete(tools: Tools, uid: str, receipt: Path | None, wait: float) -> commands.Answer:
    """
    Delete the profile and every avatar of a user, and print a receipt.

    This is what happens when an account is deleted: the rows go at once, and the worker
    removes the pictures and originals. Later writes of the user's data are refused for 30 days,
    so do not use this while the account remains. Deleting an unknown user is not an error.
    """
    commands.require_yes()
    uid = await _uid(tools, uid)
    if receipt is not None and await tools.files.run(receipt.exists):
        raise commands.Problem(f"{receipt} exists; name another file")
    about = await _found(tools, uid)
    if about is not None:
        commands.confirm("Delete all of this?", _text(about))
        await tools.selection.delete_user(uid)
        await tools.invalidator.flush_updates()
    now = tools.reactor.seconds()
    ids = [] if about is None else [record["id"] for record in about["avatars"]]
    pending = await _pending(tools, ids, wait)
    made = _receipt(uid, about, now, pending, None if pending else tools.reactor.seconds())
    if receipt is not None:
        try:
            await tools.files.run(_write, receipt, made)
        except OSError as error:
            # The user is deleted, so the receipt must not be lost.
            click.echo(f"fxprofile-admin: {receipt}: {error.strerror}; it follows", err=True)
            click.echo(json.dumps(made), err=True)
    return commands.Answer(made, _deleted_text(tools, made))


def _receipt(
    uid: str, about: Members | None, now: float, pending: Sequence[str], done: float | None
) -> Members:
    """Return what was deleted and when, with the SHA-256 of all that in canonical JSON."""
    names = ("display_name", "monogram", "avatar")
    made: Members = {
        "uid": uid,
        "deleted": about is not None,
        "at": moment(now),
        "profile": [] if about is None else [name for name in names if about[name] is not None],
        "avatars": [] if about is None else [record["id"] for record in about["avatars"]],
        "pending": list(pending),
        "done": moment(done),
        "refused_until": None if about is None else moment(now + TOMBSTONE_AGE),
    }
    text = json.dumps(made, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**made, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _write(path: Path, receipt: Members) -> None:
    with open(path, "x", opener=commands.private) as file:
        json.dump(receipt, file, indent=2, ensure_ascii=False)


async def _pending(tools: Tools, ids: Sequence[str], wait: float) -> list[str]:
    """Return the avatars whose objects a worker has still to remove, after waiting for that."""
    end = tools.reactor.seconds() + wait
    while True:
        found = await avatar_records(tools, avatars.c.id.in_(ids)) if ids else []
        if not found or tools.reactor.seconds() >= end:
            return [record.id for record in found]
        await sleep(tools.reactor, _POLL)


def _deleted_text(tools: Tools, receipt: Members) -> str:
    uid, ids, pending = receipt["uid"], receipt["avatars"], receipt["pending"]
    if not receipt["deleted"]:
        return f"User {uid} is unknown."
    text = f"Deleted user {uid} with {len(ids)} avatars at {receipt['at']}."
    if pending:
        text += f" The worker has still to remove the pictures of {len(pending)} of them."
    cache = tools.settings.cache
    if cache.driver == "memory":
        text += f"\nWeb processes may serve the profile from cache for another {cache.ttl:.0f} s."
    return f"{text}\nReceipt: SHA-256 {receipt['sha256']}"


async def _uid(tools: Tools, name: str) -> str:
    """
    Return the uid of a user who is named by it, or by an e-mail address.

    :raises Problem: if it is an address, and the identity driver cannot look it up.
    """
    identity = tools.settings.identity
    if identity.driver == "dev":
        found = {account.email: account.uid for account in identity.dev.accounts}
        return found.get(name, name)
    if "@" in name:
        raise commands.Problem(
            f"{name} is an e-mail address, which this service does not store, and the accounts"
            " server has no look-up by address for it: give the uid"
        )
    return name


async def _known(tools: Tools, name: str) -> Members:
    about = await _found(tools, await _uid(tools, name))
    if about is None:
        raise commands.Problem(f"user {name} is unknown")
    return about


async def _found(tools: Tools, uid: str) -> Members | None:
    await tools.open_database()
    query = select(profiles).where(profiles.c.uid == uid)
    profile = await tools.database.run(lambda c: c.execute(query).one_or_none(), read_only=True)
    records = await avatar_records(tools, avatars.c.uid == uid, order=avatars.c.seq.desc())
    if profile is None and not records:
        return None
    return {
        "uid": uid,
        "display_name": profile and profile.display_name,
        "monogram": profile and profile.monogram,
        "avatar": profile and profile.avatar_id,
        "changed": profile and moment(profile.changed_at or None),
        "removed": profile and moment(profile.removed_at),
        "avatars": [record_members(record) for record in records],
    }


def _text(about: Members) -> str:
    text = pairs({name: about[name] for name in about if name != "avatars"})
    if about["avatars"]:
        text += "\n\n" + listing(about["avatars"], "id", "status", "error", "created")
    return text
