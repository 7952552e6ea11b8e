"""``fxprofile-admin avatar``: one avatar, wherever it is."""

from __future__ import annotations

from typing import Any

import click

from fxprofile.admin.shared.commands import AdminGroup, pass_session
from fxprofile.admin.shared.output import moment, pairs, size
from fxprofile.admin.shared.session import Problem, Session
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.avatars import REASONS
from fxprofile.model.keys import DEFAULT_AVATAR_ID, VARIANTS, image_url, is_image_name
from fxprofile.model.ports import ObjectInfo
from fxprofile.settings.model import Settings


class AvatarId(click.ParamType[str]):
    """An avatar id, or the URL of one of its pictures."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        image = value.partition("?")[0].rstrip("/").rpartition("/")[2]
        if not is_image_name(image):
            self.fail(f"{value!r} is neither an avatar id nor the URL of one", param, ctx)
        return image.partition("_")[0]


@click.group(cls=AdminGroup)
def avatar() -> None:
    """Look at an avatar."""


@avatar.command()
@click.argument("avatar_id", metavar="ID", type=AvatarId())
@pass_session
def show(session: Session, avatar_id: str) -> None:
    """
    Show the row and the objects of an avatar.

    ID may also be the URL of a picture. The status is 1 if there is nothing, or
    something is wrong with it.
    """
    if avatar_id == DEFAULT_AVATAR_ID:
        raise Problem("this is the default avatar, which is part of the service")
    settings = session.settings()

    async def work(tools: Tools) -> dict[str, Any]:
        from fxprofile.admin.shared.lookups import known, problems

        await tools.open_database()
        found = await known(tools, avatar_id)
        if not found.anything:
            raise Problem(f"there is no avatar {avatar_id}, neither row nor object")
        return _described(found, problems(found, tools.reactor.seconds()), settings)

    about = session.run(work, settings)
    session.answer(about, _text(about))
    if about["problems"]:
        raise SystemExit(1)


def row_members(row: Any) -> dict[str, Any]:
    """A row of the avatars table as JSON."""
    return {
        "id": row.id,
        "uid": row.uid,
        "seq": row.seq,
        "status": row.status,
        "error": row.error,
        "created": moment(row.created),
        "updated": moment(row.updated),
        "job_sent": moment(row.job_sent),
        "owed_since": moment(row.owed_since),
    }


def _described(found: Any, problems: list[str], settings: Settings) -> dict[str, Any]:
    row = found.row
    members = (
        dict.fromkeys(
            ("uid", "seq", "status", "error", "created", "updated", "job_sent", "owed_since")
        )
        if row is None
        else row_members(row)
    )
    return {
        **members,
        "id": found.avatar_id,
        "selected": found.selected,
        "original": _object(found.original),
        "pictures": {name: _object(info) for name, info in found.pictures.items()},
        "urls": {name: image_url(settings.images.url, found.avatar_id, name) for name in VARIANTS},
        "problems": problems,
    }


def _object(info: ObjectInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    return {"key": info.key, "bytes": info.length, "modified": moment(info.modified)}


def _text(about: dict[str, Any]) -> str:
    error = about["error"]
    lines: list[tuple[str, object]] = [
        ("id", about["id"]),
        ("user", about["uid"]),
        ("status", about["status"] or "no row"),
    ]
    if error:
        lines.append(("error", f"{error}: {REASONS.get(error, 'unknown')}"))
    lines += [
        ("selected", about["selected"]),
        ("number", about["seq"]),
        ("created", about["created"]),
        ("updated", about["updated"]),
        ("job sent", about["job_sent"]),
        ("owed since", about["owed_since"]),
        ("original", _object_text(about["original"])),
    ]
    for name, info in about["pictures"].items():
        url = f", {about['urls'][name]}" if info else ""
        lines.append((name, _object_text(info) + url))
    return "\n".join([pairs(lines), *(f"PROBLEM: {problem}" for problem in about["problems"])])


def _object_text(info: dict[str, Any] | None) -> str:
    return "not there" if info is None else f"{size(info['bytes'])}, {info['modified']}"
