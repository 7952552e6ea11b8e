"""``fxprofile-admin user``: show the profile and avatars of a user, or delete them."""

from __future__ import annotations

import click
from sqlalchemy import select

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import Members, listing, moment, pairs
from fxprofile.admin.shared.tools import Tools, avatar_records, record_members
from fxprofile.drivers.sql.schema import avatars, profiles


@click.group(cls=commands.AdminGroup)
def user() -> None:
    """Inspect or delete a user."""


@user.command()
@commands.uid_argument
@commands.with_tools
async def show(tools: Tools, uid: str) -> commands.Answer:
    """Show the profile and the avatars of a user; the status is 1 if there are none."""
    about = await _found(tools, uid)
    if about is None:
        raise commands.Problem(f"user {uid} is unknown")
    return commands.Answer(about, _text(about))


@user.command()
@commands.uid_argument
@commands.yes_option
@commands.with_tools
async def delete(tools: Tools, uid: str) -> commands.Answer:
    """
    Delete the profile and every avatar of a user.

    This is what happens when an account is deleted: the rows go at once, and the worker
    removes the pictures and originals. Later writes of the user's data are refused for 30 days,
    so do not use this while the account remains. Deleting an unknown user is not an error.
    """
    commands.require_yes()
    about = await _found(tools, uid)
    if about is None:
        nothing = {"uid": uid, "deleted": False, "avatars": []}
        return commands.Answer(nothing, f"User {uid} is unknown.")
    commands.confirm("Delete all of this?", _text(about))
    await tools.selection.delete_user(uid)
    await tools.invalidator.flush_updates()
    ids = [record["id"] for record in about["avatars"]]
    text = f"Deleted user {uid}. The worker removes the pictures of {len(ids)} avatars."
    cache = tools.settings.cache
    if cache.driver == "memory":
        text += f"\nWeb processes may serve the profile from cache for another {cache.ttl:.0f} s."
    return commands.Answer({"uid": uid, "deleted": True, "avatars": ids}, text)


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
