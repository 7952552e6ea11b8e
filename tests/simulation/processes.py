"""
The processes of a simulation: web processes and workers, built as the daemon builds them.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from fxprofile.app.roles import add_web_loops, add_worker
from fxprofile.app.services import Services
from fxprofile.deferreds.steady import SteadyClock
from fxprofile.drivers.memory.queue import MemoryQueue
from fxprofile.model.errors import CacheError, DriverError, QueueError, StorageError, StoreError
from fxprofile.settings.model import Settings
from fxprofile.telemetry.metrics import Metrics
from tests.simulation.drivers import SimCruncher, SimDriver
from tests.simulation.ledger import IMAGES
from tests.support.fakes.threads import InlineThreads

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Visibility timeouts of the jobs and results queues, in seconds.
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


@cache
def settings(slots: int, driver: str) -> Settings:
    """
    Return the settings of a process.

    :param slots: how many images it crunches at the same time.
    :param driver: of its queues.
    """
    return Settings(
        images={"url": IMAGES},
        monogram={"enabled": False},
        crunch={"processes": slots},
        queue={"driver": driver},
    )


class OwnClock:
    """
    The clock of a process, which follows that of its machine as the daemon's does.

    :param error: of the machine's clock, in seconds.
    """

    def __init__(self, clock: Any, error: float) -> None:
        self._clock = clock
        self.error = error
        self.seconds = SteadyClock(
            monotonic=clock.seconds, wall=lambda: float(clock.seconds() + self.error)
        )

    def callLater(self, delay: float, call: Any, *args: Any, **kwargs: Any) -> IDelayedCall:
        later: IDelayedCall = self._clock.callLater(delay, call, *args, **kwargs)
        return later


class Process:
    """
    A process of the simulation.

    :cvar kind: its name in traces.
    :cvar services_used: the services of its role that can be given a mistake.
    :ivar clock: its own.
    :ivar dead: whether it was killed: none of its calls returns.
    :ivar stopping: whether it was asked to stop.
    """

    kind = "process"
    services_used: tuple[str, ...] = ()
    queue_driver = "database"
    services: Services

    def __init__(self, world: World, name: str, clock_error: float = 0) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.stopping = False
        self.clock = OwnClock(world.clock, clock_error)

    def driver(self, name: str) -> Any:
        """Return a driver of this process, with faults."""
        return SimDriver(self, name, self.world.shared[name], _ERRORS[name])

    def build(self, *, slots: int, **replacements: object) -> Services:
        """Build the services of this process as the daemon does, with simulated drivers."""
        world = self.world
        services = Services(
            settings(slots, self.queue_driver),
            self.clock,
            metrics=world.metrics,
            new_id=lambda: f"{world.rng.getrandbits(128):032x}",
            chance=world.rng.random,
            retry_delays=world.weather.retry_delays,
            **replacements,
        )
        for name in self.services_used:
            if name in world.mistakes:
                getattr(services, name).__class__ = world.mistakes[name]
        return services

    def start(self) -> None:
        """Start its services."""
        self.services.stack.startService()

    def stop(self) -> Deferred[None]:
        """Stop its services."""
        self.stopping = True
        return self.services.stack.stopService()

    def kill(self) -> None:
        """Kill it; the world starts another."""
        if not self.dead:
            self.dead = True
            self.world.died(self)

    @property
    def alive(self) -> bool:
        """Whether it accepts requests."""
        return not self.dead and not self.stopping


class Head(Process):
    """A web process without its HTTP."""

    kind = "head"
    services_used = ("selection", "intake", "invalidator", "repair", "results_poller")

    def __init__(self, world: World, name: str, clock_error: float = 0) -> None:
        super().__init__(world, name, clock_error)
        self.services = self.build(
            slots=1,
            store=self.driver("store"),
            private_bucket=self.driver("private"),
            jobs_queue=self.driver("jobs"),
            results_queue=self.driver("results"),
            dead_jobs_queue=self.driver("dead"),
            dead_results_queue=self.driver("dead results"),
            cache=self.driver("cache"),
            identity=world.identity,
            result_slots=world.rng.choice((1, 3, 10)),
        )
        add_web_loops(self.services)
        self.profiles = self.services.profiles
        self.selection = self.services.selection
        self.intake = self.services.intake


class Worker(Process):
    """A worker."""

    kind = "worker"
    services_used = ("job_runner", "jobs_poller")

    def __init__(self, world: World, name: str, clock_error: float = 0) -> None:
        super().__init__(world, name, clock_error)
        slots = world.rng.choice((1, 2, 4))
        self.services = self.build(
            slots=slots,
            private_bucket=self.driver("private"),
            public_bucket=self.driver("public"),
            jobs_queue=self.driver("jobs"),
            results_queue=self.driver("results"),
            cruncher=SimCruncher(self, slots),
            files=InlineThreads(),
        )
        add_worker(self.services)


class BuryingQueue(MemoryQueue):
    """A queue in memory that lists its dead letters."""

    buried: list[str]

    def _bury(self, entry: Any) -> None:
        super()._bury(entry)
        self.buried.append(entry.message.body)


class Combined(Head):
    """A combined process without its HTTP: its queues are in its memory, and die with it."""

    kind = "combined"
    services_used = (*Head.services_used, *Worker.services_used)
    queue_driver = "memory"

    def __init__(self, world: World, name: str, clock_error: float = 0) -> None:
        Process.__init__(self, world, name, clock_error)
        slots = world.rng.choice((1, 2, 4))
        most = world.weather.most_receives
        jobs = BuryingQueue("jobs", JOBS_VISIBILITY, most, self.clock)
        jobs.buried = world.ledger.buried
        results = MemoryQueue("results", RESULTS_VISIBILITY, 10, self.clock, until_deleted=True)
        queues = {
            "jobs_queue": jobs,
            "results_queue": results,
            "dead_jobs_queue": jobs.dead,
            "dead_results_queue": results.dead,
        }
        self.services = self.build(
            slots=slots,
            store=self.driver("store"),
            private_bucket=self.driver("private"),
            public_bucket=self.driver("public"),
            cache=self.driver("cache"),
            identity=world.identity,
            result_slots=world.rng.choice((1, 3, 10)),
            cruncher=SimCruncher(self, slots),
            files=InlineThreads(),
            # A call of one cannot fail, but the process may die around it.
            **{
                name: SimDriver(self, f"{q.name} in memory", q, QueueError)
                for name, q in queues.items()
            },
        )
        add_web_loops(self.services)
        add_worker(self.services)
        self.profiles = self.services.profiles
        self.selection = self.services.selection
        self.intake = self.services.intake


#: Shared by all simulations: no test reads these metrics, and they are slow to make.
METRICS = Metrics()
