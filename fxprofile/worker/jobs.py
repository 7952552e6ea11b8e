"""What a worker does with the messages of the jobs queue."""

from __future__ import annotations

from fxprofile.crunch import Crunch
from fxprofile.model import Job, Message
from fxprofile.queues.poller import Handler


def jobs_handler(crunch: Crunch) -> Handler:
    """
    Make the handler of the jobs queue.

    :returns: for a :class:`fxprofile.queues.poller.Poller`.
    """

    async def handle(message: Message) -> None:
        await crunch.run(Job.decode(message.body))

    return handle
