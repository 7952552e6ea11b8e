"""``fxprofile-admin import-fxa``: import the users of the original profile server."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import click

from fxprofile.admin.import_fxa.importer import Checkpoint, Importer, Tell
from fxprofile.admin.import_fxa.pictures import Pictures, old_pictures
from fxprofile.admin.import_fxa.rows import Fate
from fxprofile.admin.import_fxa.source import FxaSource
from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import table
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.errors import DriverError

#: The environment variable of ``--source``: a command line shows its password to other users.
SOURCE_VARIABLE = "FXA_PROFILE_DATABASE_URL"


@click.command(name="import-fxa", cls=commands.AdminCommand)
@click.option(
    "--source",
    metavar="URL",
    envvar=SOURCE_VARIABLE,
    required=True,
    help="The original's database, as mysql+pymysql://USER:PASSWORD@HOST/fxa_profile; better"
    f" given as {SOURCE_VARIABLE} in the environment.",
)
@click.option(
    "--pictures-from",
    metavar="TEMPLATE",
    help="Where the old pictures are: a URL (http, https, s3) or path with {id} in it. By default"
    " pictures must be in the public bucket already.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and show what would happen.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Store the position here, so that the next run continues from it.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.File("w", encoding="utf-8", lazy=True),
    help="Write a CSV file of what was not imported and why.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10000),
    default=500,
    help="How many users to read at a time.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=16,
    help="How many avatars to process at the same time.",
)
@commands.with_tools
async def import_fxa(
    tools: Tools,
    source: str,
    pictures_from: str | None,
    dry_run: bool,
    checkpoint: Path | None,
    report: IO[str] | None,
    batch: int,
    parallel: int,
) -> commands.Answer:
    """
    Import users, names and avatars of the original profile server.

    Only reads its MySQL tables avatars, avatar_selected, avatar_providers and profile. It
    may stop anywhere and be run again: what is imported stays, what has changed at the
    source follows, and what users have changed here wins. The status is 1 if something
    could not be imported.
    """
    started = time.monotonic()
    original = tools.started(FxaSource(source, tools.files))
    database = await tools.open_database()
    old = None if pictures_from is None else old_pictures(tools, pictures_from)
    cruncher = None if old is None or dry_run else await tools.crunch_pool()
    importer = Importer(
        source=original,
        database=database,
        pictures=Pictures(tools.public_bucket, tools.files, old, cruncher),
        clock=tools.reactor,
        checkpoint=Checkpoint(checkpoint, original.name),
        tell=_tell(report),
        batch=batch,
        parallel=parallel,
        dry_run=dry_run,
    )
    try:
        left = await importer.left()
        with commands.progress("Importing", length=left) as bar:
            await importer.run(bar.update)
    except DriverError as error:
        raise commands.Problem(f"{commands.line(error)}; run this again to continue") from None
    fates = {step: dict(sorted(tally.items())) for step, tally in importer.tally.items()}
    number = importer.not_imported
    seconds = round(time.monotonic() - started, 1)
    return commands.Answer(
        {"dry_run": dry_run, **fates, "not_imported": number, "seconds": seconds},
        _text(fates["names"], fates["avatars"], dry_run),
        status=1 if number else 0,
    )


def _text(names: Mapping[Fate, int], avatars: Mapping[Fate, int], dry_run: bool) -> str:
    rows = [(fate, names.get(fate, 0), avatars.get(fate, 0)) for fate in {**names, **avatars}]
    text = table(("", "NAMES", "AVATARS"), rows)
    return f"{text}\nNothing was changed: this was a dry run." if dry_run else text


def _tell(report: IO[str] | None) -> Tell:
    """Return a function that writes a row of the report, if one is wanted."""
    if report is None:
        return lambda *_: None
    rows = csv.writer(report)
    rows.writerow(("what", "uid", "avatar", "fate", "why"))
    return lambda *row: rows.writerow(row)
