"""Queues: the drivers of :class:`fxprofile.model.ports.IQueue`, and the loop that reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprofile.model.ports import IQueue
from fxprofile.settings.model import Settings

if TYPE_CHECKING:
    from fxprofile.deferreds.threads import Threads
    from fxprofile.drivers.sql.engine import Database

#: Seconds that results and account events are hidden while they are handled, and how
#: often they are tried: a database may be away for a while.
RESULTS_VISIBILITY = 30
RESULTS_MAX_RECEIVES = 10

#: What the dead-letter queue of the jobs is called.
DEAD = "jobs-dead"


def queue_from_config(
    settings: Settings,
    name: str,
    *,
    reactor: Any,
    database: Database | None,
    threads: Threads,
) -> IQueue | None:
    """
    The queue of this name, in the driver that ``queue.driver`` names.

    :param name: ``jobs``, ``results``, ``dead``, ``results_dead``, ``events`` or ``updates``.
    :param database: of the database driver.
    :returns: None if the settings name no such queue.
    """
    config = settings.queue
    visibility, max_receives = visibility_and_receives(settings, name)
    url = getattr(config, f"{name}_url")
    if config.driver == "sqs":
        from fxprofile.drivers.aws.sqs import sqs_queue

        if url is None:
            return None
        return sqs_queue(
            settings,
            name=name,
            url=url,
            visibility_timeout=visibility,
            reactor=reactor,
            threads=threads,
        )
    from fxprofile.drivers.sql.queue import DatabaseQueue, dead_name

    if name in ("events", "updates") and url is None:
        return None
    if database is None:
        raise ValueError("the database driver needs a database")
    if name == "results_dead":
        named = dead_name((config.results_url or "results").rpartition("/")[2])
    else:
        named = DEAD if name == "dead" else (url or name).rpartition("/")[2]
    return DatabaseQueue(
        database,
        name=named,
        visibility_timeout=visibility,
        max_receives=max_receives,
        clock=reactor,
    )


def visibility_and_receives(settings: Settings, name: str) -> tuple[int, int]:
    """The visibility timeout, in seconds, and the most receives of the queue of this name."""
    if name in ("results", "results_dead", "events"):
        return RESULTS_VISIBILITY, RESULTS_MAX_RECEIVES
    return settings.queue.visibility_timeout, settings.queue.max_receives
