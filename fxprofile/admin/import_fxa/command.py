"""``fxprofile-admin import-fxa``: users of the original profile server become ours."""

from __future__ import annotations

import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from fxprofile.admin.shared.commands import AdminCommand, pass_session
from fxprofile.admin.shared.output import table
from fxprofile.admin.shared.session import Problem, Session, line
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.errors import DriverError

#: Where the password of the source does not show in the list of processes.
SOURCE_VARIABLE = "FXA_PROFILE_DATABASE_URL"

#: Seconds between two lines of progress where there is no terminal.
_PERIOD = 10


@click.command(name="import-fxa", cls=AdminCommand)
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
    help="Where the old pictures are: a URL (http, https, s3) or path with {id} in it. Without"
    " this, pictures must be in the public bucket already.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing, and say what would happen.")
@click.option(
    "--checkpoint",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Remember here how far it came, so that the next run goes on there.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, as CSV, what was not imported and why.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 10000),
    default=500,
    show_default=True,
    help="How many users to read at a time.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="How many avatars to work on at one time.",
)
@pass_session
def import_fxa(
    session: Session,
    source: str,
    pictures_from: str | None,
    dry_run: bool,
    checkpoint: Path | None,
    report: Path | None,
    batch: int,
    parallel: int,
) -> None:
    """
    Import users, names and avatars of the original profile server.

    Reads its MySQL tables avatars, avatar_selected, avatar_providers and profile, and
    writes nothing there. It may end anywhere and be run again: what is imported stays,
    what has changed at the source follows, and what users have changed here wins. The
    status is 1 if something could not be imported.
    """
    settings = session.settings()
    started = time.monotonic()
    with ExitStack() as files:
        rows = None
        if report is not None:
            try:
                file = files.enter_context(open(report, "w", newline="", encoding="utf-8"))
            except OSError as error:
                raise click.FileError(str(report), error.strerror) from None
            rows = csv.writer(file)
            rows.writerow(("what", "uid", "avatar", "fate", "why"))

        def tell(*row: object) -> None:
            if rows is not None:
                rows.writerow(row)

        async def work(tools: Tools) -> Any:
            from fxprofile.admin.crunch import start_pool
            from fxprofile.admin.import_fxa.importer import Checkpoint, Importer
            from fxprofile.admin.import_fxa.pictures import Pictures, old_pictures
            from fxprofile.admin.import_fxa.source import FxaSource

            original = FxaSource(source, tools.files)
            original.setServiceParent(tools.stack)
            database = await tools.open_database()
            old = cruncher = None
            if pictures_from is not None:
                old = old_pictures(tools, pictures_from)
                if not dry_run:
                    cruncher = await start_pool(tools)
            importer = Importer(
                source=original,
                database=database,
                pictures=Pictures(
                    public=tools.bucket("public"),
                    threads=tools.files,
                    old=old,
                    cruncher=cruncher,
                ),
                clock=tools.reactor,
                checkpoint=Checkpoint(checkpoint, original.name),
                tell=tell,
                batch=batch,
                parallel=parallel,
                dry_run=dry_run,
            )
            with Progress(await importer.left(), quiet=session.as_json) as progress:
                await importer.run(progress.add)
            return importer.tally

        try:
            tally = session.run(work, settings)
        except DriverError as error:
            raise Problem(f"{line(error)}; run this again to go on") from None
    fates = {"names": _plain(tally.names), "avatars": _plain(tally.avatars)}
    session.answer(
        {
            "dry_run": dry_run,
            **fates,
            "not_imported": tally.bad,
            "seconds": round(time.monotonic() - started, 1),
        },
        _text(fates, dry_run),
    )
    if tally.bad:
        raise SystemExit(1)


def _plain(fates: Counter[Any]) -> dict[str, int]:
    return {str(fate): number for fate, number in sorted(fates.items())}


def _text(fates: dict[str, dict[str, int]], dry_run: bool) -> str:
    kinds = list(dict.fromkeys(kind for counts in fates.values() for kind in counts))
    lines = table(
        ("", "NAMES", "AVATARS"),
        [(kind, fates["names"].get(kind, 0), fates["avatars"].get(kind, 0)) for kind in kinds],
    )
    return f"{lines}\nNothing was changed: this was a dry run." if dry_run else lines


class Progress:
    """
    How far it has come: a bar on a terminal, a line now and then elsewhere.

    :param total: of what there is to do.
    :param quiet: whether to say nothing.
    :param now: gives the time, in seconds.
    """

    def __init__(
        self, total: int, *, quiet: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._done = 0
        self._quiet = quiet
        self._now = now
        self._said = now()
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            self._bar = click.progressbar(length=total, label="Importing", file=sys.stderr)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def add(self, number: int) -> None:
        """So many more are done."""
        self._done += number
        if self._bar is not None:
            self._bar.update(number)
        elif not self._quiet and self._now() - self._said >= _PERIOD:
            self._said = self._now()
            click.echo(f"{self._done} of {self._total}", err=True)
