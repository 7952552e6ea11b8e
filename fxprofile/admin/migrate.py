"""``fxprofile-admin migrate``: create or upgrade the database schema."""

from __future__ import annotations

import click

from fxprofile.admin.shared.commands import AdminCommand, Answer, with_tools
from fxprofile.admin.shared.tools import Tools, where
from fxprofile.drivers.sql.migrate import current, is_usable, upgrade
from fxprofile.drivers.sql.schema import REVISION


@click.command(cls=AdminCommand)
@click.option("--check", is_flag=True, help="Change nothing; the status is 1 if a change is due.")
@with_tools
async def migrate(tools: Tools, check: bool) -> Answer:
    """
    Create or upgrade the database schema.

    Nothing happens if it is up to date. Several processes may run this at the same time.

    \b
    The order of an upgrade:
    1. Back up the database and the buckets.
    2. Install the new version beside the old one, which keeps running.
    3. Run migrate of the new version.
    4. Restart the processes one at a time with the new version.

    The previous version works with the schema of the new one, so a rollback installs the previous
    version, restarts the processes, and leaves the schema as it is.
    """
    url = tools.database_url
    place = where(url)
    if check:
        before, after = await tools.files.run(current, url), REVISION
    else:
        before, after = await tools.files.run(upgrade, url)
    up_to_date = is_usable(before)
    if up_to_date and before != REVISION:
        after = before or after
        text = (
            f"The schema of {place} is {before}: newer than {REVISION}, and this version works"
            " with it."
        )
    elif up_to_date:
        text = f"The schema of {place} is up to date: {after}."
    elif check:
        text = f"The schema of {place} is {before or 'missing'}; this version needs {after}."
    else:
        text = f"The schema of {place} was {before or 'missing'} and is now {after}."
    return Answer(
        {
            "database": place,
            "from": before,
            "to": after,
            "changed": not (check or up_to_date),
            "current": up_to_date or not check,
        },
        text,
        status=1 if check and not up_to_date else 0,
    )
