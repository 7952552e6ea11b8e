"""``fxprofile-admin provision``: what the service needs to have around it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from fxprofile.admin.provision.plan import Plan
from fxprofile.admin.shared.commands import AdminCommand, pass_session, yes_option
from fxprofile.admin.shared.output import printable, say, table
from fxprofile.admin.shared.session import Session
from fxprofile.admin.shared.tools import Tools, where

_PARTS = ("storage", "queues", "database")


@click.command(cls=AdminCommand)
@click.option(
    "--only",
    type=click.Choice(_PARTS),
    multiple=True,
    help="Look after this alone; may be repeated.",
)
@click.option(
    "--public-read/--no-public-read",
    default=None,
    help="Whether everybody may get pictures straight from the public bucket on S3. Unless said,"
    " a new bucket is closed, and that of an old one stays as it is.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Change nothing; 1 if there is need to.")
@yes_option
@pass_session
def provision(
    session: Session,
    only: Sequence[str],
    public_read: bool | None,
    plan_only: bool,
    yes: bool,
) -> None:
    """
    Make buckets, queues and the database, or set them right.

    On AWS: the two buckets with their public-access and lifecycle rules, the queues with
    their queues of dead letters and redrive policies. On one machine: the folders, and the
    schema. Shows first what it will do; what is right already stays as it is, so running
    this again does no harm. Queues whose URLs are not set get names of their own, and it
    prints the settings to use. Needs an administrator's rights on AWS, not those of a role.
    """
    if not plan_only:
        session.no_questions(yes)
    settings = session.settings()
    parts = only or _PARTS

    async def work(tools: Tools) -> tuple[Plan, bool]:
        plan = await planned(tools, parts, public_read)
        if plan_only or not plan.changes:
            return plan, False
        if not session.as_json:
            say(_text(plan))
        session.confirm("Do this?", yes)
        await plan.apply()
        return plan, True

    plan, applied = session.run(work, settings)
    answer = {"steps": plan.members(), "applied": applied, "settings": plan.settings}
    if session.as_json or not applied:
        session.answer(answer, _text(plan))
    if not session.as_json:
        _say_outcome(plan, applied)
    if plan.warns or (plan_only and plan.changes):
        raise SystemExit(1)


async def planned(tools: Tools, parts: Sequence[str], public_read: bool | None) -> Plan:
    """
    What has to be done.

    :raises DriverError: if something cannot be looked at; so does AwsError.
    """
    plan = Plan()
    settings = tools.settings
    if "storage" in parts:
        if settings.storage.driver == "s3":
            await _plan_s3(tools, plan, public_read)
        else:
            for which in ("private", "public"):
                await _plan_folder(tools, plan, which)
    if "queues" in parts and settings.queue.driver == "sqs":
        from fxprofile.admin.provision.sqs import Queues

        await Queues(_client(tools), settings).plan(plan)
    if "database" in parts:
        await _plan_database(tools, plan)
    return plan


def _client(tools: Tools) -> Any:
    from fxprofile.drivers.aws.shared import client_of

    client = client_of(tools.settings, reactor=tools.reactor, threads=tools.files)
    client.acquire()
    tools.at_end(client.release)
    return client


async def _plan_s3(tools: Tools, plan: Plan, public_read: bool | None) -> None:
    from fxprofile.admin.provision.s3 import Buckets

    storage = tools.settings.storage
    buckets = Buckets(
        _client(tools).service(
            "s3",
            endpoint_url=storage.endpoint_url or tools.settings.aws.endpoint_url,
            addressing=storage.addressing,
        )
    )
    await buckets.plan(plan, storage.private_bucket, private=True, public_read=False)
    await buckets.plan(plan, storage.public_bucket, private=False, public_read=public_read)


async def _plan_folder(tools: Tools, plan: Plan, which: str) -> None:
    storage = tools.settings.storage
    folder = storage.directory.absolute() / getattr(storage, f"{which}_bucket")
    if await tools.files.run(folder.is_dir):
        plan.fine(f"folder {folder}", "is there")
    else:
        # To see whether it can be used makes it, with the right mode.
        plan.create(f"folder {folder}", f"of the {which} bucket", tools.bucket(which).check)


async def _plan_database(tools: Tools, plan: Plan) -> None:
    from fxprofile.drivers.sql.migrate import current, upgrade
    from fxprofile.drivers.sql.schema import REVISION

    what = f"schema of {where(tools.database_url)}"
    found = await tools.files.run(current, tools.database_url)
    if found == REVISION:
        plan.fine(what, f"is {REVISION}")
        return
    apply = partial(tools.files.run, upgrade, tools.database_url)
    if found is None:
        plan.create(what, REVISION, apply)
    else:
        plan.change(what, f"{found} to {REVISION}", apply)


def _text(plan: Plan) -> str:
    return table(
        ("", "WHAT", "HOW"), [(str(step.action), step.what, step.detail) for step in plan.steps]
    )


def _say_outcome(plan: Plan, applied: bool) -> None:
    if applied:
        say("Done.")
    elif not plan.changes:
        say("There is nothing to do.")
    if plan.settings:
        say("Settings to use:")
        for name, value in plan.settings.items():
            section, _, key = name.partition(".")
            say(f'  [{section}] {key} = "{printable(value)}"')
