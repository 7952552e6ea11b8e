"""``fxprofile-admin queues``: how much waits where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from fxprofile.admin.shared.commands import AdminCommand, pass_session
from fxprofile.admin.shared.output import duration, table
from fxprofile.admin.shared.session import Session, line
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.errors import QueueError
from fxprofile.model.ports import IQueue

#: Every queue that there may be.
QUEUES: Final = ("jobs", "results", "results_dead", "dead", "events", "updates")

_NEEDED: Final = ("jobs", "results")


@click.command(cls=AdminCommand)
@pass_session
def queues(session: Session) -> None:
    """
    Show how much waits on each queue.

    The numbers of SQS are approximate, and it does not tell how old the oldest message
    is: that is CloudWatch's ApproximateAgeOfOldestMessage.
    """

    async def work(tools: Tools) -> list[dict[str, Any]]:
        if tools.settings.queue.driver == "database":
            await tools.open_database()
        return [await _depth(name, queue) for name, queue in _all(tools)]

    rows = session.run(work)
    session.answer(
        {"queues": rows},
        table(
            ("QUEUE", "WAITING", "IN FLIGHT", "OLDEST"),
            [
                (r["name"], r["waiting"], r["in_flight"], duration(r["oldest_seconds"]))
                for r in rows
            ],
        ),
    )
    failures = [row["error"] for row in rows if row["error"]]
    if failures and not session.as_json:
        for failure in failures:
            click.echo(f"fxprofile-admin: {failure}", err=True)
    if failures:
        raise SystemExit(1)


def _all(tools: Tools) -> Iterator[tuple[str, IQueue]]:
    for name in QUEUES:
        queue: Any = tools.needed_queue(name) if name in _NEEDED else tools.queue(name)
        if queue is None:
            continue
        yield name.replace("_", "-"), queue
        if name == "events" and tools.settings.queue.driver == "database":
            # On SQS nobody but their redrive policies knows them.
            yield f"{name}-dead", queue.dead


async def _depth(name: str, queue: IQueue) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "waiting": None,
        "in_flight": None,
        "oldest_seconds": None,
        "error": None,
    }
    try:
        depth = await queue.depth()
    except QueueError as error:
        # The others may answer.
        return row | {"error": line(error)}
    return row | {
        "waiting": depth.visible,
        "in_flight": depth.in_flight,
        "oldest_seconds": None if depth.oldest is None else round(depth.oldest, 1),
    }
