"""
The processes of a world: web heads and workers, of the very parts that the daemon has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall

from fxprofile.model.errors import CacheError, DriverError, QueueError, StorageError, StoreError
from fxprofile.profiles.invalidation import RETRIES, ProfileInvalidator
from fxprofile.profiles.read import Profiles
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.repair import Repair
from fxprofile.uploads.selection import Selection
from fxprofile.worker.jobs import JobRunner
from fxprofile.worker.poller import Poller
from tests.simulation.drivers import SimCruncher, SimDriver
from tests.simulation.ledger import IMAGES
from tests.support.fakes.threads import InlineThreads

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Seconds that messages of the jobs and the results queues are hidden.
JOBS_VISIBILITY = 60
RESULTS_VISIBILITY = 30

_ERRORS: dict[str, type[DriverError]] = {
    "private": StorageError,
    "public": StorageError,
    "jobs": QueueError,
    "results": QueueError,
    "dead": QueueError,
    "dead results": QueueError,
    "store": StoreError,
    "cache": CacheError,
}


class OwnClock:
    """The clock of one machine, which is never quite right."""

    def __init__(self, clock: Any, error: float) -> None:
        self._clock = clock
        self._error = error

    def seconds(self) -> float:
        return float(self._clock.seconds() + self._error)

    def callLater(self, delay: float, call: Any, *args: Any, **kwargs: Any) -> IDelayedCall:
        later: IDelayedCall = self._clock.callLater(delay, call, *args, **kwargs)
        return later


class Process:
    """
    A process.

    :cvar kind: what it is called in traces.
    :ivar dead: whether it was killed: none of its calls will ever return.
    :ivar stopping: whether it was asked to end.
    """

    kind = "process"

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.stopping = False
        self.clock: Any = OwnClock(world.clock, world.rng.uniform(-2, 2))
        self.services: list[Service] = []

    def driver(self, name: str) -> Any:
        """A driver of this process."""
        return SimDriver(self, name, self.world.shared[name], _ERRORS[name])

    def start(self) -> None:
        """Start it."""
        for service in self.services:
            service.startService()

    def stop(self) -> Deferred[Any]:
        """Ask it to end."""
        self.stopping = True
        return DeferredList([maybeDeferred(service.stopService) for service in self.services])

    def kill(self) -> None:
        """Kill it, at whatever it is; somebody starts another one."""
        if not self.dead:
            self.dead = True
            self.world.died(self)

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return not self.dead and not self.stopping


class Head(Process):
    """
    A web head, without its HTTP.

    :cvar selection_class: and the like: what it is made of, for who wants another one.
    """

    kind = "head"
    selection_class = Selection
    intake_class = Intake
    invalidator_class = ProfileInvalidator
    repair_class = Repair
    poller_class = Poller

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        store, jobs = self.driver("store"), self.driver("jobs")
        outbox = Outbox(jobs=jobs, store=store, clock=self.clock)
        cache = self.driver("cache")
        invalidator = self.invalidator_class(
            cache=cache,
            updates=None,
            metrics=world.metrics,
            clock=self.clock,
            backoff=replace(RETRIES, chance=world.rng.random),
        )
        self.profiles = Profiles(
            identity=world.identity,
            store=store,
            cache=cache,
            invalidator=invalidator,
            metrics=world.metrics,
            clock=self.clock,
            image_template=IMAGES,
            monogram_url=None,
        )
        self.selection = self.selection_class(
            store=store,
            outbox=outbox,
            invalidator=invalidator,
            metrics=world.metrics,
            clock=self.clock,
        )
        self.intake = self.intake_class(
            private=self.driver("private"),
            store=store,
            outbox=outbox,
            clock=self.clock,
            new_id=lambda: f"{world.rng.getrandbits(128):032x}",
        )
        repair = self.repair_class(
            store=store,
            outbox=outbox,
            selection=self.selection,
            intake=self.intake,
            dead=self.driver("dead"),
            dead_results=self.driver("dead results"),
            metrics=world.metrics,
            clock=self.clock,
            owner=name,
        )
        poller = self.poller_class(
            queue=self.driver("results"),
            handler=self.selection.handle,
            slots=world.rng.choice((1, 3, 10)),
            visibility_timeout=RESULTS_VISIBILITY,
            metrics=world.metrics,
            clock=self.clock,
            chance=world.rng.random,
            retry_delays=world.weather.retry_delays,
        )
        self.services = [invalidator, repair, poller]


class Worker(Process):
    """
    A worker.

    :cvar runner_class: and the like: what it is made of, for who wants another one.
    """

    kind = "worker"
    runner_class = JobRunner
    poller_class = Poller

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        slots = world.rng.choice((1, 2, 4))
        runner = self.runner_class(
            private=self.driver("private"),
            public=self.driver("public"),
            results=self.driver("results"),
            cruncher=SimCruncher(self, slots),
            threads=InlineThreads(),
            metrics=world.metrics,
            clock=self.clock,
        )
        poller = self.poller_class(
            queue=self.driver("jobs"),
            handler=runner.handle,
            slots=slots,
            visibility_timeout=JOBS_VISIBILITY,
            metrics=world.metrics,
            clock=self.clock,
            chance=world.rng.random,
            retry_delays=world.weather.retry_delays,
        )
        self.services = [poller]


#: One for all worlds: nobody looks at these figures, and they are slow to make.
METRICS = Metrics()
