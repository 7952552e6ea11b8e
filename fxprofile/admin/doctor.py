"""``fxprofile-admin doctor``: does everything work that the service needs?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from fxprofile.admin.shared.commands import AdminCommand, pass_session
from fxprofile.admin.shared.findings import Finding, Level, run_checks
from fxprofile.admin.shared.output import printable
from fxprofile.admin.shared.session import Session
from fxprofile.admin.shared.tools import Tools
from fxprofile.settings.model import Role

_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}


@click.command(cls=AdminCommand)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.COMBINED.value,
    show_default=True,
    help="Check what this role needs, with no more rights than it needs.",
)
@pass_session
def doctor(session: Session, role: str) -> None:
    """
    Check that everything works that the service needs.

    Tiny images go through the real sandbox, an object is put into each bucket, read back
    and deleted, and queues, database, identity servers and cache are asked. Each line is
    ok or says what to do; the status is 1 if there is a problem. Run this as the user of
    the service, with its environment.
    """
    settings = session.settings(Role(role))

    async def work(tools: Tools) -> list[Finding]:
        from fxprofile.admin.shared.checks import checks_for

        return await run_checks(tools.reactor, checks_for(tools, Role(role)))

    findings = session.run(work, settings)
    bad = [finding for finding in findings if finding.level is Level.PROBLEM]
    session.answer(
        {"ok": not bad, "findings": [asdict(finding) for finding in findings]},
        "\n".join(_line(finding, findings) for finding in findings),
    )
    if bad:
        raise SystemExit(1)


def _line(finding: Finding, among: list[Any]) -> str:
    width = max(len(other.name) for other in among)
    text = f"{_MARKS[finding.level]:8} {finding.name:{width}}  {printable(finding.text)}"
    if finding.advice is None:
        return text
    return f"{text}\n{'':8} {'':{width}}  -> {printable(finding.advice)}"
