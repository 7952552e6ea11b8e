"""``fxprofile-admin avatar``: show one avatar's row and objects, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from fxprofile.admin.shared.commands import AdminGroup, Answer, Problem, with_tools
from fxprofile.admin.shared.output import Members, duration, moment, pairs, size
from fxprofile.admin.shared.tools import AvatarRecord, Tools, avatar_record, head, record_members
from fxprofile.model import keys
from fxprofile.model.avatars import REASONS, Status
from fxprofile.model.ports import ObjectInfo
from fxprofile.uploads.repair import STUCK_AGE


def _avatar_id(_: click.Context, __: click.Parameter, value: str) -> str:
    """Return the avatar id in an argument: an id, or the URL of a picture."""
    image = value.partition("?")[0].rstrip("/").rpartition("/")[2]
    if not keys.is_image_name(image):
        raise click.BadParameter(f"{value!r} is neither an avatar id nor the URL of one")
    return image.partition("_")[0]


@click.group(cls=AdminGroup)
def avatar() -> None:
    """Inspect an avatar."""


@avatar.command()
@click.argument("avatar_id", metavar="ID", callback=_avatar_id)
@with_tools
async def show(tools: Tools, avatar_id: str) -> Answer:
    """
    Show the row and the objects of an avatar.

    ID may also be the URL of a picture. The status is 1 if there is no such avatar or
    something is wrong with it.
    """
    if avatar_id == keys.DEFAULT_AVATAR_ID:
        raise Problem("this is the default avatar, which is part of the service")
    await tools.open_database()
    record = await avatar_record(tools, avatar_id)
    private, public = tools.private_bucket, tools.public_bucket
    original = await head(private, keys.private_key(avatar_id))
    pictures = {
        name: await head(public, keys.public_key(avatar_id, name)) for name in keys.VARIANTS
    }
    if record is None and original is None and not any(pictures.values()):
        raise Problem(f"there is no avatar {avatar_id}, neither row nor object")
    selected = False
    if record is not None:
        selected = (await tools.store.profile(uid=record.uid)).avatar_id == avatar_id
    now = tools.reactor.seconds()
    template = tools.settings.images.url
    about = {
        **record_members(record),
        "id": avatar_id,
        "selected": selected,
        "original": _members(original),
        "pictures": {name: _members(info) for name, info in pictures.items()},
        "urls": {name: keys.image_url(template, avatar_id, name) for name in keys.VARIANTS},
        "problems": list(_problems(record, selected, original, pictures, now)),
    }
    return Answer(about, _text(about), status=1 if about["problems"] else 0)


def _problems(
    record: AvatarRecord | None,
    selected: bool,
    original: ObjectInfo | None,
    pictures: Mapping[str, ObjectInfo | None],
    now: float,
) -> Iterator[str]:
    """Yield a line for each thing that is wrong, with what to do."""
    missing = [name for name, info in pictures.items() if info is None]
    if record is None:
        yield (
            "objects without a row: nothing refers to them; fxprofile-admin orphans --delete"
            " removes them once they are old enough"
        )
        return
    status = Status(record.status)
    if selected and status is not Status.READY:
        yield f"it is the avatar of its user, but {status}"
    if status is Status.READY and missing:
        yield f"ready without its pictures ({', '.join(missing)}): the user has to upload it again"
    waited = 0 if record.owed_since is None else now - record.owed_since
    if waited > STUCK_AGE:
        job = "no job has been sent for it" if record.job_sent is None else "its job has no result"
        yield (
            f"{status} for {duration(waited)}, and {job}: run fxprofile-admin queues and"
            " dead list, and check that web and worker run"
        )
    if status is Status.PROCESSING and original is None and len(missing) == len(keys.VARIANTS):
        yield "the original is gone and there are no pictures: it will fail as lost"


def _members(info: ObjectInfo | None) -> dict[str, object] | None:
    if info is None:
        return None
    return {"key": info.key, "bytes": info.length, "modified": moment(info.modified)}


def _text(about: Members) -> str:
    error, pictures = about["error"], about["pictures"]
    lines = {name: about[name] for name in about if name not in ("pictures", "urls", "problems")}
    if error:
        lines["error"] = f"{error}: {REASONS.get(error, 'unknown')}"
    for name, info in {"original": about["original"], **pictures}.items():
        lines[name] = info and (size(info["bytes"]), info["modified"], info["key"])
    lines["urls"] = list(about["urls"].values())
    return "\n".join([pairs(lines), *(f"PROBLEM: {problem}" for problem in about["problems"])])
