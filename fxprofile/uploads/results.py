"""What the web role does with the messages of the results queue."""

from __future__ import annotations

from fxprofile.model.messages import Message, Result
from fxprofile.model.ports import Handler
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.selection import Selection


def results_handler(selection: Selection, metrics: Metrics) -> Handler:
    """
    Make the handler of the results queue.

    :returns: for a :class:`fxprofile.worker.poller.Poller`.
    """

    async def handle(message: Message) -> None:
        result = Result.decode(message.body)
        await selection.apply(result)
        metrics.results.labels(result.status.value).inc()

    return handle
