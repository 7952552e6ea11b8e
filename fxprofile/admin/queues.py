"""``fxprofile-admin queues``: show how many messages wait on each queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import click

from fxprofile.admin.shared.commands import AdminCommand, Answer, line, with_tools
from fxprofile.admin.shared.output import duration, table
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.sql.queue import DatabaseQueue
from fxprofile.model.errors import QueueError
from fxprofile.model.ports import IQueue

#: Every queue that the settings may name.
QUEUES: Final = ("jobs", "results", "results_dead", "dead", "events", "updates")


@dataclass
class _Depth:
    """The members of a queue in the answer."""

    name: str
    waiting: int | None = None
    in_flight: int | None = None
    oldest_seconds: float | None = None
    error: str | None = None


@click.command(cls=AdminCommand)
@with_tools
async def queues(tools: Tools) -> Answer:
    """
    Show how many messages wait on each queue.

    The numbers of SQS are approximate, and SQS does not report the age of the oldest
    message: that is CloudWatch's ApproximateAgeOfOldestMessage.
    """
    if tools.settings.queue.driver == "database":
        await tools.open_database()
    depths = [await _depth(name, queue) for name, queue in _all(tools)]
    rows = [(d.name, d.waiting, d.in_flight, duration(d.oldest_seconds)) for d in depths]
    return Answer(
        {"queues": [asdict(depth) for depth in depths]},
        table(("QUEUE", "WAITING", "IN FLIGHT", "OLDEST"), rows),
        errors=[depth.error for depth in depths if depth.error],
    )


def _all(tools: Tools) -> Iterator[tuple[str, IQueue]]:
    for name in QUEUES:
        queue = tools.queue(name)
        if queue is not None:
            yield name.replace("_", "-"), queue
        if name == "events" and isinstance(queue, DatabaseQueue):
            # On SQS only the redrive policy knows its dead-letter queue.
            yield "events-dead", queue.dead


async def _depth(name: str, queue: IQueue) -> _Depth:
    try:
        depth = await queue.depth()
    except QueueError as error:
        # The other queues may answer.
        return _Depth(name, error=line(error))
    oldest = None if depth.oldest is None else round(depth.oldest, 1)
    return _Depth(name, depth.visible, depth.in_flight, oldest)
