"""
``fxprofile-admin avatar``: show an avatar's row and objects, and what is wrong with them; list
the avatars of a user; take an avatar down and refuse its picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from fxprofile.admin.quarantine import by_option, reason_option, take_down
from fxprofile.admin.shared.commands import (
    AdminGroup,
    Answer,
    Problem,
    uid_argument,
    with_tools,
    yes_option,
)
from fxprofile.admin.shared.output import Members, duration, listing, moment, pairs, size
from fxprofile.admin.shared.tools import (
    AvatarRecord,
    Tools,
    avatar_record,
    avatar_records,
    head,
    record_members,
)
from fxprofile.drivers.sql.schema import avatars
from fxprofile.model import keys
from fxprofile.model.avatars import DIGEST, REASONS, QuarantineEntry, Status
from fxprofile.model.ports import ObjectInfo
from fxprofile.uploads.repair import STUCK_AGE


def _avatar_id(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the avatar id in an argument: an id, or the URL of a picture."""
    if value is None:
        return None
    image = value.partition("?")[0].rstrip("/").rpartition("/")[2]
    if not keys.is_image_name(image):
        raise click.BadParameter(f"{value!r} is neither an avatar id nor the URL of one")
    return image.partition("_")[0]


def _digest(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the SHA-256 in an option."""
    if value is None or DIGEST.fullmatch(value.lower()):
        return value and value.lower()
    raise click.BadParameter(f"{value!r} is not a SHA-256 in hex")


@click.group(cls=AdminGroup)
def avatar() -> None:
    """Inspect avatars, and take them down."""


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


@avatar.command(name="list")
@uid_argument
@with_tools
async def list_avatars(tools: Tools, uid: str) -> Answer:
    """List the avatars of a user, the newest first; the status is 1 if there are none."""
    await tools.open_database()
    records = await avatar_records(tools, avatars.c.uid == uid, order=avatars.c.seq.desc())
    if not records:
        raise Problem(f"user {uid} has no avatars")
    selected = (await tools.store.profile(uid=uid)).avatar_id
    template = tools.settings.images.url
    found = [
        {
            **record_members(record),
            "selected": record.id == selected,
            "url": keys.image_url(template, record.id),
        }
        for record in records
    ]
    names = ("id", "status", "error", "created", "selected", "url")
    return Answer({"avatars": found}, listing(found, *names))


@avatar.command()
@click.argument("avatar_id", metavar="[ID]", required=False, callback=_avatar_id)
@click.option("--sha256", metavar="HEX", callback=_digest, help="Of the bytes of an upload.")
@reason_option
@by_option
@yes_option
@with_tools
async def quarantine(
    tools: Tools, avatar_id: str | None, sha256: str | None, reason: str, by: str
) -> Answer:
    """
    Take a picture down, and refuse it in future.

    ID may also be the URL of a picture. Every avatar with the same bytes or the same pixels is
    deleted, of every user; its pictures are removed at once if this host may do that, and else by
    the worker; then the CDN is purged through images.purge_url. From now on an upload of the same
    bytes, or of a file that decodes to the same pixels, is refused. Who decided this, when and
    why stays on record.
    """
    if (avatar_id is None) == (sha256 is None):
        raise click.UsageError("Give the ID of an avatar, or else --sha256.")
    if avatar_id == keys.DEFAULT_AVATAR_ID:
        raise Problem("this is the default avatar, which is part of the service")
    entry = QuarantineEntry(by, reason, source_digest=sha256)
    return await take_down(tools, avatar_id, entry)


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
