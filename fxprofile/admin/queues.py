"""``fxprofile-admin queues``: show how many messages wait on each queue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from fxprofile.admin.shared.commands import AdminCommand, Answer, line, with_tools
from fxprofile.admin.shared.output import Members, listing
from fxprofile.admin.shared.tools import IN_MEMORY, Tools
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model.errors import QueueError
from fxprofile.model.ports import IQueue

#: Every queue that the settings may name.
QUEUES: Final = ("jobs", "results", "results_dead", "dead", "events", "updates")

#: The numbers of a queue in the answer.
_NUMBERS: Final = ("waiting", "in_flight", "oldest_seconds")


@click.command(cls=AdminCommand)
@with_tools
async def queues(tools: Tools) -> Answer:
    """
    Show how many messages wait on each queue.

    The numbers of SQS are approximate, and SQS does not report the age of the oldest
    message: that is CloudWatch's ApproximateAgeOfOldestMessage.
    """
    if tools.settings.queue.driver != "sqs":
        await tools.open_database()
    depths = [await _depth(name, queue) for name, queue in _all(tools)]
    note = IN_MEMORY if tools.is_in_memory("jobs") else None
    rows = ({"queue": depth["name"], **depth} for depth in depths)
    text = listing(rows, "queue", *_NUMBERS) if depths else ""
    return Answer(
        {"queues": depths, "note": note},
        "\n".join(filter(None, (text, note))),
        errors=[depth["error"] for depth in depths if depth["error"]],
    )


def _all(tools: Tools) -> Iterator[tuple[str, IQueue]]:
    for name in QUEUES:
        queue = None if tools.is_in_memory(name) else tools.queue(name)
        if queue is not None:
            yield name.replace("_", "-"), queue
        if name == "events" and isinstance(queue, DatabaseQueue):
            # On SQS only the redrive policy knows its dead-letter queue.
            yield "events-dead", queue.dead


async def _depth(name: str, queue: IQueue) -> Members:
    try:
        depth = await queue.depth()
    except QueueError as error:
        # The other queues may answer.
        return {"name": name, **dict.fromkeys(_NUMBERS), "error": line(error)}
    oldest = None if depth.oldest is None else round(depth.oldest, 1)
    numbers = dict(zip(_NUMBERS, (depth.visible, depth.in_flight, oldest), strict=True))
    return {"name": name, **numbers, "error": None}
