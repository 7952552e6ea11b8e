"""``fxprofile-admin crunch``: what would become of a file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

import click
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from fxprofile.admin.shared.commands import AdminCommand, pass_session, yes_option
from fxprofile.admin.shared.output import size, table
from fxprofile.admin.shared.session import Session
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.avatars import REASONS
from fxprofile.model.keys import VARIANTS

#: The variants, largest first.
_NAMES: Final = tuple(sorted(VARIANTS, key=lambda name: -VARIANTS[name][1]))

#: What stands for standard input.
_STDIN: Final = Path("-")


@click.command(cls=AdminCommand)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path),
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the pictures there, as NAME.large.png, NAME.default.png and NAME.small.png, "
    "and in the other formats of crunch.formats.",
)
@yes_option
@pass_session
def crunch(session: Session, files: Sequence[Path], out: Path | None, yes: bool) -> None:
    """
    Crunch files as the worker would, and show what comes of them.

    A dash stands for standard input.
    Each is decoded in a sandboxed child of its own, with the limits of the settings.
    Nothing is stored. The status is 1 if one of them would be refused.
    """
    for path in files:
        if path != _STDIN and not path.is_file():
            raise click.UsageError(f"{path} is no regular file.")
    if files.count(_STDIN) > 1:
        raise click.UsageError("Standard input can be read only once.")
    settings = session.settings()
    if out is not None:
        _check_places(session, files, out, settings.crunch.formats, yes)

    async def work(tools: Tools) -> dict[str, Any]:
        pool = await start_pool(tools)
        # A file is opened when it is its turn.
        free = DeferredSemaphore(pool.slots)

        async def one(path: Path) -> dict[str, Any]:
            await free.acquire()
            try:
                return await _examined(tools, pool, path, out)
            finally:
                free.release()

        about = await gathered(one(path) for path in files)
        return {"layers": pool.layers(), "versions": dict(pool.versions), "files": about}

    answer = session.run(work, settings)
    session.answer(answer, _text(answer))
    if any(about["outcome"] != "ready" for about in answer["files"]):
        raise SystemExit(1)


async def start_pool(tools: Tools) -> Any:
    """
    The pool of the worker, running.

    :raises CruncherUnavailable: if its sandbox cannot be had.
    """
    from fxprofile.crunch.pool import pool_from_settings

    pool = pool_from_settings(tools.reactor, tools.settings)
    pool.setServiceParent(tools.stack)
    await pool.when_ready()
    return pool


async def gathered(works: Iterable[Any]) -> list[Any]:
    """The outcomes of works that go on at the same time; the first error ends all."""
    running = [Deferred.fromCoroutine(work) for work in works]
    try:
        return list(await gatherResults(running, consumeErrors=True))
    except Exception as error:
        for work in running:
            work.cancel()
        cause = getattr(error, "subFailure", None)
        if cause is not None:
            raise cause.value from None
        raise


def _name(path: Path) -> str:
    return "stdin" if path == _STDIN else path.name


def _place(path: Path, out: Path, variant: str, form: str) -> Path:
    return out / f"{_name(path)}.{variant}.{form}"


def _check_places(
    session: Session, files: Sequence[Path], out: Path, forms: Iterable[str], yes: bool
) -> None:
    names = Counter(_name(path) for path in files)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise click.UsageError(f"Two files named {twice[0]} cannot go to one directory.")
    places = [
        _place(path, out, name, form) for path in files for name in VARIANTS for form in forms
    ]
    there = [place for place in places if place.exists()]
    if there:
        session.no_questions(yes)
        session.confirm(f"{there[0]} is there already. Replace what is there?", yes)


async def _examined(tools: Tools, pool: Any, path: Path, out: Path | None) -> dict[str, Any]:
    about: dict[str, Any] = {"file": str(path)}
    limit = int(tools.settings.uploads.max_bytes)
    original = await tools.files.run(_opened, path, limit)
    with original:
        about["bytes"] = os.fstat(original.fileno()).st_size
        report = await pool.examine(original=original)
    outcome = report.outcome
    reason, detail, permanent = outcome.reason, outcome.detail, report.permanent
    if about["bytes"] > limit:
        reason, detail = "too_many_bytes", f"over uploads.max_bytes, {limit} bytes: status 413"
        permanent = True
    made = outcome.pictures
    described = {form: _described(path, out, form, pictures) for form, pictures in made.items()}
    if out is not None:
        for form, pictures in made.items():
            await tools.files.run(_write, path, out, form, pictures)
    return about | {
        "outcome": "ready" if reason is None else "failed",
        "reason": reason,
        "message": None if reason is None else REASONS.get(reason, detail),
        "detail": None if detail == reason else detail or None,
        "permanent": reason is not None and permanent,
        "kind": outcome.kind or None,
        "width": outcome.sides[0] or None,
        "height": outcome.sides[1] or None,
        "placeholder": outcome.placeholder or None,
        "pictures": described.pop("png", {}),
        "other_formats": described,
        "cpu_seconds": round(report.cpu, 4),
        "wall_seconds": round(report.wall, 4),
        "peak_memory": report.resident,
        "peak_address_space": outcome.peak,
    }


def _described(
    path: Path, out: Path | None, form: str, pictures: Mapping[str, tuple[Any, bytes]]
) -> dict[str, dict[str, Any]]:
    described = {}
    for name, (variant, _) in pictures.items():
        members = {"width": variant.width, "height": variant.height, "bytes": variant.bytes}
        if out is not None:
            members["path"] = str(_place(path, out, name, form))
        described[name] = members
    return described


def _opened(path: Path, limit: int) -> IO[bytes]:
    if path == _STDIN:
        # A pipe has no length, and cannot be mapped; of too much, one byte tells.
        file = tempfile.TemporaryFile()  # noqa: SIM115
        file.write(sys.stdin.buffer.read(limit + 1))
        file.flush()
        return file
    try:
        return open(path, "rb")
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from None


def _write(path: Path, out: Path, form: str, pictures: Mapping[str, tuple[Any, bytes]]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, (_, body) in pictures.items():
            place = _place(path, out, name, form)
            with suppress(FileNotFoundError):
                # Not through a link to somewhere else.
                place.unlink()
            place.write_bytes(body)
    except OSError as error:
        raise click.FileError(str(error.filename or out), error.strerror) from None


def _text(answer: Mapping[str, Any]) -> str:
    rows = [
        (
            about["file"],
            about["reason"] or "ready",
            about["kind"],
            _sides(about) if about["width"] else None,
            *(_picture(about, name) for name in _NAMES),
            f"{about['cpu_seconds']:.3f} s",
            f"{about['wall_seconds']:.3f} s",
            size(about["peak_memory"]),
            about["detail"],
        )
        for about in answer["files"]
    ]
    headings = ("FILE", "OUTCOME", "TYPE", "SIDES", *(name.upper() for name in _NAMES))
    layers = answer["layers"] or {}
    return "\n".join(
        (
            table((*headings, "CPU", "WALL", "PEAK", "DETAIL"), rows),
            "",
            f"sandbox: {', '.join(name for name, held in layers.items() if held) or 'none'}",
            f"not to be had: {', '.join(name for name, held in layers.items() if not held) or '-'}",
            "codecs: " + ", ".join(f"{n} {version}" for n, version in answer["versions"].items()),
        )
    )


def _picture(about: Mapping[str, Any], name: str) -> str | None:
    picture = about["pictures"].get(name)
    if picture is None:
        return None
    others = (
        f", {form} {size(pictures[name]['bytes'])}"
        for form, pictures in about["other_formats"].items()
    )
    return f"{_sides(picture)} {size(picture['bytes'])}" + "".join(others)


def _sides(sides: Mapping[str, Any]) -> str:
    return f"{sides['width']}x{sides['height']}"
