"""``fxprofile-admin user``: what is kept of a user, and how it goes."""

from __future__ import annotations

from typing import Any

import click

from fxprofile.admin.avatar import row_members
from fxprofile.admin.shared.commands import AdminGroup, pass_session, yes_option
from fxprofile.admin.shared.output import moment, pairs, say, table
from fxprofile.admin.shared.session import Problem, Session
from fxprofile.admin.shared.tools import Tools


class Uid(click.ParamType[str]):
    """The uid of an account."""

    name = "uid"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not 0 < len(value) <= 64 or not value.isprintable():
            self.fail(f"{value!r} is no uid", param, ctx)
        return value


@click.group(cls=AdminGroup)
def user() -> None:
    """Look at a user, or delete one."""


@user.command()
@click.argument("uid", type=Uid())
@pass_session
def show(session: Session, uid: str) -> None:
    """Show the profile and the avatars of a user; the status is 1 if there are none."""
    about = session.run(lambda tools: _found(tools, uid))
    if about is None:
        raise Problem(f"nothing is known of user {uid}")
    session.answer(about, _text(about))


@user.command()
@click.argument("uid", type=Uid())
@yes_option
@pass_session
def delete(session: Session, uid: str, yes: bool) -> None:
    """
    Delete the profile and every avatar of a user.

    This is what happens when an account is deleted: the rows go at once, the worker
    removes the pictures and originals. Of an unknown user there is nothing to delete,
    and that is no error.
    """
    session.no_questions(yes)

    async def work(tools: Tools) -> dict[str, Any]:
        about = await _found(tools, uid)
        if about is None:
            return {"uid": uid, "deleted": False, "avatars": []}
        if not yes:
            say(_text(about))
        session.confirm("Delete all of this?", yes)
        await tools.selection.delete_user(uid)
        await tools.changes.told()
        return {"uid": uid, "deleted": True, "avatars": [row["id"] for row in about["avatars"]]}

    settings = session.settings()
    gone = session.run(work, settings)
    if not gone["deleted"]:
        session.answer(gone, f"Nothing is known of user {uid}.")
        return
    text = f"Deleted user {uid}. The worker removes the pictures of {len(gone['avatars'])} avatars."
    if settings.cache.driver == "memory":
        text += (
            f"\nWeb processes may still have the profile cached, for {settings.cache.ttl:.0f} s."
        )
    session.answer(gone, text)


async def _found(tools: Tools, uid: str) -> dict[str, Any] | None:
    from fxprofile.admin.shared.lookups import avatars_of

    await tools.open_database()
    profile, avatars = await avatars_of(tools, uid)
    if profile is None and not avatars:
        return None
    return {
        "uid": uid,
        "display_name": profile and profile.display_name,
        "avatar": profile and profile.avatar_id,
        "changed": moment(profile.changed_at or None) if profile else None,
        "removed": moment(profile.removed_at) if profile else None,
        "avatars": [row_members(row) for row in avatars],
    }


def _text(about: dict[str, Any]) -> str:
    lines = pairs(
        [
            ("user", about["uid"]),
            ("display name", about["display_name"]),
            ("avatar", about["avatar"]),
            ("changed", about["changed"]),
            *([("account deleted", about["removed"])] if about["removed"] else []),
        ]
    )
    if not about["avatars"]:
        return lines
    avatars = table(
        ("AVATAR", "STATUS", "ERROR", "CREATED"),
        [(a["id"], a["status"], a["error"], a["created"]) for a in about["avatars"]],
    )
    return f"{lines}\n\n{avatars}"
