"""``fxprofile-admin provision``: create or correct buckets, queues and the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import click

from fxprofile.admin.provision.plan import Plan
from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import printable, table
from fxprofile.admin.shared.tools import Tools, where
from fxprofile.drivers.sql.migrate import current, upgrade
from fxprofile.drivers.sql.schema import REVISION

_PARTS = ("storage", "queues", "database")


@click.command(cls=commands.AdminCommand)
@click.option(
    "--only",
    type=click.Choice(_PARTS),
    multiple=True,
    help="Provision only this; may be repeated.",
)
@click.option(
    "--public-read/--no-public-read",
    default=None,
    help="Whether anyone may get pictures directly from the public bucket on S3. By default a new"
    " bucket is closed, and an existing one stays as it is.",
)
@click.option(
    "--plan", "plan_only", is_flag=True, help="Change nothing; the status is 1 if a change is due."
)
@commands.yes_option
@commands.with_tools
async def provision(
    tools: Tools, only: Sequence[str], public_read: bool | None, plan_only: bool
) -> commands.Answer:
    """
    Create buckets, queues and the database, or correct them.

    On AWS: the two buckets with their public-access and lifecycle rules, and the queues with
    their dead-letter queues and redrive policies. On a single host: the folders and the
    schema. It shows its plan first; what is right already stays as it is, so it may be run
    again. Queues whose URLs are not set get default names, and the settings to use are
    printed. On AWS it needs an administrator's rights, not those of a role.
    """
    if not plan_only:
        commands.require_yes()
    plan = await planned(tools, only or _PARTS, public_read)
    text = table(("", "WHAT", "HOW"), [(s.action.value, s.what, s.detail) for s in plan.steps])
    applied = plan.changes and not plan_only
    if applied:
        commands.confirm("Apply this plan?", text)
        await plan.apply()
        text = "Done."
    elif not plan.changes:
        text += "\nThere is nothing to do."
    members = [{"action": s.action, "what": s.what, "detail": s.detail} for s in plan.steps]
    return commands.Answer(
        {"steps": members, "applied": applied, "settings": plan.settings},
        "\n".join([text, *_settings_lines(plan)]),
        status=1 if plan.needs_attention or (plan_only and plan.changes) else 0,
    )


def _settings_lines(plan: Plan) -> Iterator[str]:
    if plan.settings:
        yield "Settings to use:"
    for name, value in plan.settings.items():
        section, _, key = name.partition(".")
        yield f'  [{section}] {key} = "{printable(value)}"'


async def planned(tools: Tools, parts: Sequence[str], public_read: bool | None) -> Plan:
    """
    Return what has to be done.

    :raises AwsError: if something cannot be looked at.
    :raises DriverError: likewise.
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
        from fxprofile.admin.provision.sqs import QueuePlanner

        await QueuePlanner(plan, tools).plan_all()
    if "database" in parts:
        await _plan_database(tools, plan)
    return plan


async def _plan_s3(tools: Tools, plan: Plan, public_read: bool | None) -> None:
    from fxprofile.admin.provision.s3 import BucketPlanner

    storage = tools.settings.storage
    s3 = tools.aws.service(
        "s3",
        endpoint_url=storage.endpoint_url or tools.settings.aws.endpoint_url,
        addressing=storage.addressing,
    )
    await BucketPlanner(plan, s3, storage.private_bucket).plan(private=True, public_read=False)
    await BucketPlanner(plan, s3, storage.public_bucket).plan(
        private=False, public_read=public_read
    )


async def _plan_folder(tools: Tools, plan: Plan, which: str) -> None:
    storage = tools.settings.storage
    folder = storage.directory.absolute() / getattr(storage, f"{which}_bucket")
    if await tools.files.run(folder.is_dir):
        plan.add(f"folder {folder}", "exists")
    else:
        # The check creates it, with the right mode.
        check = tools.bucket(which).check
        plan.add(f"folder {folder}", f"of the {which} bucket", check, exists=False)


async def _plan_database(tools: Tools, plan: Plan) -> None:
    what = f"schema of {where(tools.database_url)}"
    found = await tools.files.run(current, tools.database_url)
    if found == REVISION:
        plan.add(what, f"is {REVISION}")
        return
    apply = partial(tools.files.run, upgrade, tools.database_url)
    detail = REVISION if found is None else f"{found} to {REVISION}"
    plan.add(what, detail, apply, exists=found is not None)
