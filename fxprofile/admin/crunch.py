"""``fxprofile-admin crunch``: show what the worker would make of a file."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Final

import click

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import Members, size, table
from fxprofile.admin.shared.tools import Tools, gathered, temporary_file
from fxprofile.crunch.pool import CrunchPool
from fxprofile.model.avatars import REASONS, Pictures
from fxprofile.model.keys import VARIANTS

#: The variants, largest first.
_NAMES: Final = tuple(sorted(VARIANTS, key=lambda name: -VARIANTS[name][1]))

_HEADINGS: Final = (
    *("FILE", "OUTCOME", "TYPE", "SIDES"),
    *(name.upper() for name in _NAMES),
    *("CPU", "WALL", "PEAK", "DETAIL"),
)

#: Names standard input.
_STDIN: Final = Path("-")


@click.command(cls=commands.AdminCommand)
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
@commands.yes_option
@commands.with_tools
async def crunch(tools: Tools, files: Sequence[Path], out: Path | None) -> commands.Answer:
    """
    Crunch files as the worker would, and show the results.

    A dash is standard input. Each file is decoded in a sandboxed child process of its own,
    with the limits of the settings; add --set=crunch.fit=cover to see squares. Nothing is
    stored. The status is 1 if a file would be refused.
    """
    for path in files:
        if path != _STDIN and not path.is_file():
            raise click.UsageError(f"{path} is not a regular file.")
    if files.count(_STDIN) > 1:
        raise click.UsageError("Standard input can be read only once.")
    if out is not None:
        _check_destinations(files, out, tools.settings.crunch.formats)
    pool = await tools.crunch_pool()
    about = await gathered(lambda path: _examined(tools, pool, path, out), files, pool.slots)
    layers, versions = pool.layers, dict(pool.versions)
    return commands.Answer(
        {
            "fit": tools.settings.crunch.fit,
            "layers": layers,
            "versions": versions,
            "files": about,
        },
        _text(about, layers, versions),
        status=1 if any(one["outcome"] != "ready" for one in about) else 0,
    )


def _destination(path: Path, out: Path, variant: str, form: str) -> Path:
    return out / f"{'stdin' if path == _STDIN else path.name}.{variant}.{form}"


def _check_destinations(files: Sequence[Path], out: Path, forms: Sequence[str]) -> None:
    name, times = Counter(path.name for path in files).most_common(1)[0]
    if times > 1:
        raise click.UsageError(f"Two files named {name} cannot be written to one directory.")
    places = (
        _destination(path, out, name, form) for path in files for name in VARIANTS for form in forms
    )
    existing = next((place for place in places if place.exists()), None)
    if existing is not None:
        commands.require_yes()
        commands.confirm(f"{existing} exists. Replace existing pictures?")


async def _examined(tools: Tools, pool: CrunchPool, path: Path, out: Path | None) -> Members:
    """Crunch one file, and return its members of the answer."""
    limit = tools.settings.uploads.max_bytes
    with await tools.files.run(_opened, path, limit) as original:
        length = os.fstat(original.fileno()).st_size
        report = await pool.examine(original=original)
    outcome = report.outcome
    reason, detail, permanent = outcome.reason, outcome.detail, report.permanent
    if length > limit:
        reason, detail = "too_many_bytes", f"over uploads.max_bytes, {limit} bytes: status 413"
        permanent = True
    pictures = {
        form: await tools.files.run(_described, path, out, form, made)
        for form, made in outcome.pictures.items()
    }
    return {
        "file": str(path),
        "bytes": length,
        "outcome": "ready" if reason is None else "failed",
        "reason": reason,
        "message": None if reason is None else REASONS.get(reason, detail),
        "detail": None if detail == reason else detail or None,
        "permanent": reason is not None and permanent,
        "kind": outcome.kind or None,
        "width": outcome.sides[0] or None,
        "height": outcome.sides[1] or None,
        "placeholder": outcome.placeholder or None,
        "pictures": pictures.pop("png", {}),
        "other_formats": pictures,
        "cpu_seconds": round(report.cpu, 4),
        "wall_seconds": round(report.wall, 4),
        "peak_memory": report.resident,
        "peak_address_space": outcome.peak,
    }


def _opened(path: Path, limit: int) -> IO[bytes]:
    if path == _STDIN:
        # A pipe has no length and cannot be mapped; one byte over the limit is enough.
        return temporary_file(sys.stdin.buffer.read(limit + 1))
    try:
        return open(path, "rb")
    except OSError as error:
        raise click.FileError(str(path), error.strerror) from None


def _described(
    path: Path, out: Path | None, form: str, pictures: Pictures
) -> dict[str, dict[str, object]]:
    """Return the members of the pictures of one format, and write the files if wanted."""
    described: dict[str, dict[str, object]] = {}
    for name, (variant, body) in pictures.items():
        described[name] = asdict(variant)
        if out is not None:
            place = _destination(path, out, name, form)
            described[name]["path"] = str(place)
            try:
                out.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    # A link is replaced, not followed.
                    place.unlink()
                place.write_bytes(body)
            except OSError as error:
                raise click.FileError(str(error.filename or out), error.strerror) from None
    return described


def _text(files: Sequence[Members], layers: Mapping[str, bool], versions: Mapping[str, str]) -> str:
    rows = [
        (
            about["file"],
            about["reason"] or "ready",
            about["kind"],
            _sides(about) if about["width"] else None,
            *(_pictures(about, name) for name in _NAMES),
            f"{about['cpu_seconds']:.3f} s",
            f"{about['wall_seconds']:.3f} s",
            size(about["peak_memory"]),
            about["detail"],
        )
        for about in files
    ]
    held, missing = ([name for name in layers if layers[name] is one] for one in (True, False))
    return (
        f"{table(_HEADINGS, rows)}\n\n"
        f"sandbox: {', '.join(held) or 'none'}\n"
        f"unavailable: {', '.join(missing) or '-'}\n"
        f"codecs: {', '.join(map(' '.join, versions.items()))}"
    )


def _pictures(about: Members, name: str) -> list[str]:
    forms = {"png": about["pictures"], **about["other_formats"]}
    made = {form: pictures[name] for form, pictures in forms.items() if name in pictures}
    return [f"{form} {_sides(one)} {size(one['bytes'])}" for form, one in made.items()]


def _sides(sides: Members) -> str:
    return f"{sides['width']}x{sides['height']}"
