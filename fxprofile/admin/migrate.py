"""``fxprofile-admin migrate``: the schema of the database."""

from __future__ import annotations

import click

from fxprofile.admin.shared.commands import AdminCommand, pass_session
from fxprofile.admin.shared.session import Session
from fxprofile.admin.shared.tools import Tools, where


@click.command(cls=AdminCommand)
@click.option("--check", is_flag=True, help="Change nothing; the status is 1 if there is need to.")
@pass_session
def migrate(session: Session, check: bool) -> None:
    """
    Give the database the schema that this version needs.

    Creates it or upgrades it; if it is up to date already, nothing happens. Several
    processes may do this at the same time. Stop older versions of the service first,
    unless its release notes say otherwise.
    """

    async def work(tools: Tools) -> tuple[str | None, str]:
        from fxprofile.drivers.sql.migrate import current, upgrade
        from fxprofile.drivers.sql.schema import REVISION

        if check:
            return await tools.files.run(current, tools.database_url), REVISION
        return await tools.files.run(upgrade, tools.database_url)

    settings = session.settings()
    before, after = session.run(work, settings)
    place = where(settings.database.url.get_secret_value())
    current_already = before == after
    if current_already:
        text = f"The schema of {place} is {after}, as it should be."
    elif check:
        text = f"The schema of {place} is {before or 'missing'}, and should be {after}."
    else:
        text = f"The schema of {place} was {before or 'missing'}, and is {after} now."
    session.answer(
        {
            "database": place,
            "from": before,
            "to": after,
            "changed": not (check or current_already),
            "current": current_already or not check,
        },
        text,
    )
    if check and not current_already:
        raise SystemExit(1)
