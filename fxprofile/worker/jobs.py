"""What a worker does with the messages of the jobs queue."""

from __future__ import annotations

from fxprofile.model.messages import Job, Message
from fxprofile.model.ports import Handler
from fxprofile.worker.crunch import Crunch


def jobs_handler(crunch: Crunch) -> Handler:
    """
    Make the handler of the jobs queue.

    :returns: for a :class:`fxprofile.worker.poller.Poller`.
    """

    async def handle(message: Message) -> None:
        await crunch.run(Job.decode(message.body))

    return handle
