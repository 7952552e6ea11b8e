"""``fxprofile-admin provision``: create or correct buckets, queues and the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import click

from fxprofile.admin.provision.plan import Plan
from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import listing
from fxprofile.admin.shared.tools import Tools, where
from fxprofile.drivers.sql.migrate import current, is_usable, upgrade
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
    text = listing(plan.members(), "action", "what", "detail")
    changes = plan.changes
    applied = bool(changes) and not plan_only
    if applied:
        commands.confirm("Apply this plan?", text)
        planned_steps = len(plan.steps)
        for apply in changes:
            await apply()
        found = plan.members()[planned_steps:]
        text = f"Done.\n{listing(found, 'action', 'what', 'detail')}" if found else "Done."
    elif not changes:
        text += "\nThere is nothing to do."
    if plan.settings:
        text += "\nSettings to use:"
    for name, value in plan.settings.items():
        # JSON's strings are TOML's.
        text += f"\n{name} = {json.dumps(value)}"
    # Applying a step may find what needs attention.
    steps = plan.members()
    needs_attention = any(step["action"] == "attention" for step in steps)
    return commands.Answer(
        {"steps": steps, "applied": applied, "settings": plan.settings},
        text,
        status=1 if needs_attention or (changes and plan_only) else 0,
    )


async def planned(tools: Tools, parts: Sequence[str], public_read: bool | None) -> Plan:
    """
    Return what has to be done.

    :raises AwsError: if something cannot be looked at.
    :raises DriverError: likewise.
    """
    plan = Plan()
    if "storage" in parts and tools.settings.storage.driver == "s3":
        from fxprofile.admin.provision.aws import plan_buckets

        await plan_buckets(plan, tools, public_read)
    elif "storage" in parts:
        for which in ("private", "public"):
            await _plan_folder(tools, plan, which)
    if "queues" in parts and tools.settings.queue.driver == "sqs":
        from fxprofile.admin.provision.aws import QueuePlanner

        await QueuePlanner(plan, tools).plan_all()
    if "database" in parts:
        await _plan_database(tools, plan)
    return plan


async def _plan_folder(tools: Tools, plan: Plan, which: str) -> None:
    storage = tools.settings.storage
    folder = storage.directory.absolute() / getattr(storage, f"{which}_bucket")
    exists = await tools.files.run(folder.is_dir)
    # The check creates it, with the right mode.
    create = None if exists else tools.bucket(which).check
    plan.add(f"folder {folder}", f"of the {which} bucket", create, exists=exists)


async def _plan_database(tools: Tools, plan: Plan) -> None:
    url = tools.database_url
    found = await tools.files.run(current, url)
    up_to_date = is_usable(found)
    detail = f"{found} to {REVISION}" if found and not up_to_date else found or REVISION
    apply = None if up_to_date else partial(tools.files.run, upgrade, url)
    plan.add(f"schema of {where(url)}", detail, apply, exists=found is not None)
