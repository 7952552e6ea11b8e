"""
Support for the tests of the poller.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.model.messages import Message
from fxprofile.telemetry.metrics import Metrics
from fxprofile.worker.poller import CLEANUP, Poller
from tests.support.fakes.queue import ScriptedQueue, make_message

#: The visibility timeout of the queue.
VISIBILITY = 60


class ManualHandler:
    """
    A handler whose work ends on the command of a test.

    :ivar works: by message id, the Deferred that the work waits for.
    :ivar seen: the ids of the messages that were handled, in order.
    :ivar cancelled: the ids of the messages whose work was cancelled.
    """

    def __init__(self) -> None:
        self.works: dict[str, Deferred[None]] = {}
        self.seen: list[str] = []
        self.cancelled: list[str] = []

    async def __call__(self, message: Message) -> None:
        name = message.message_id
        self.seen.append(name)
        self.works[name] = work = Deferred(lambda _: self.cancelled.append(name))
        await work

    def finish(self, name: str) -> None:
        """Let the handling of this message succeed."""
        self.works[name].callback(None)

    def fail(self, name: str, error: BaseException) -> None:
        """Let the handling of this message fail."""
        self.works[name].errback(error)


class PollerTestCase(SynchronousTestCase):
    """A poller on a scripted queue, with a handler that the test controls."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.queue = ScriptedQueue()
        self.handler = ManualHandler()
        self.metrics = Metrics()

    def start(self, **options: Any) -> Poller:
        """Start a poller with two slots and the longest jitter, unless options say otherwise."""
        given = {
            "queue": self.queue,
            "handler": self.handler,
            "slots": 2,
            "visibility_timeout": VISIBILITY,
            "first": VISIBILITY,
            "metrics": self.metrics,
            "clock": self.clock,
            "chance": lambda: 1.0,
            **options,
        }
        self.poller = Poller(**given)
        self.poller.startService()
        # What the garbage collector would end in mid-air makes errors in other tests.
        self.addCleanup(self.end)
        return self.poller

    def end(self) -> None:
        """Stop the poller and let every timer run out."""
        self.stop()
        self.queue.held.clear()
        self.clock.pump([25, CLEANUP] * 5)

    def stop(self) -> Deferred[None]:
        """Stop the poller."""
        return self.poller.stopService()

    def is_healthy(self) -> bool:
        """Return the health that the heartbeat shows."""
        return bool(self.successResultOf(Deferred.fromCoroutine(self.poller.check())))

    def give(self, *names: str, **details: Any) -> None:
        """Answer the receive with messages of these names."""
        self.queue.give(*(make_message(name, **details) for name in names))

    def figure(self, name: str, **labels: str) -> float:
        """Return the value of a metric of this queue."""
        labels["queue"] = self.queue.name
        return self.metrics.registry.get_sample_value(f"fxprofile_queue_{name}", labels) or 0

    def handled(self, outcome: str) -> float:
        """Return how many messages had this outcome."""
        return self.figure("handled_total", outcome=outcome)
