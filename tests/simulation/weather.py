"""
The faults of a simulation, drawn from its random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

#: The drivers that may fail, by their names in a trace.
DRIVERS = (
    *("private", "public", "jobs", "results", "dead", "dead results", "store", "cache"),
    "crunch",
)

#: Rates of failing calls; most drivers rarely fail.
RATES = (0.0, 0.0, 0.02, 0.1, 0.3)

#: Seconds until a call that hangs fails.
TIMEOUT = 30

#: Seconds after such an error within which the call may still have its effect.
LATE = 5

#: Seconds by which the clock of a machine is set wrong.
CLOCK_STEP = 3600


@dataclass(frozen=True)
class Fate:
    """
    The fate of one call.

    :ivar before: seconds until it has its effect.
    :ivar after: seconds from there to its result.
    :ivar error: ``before`` or ``after`` the effect, or ``hangs``.
    :ivar late: of a call that hangs: None if it has no effect, 0 if it has it at once, and
        otherwise so many seconds after its error.
    :ivar kill: the process dies ``before`` or ``after`` the effect.
    """

    before: float = 0
    after: float = 0
    error: str = ""
    late: float | None = None
    kill: str = ""


FINE = Fate()


class Weather:
    """
    The faults of a simulation until :attr:`end`; from then on there are none.

    :ivar end: seconds after which the faults end.
    :ivar duplicates: the rate of messages that are sent twice, or come back after their deletion.
    :ivar delays: the rate of messages that are not visible at once.
    :ivar most_receives: receives after which a message is a dead letter.
    :ivar retry_delays: of the pollers, in seconds.
    :ivar haste: the probability that a user acts again at once.
    :ivar pauses: when the whole simulation is suspended, and for how many seconds.
    :ivar quarantines: when an operator quarantines a picture.
    :ivar clock_steps: when the clock of a machine is set, and by how many seconds.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.end = rng.choice((30, 120, 400, 1000)) * rng.uniform(0.5, 1.5)
        self.calm = False
        self.rates = {driver: rng.choice(RATES) for driver in DRIVERS}
        self.outages = {
            rng.choice(DRIVERS): (begin := rng.uniform(0, self.end), begin + rng.expovariate(0.01))
            for _ in range(rng.choice((0, 0, 1, 2)))
        }
        self._slow = rng.choice((0.0, 0.1, 0.5))
        self._seconds = rng.choice((0.01, 0.3, 3))
        self._kill = rng.choice((0.0, 0.002, 0.01))
        self.duplicates = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.delays = rng.choice((0.0, 0.0, 0.1, 0.5))
        self.most_receives = rng.choice((1, 2, 3, 5))
        self.retry_delays = rng.choice(((10, 30, 120, 600), (10, 20), (10,)))
        self.haste = rng.choice((0.0, 0.5, 0.9))
        self.pauses = [
            (rng.uniform(0, self.end), rng.uniform(1, 150)) for _ in range(rng.choice((0, 0, 1, 2)))
        ]
        self.clock_steps = [
            (rng.uniform(0, self.end), rng.choice((-CLOCK_STEP, CLOCK_STEP)))
            for _ in range(rng.choice((0, 0, 1, 2)))
        ]
        self.quarantines = [rng.uniform(0, self.end) for _ in range(rng.choice((0, 0, 1, 2)))]
        # When the disk has room for pictures and rows but not for originals, and when for neither.
        self._low = self._span(rng.choice((0, 0, 0, 1)))
        self._full = self._span(rng.choice((0, 0, 0, 1)))
        self._helpers_die = rng.choice((0.0, 0.0, 0.1, 0.5))

    def _span(self, times: int) -> tuple[float, float]:
        """Return the begin and the end of something that happens once, or never."""
        begin = self._rng.uniform(0, self.end)
        return begin, begin + times * self._rng.expovariate(0.01)

    def has_room(self, driver: str, now: float) -> bool:
        """
        Return whether the disk has room for what a driver writes.

        :param now: seconds since the simulation began.
        """
        if self.calm:
            return True
        is_low = self._low[0] <= now < self._low[1]
        is_full = self._full[0] <= now < self._full[1]
        return not is_full and not (is_low and driver == "private")

    def helper_dies(self) -> float:
        """Return for how many seconds a worker cannot crunch from now on; mostly 0."""
        return self._rng.expovariate(0.1) if self.happens(self._helpers_die) else 0

    def fate(self, driver: str, now: float) -> Fate:
        """
        Return the fate of a call of a driver.

        :param now: seconds since the simulation began.
        """
        if self.calm:
            return FINE
        rng = self._rng
        begin, end = self.outages.get(driver, (0, 0))
        if begin <= now < end:
            return Fate(error="before") if rng.random() < 0.8 else self._hangs(driver)
        if rng.random() < self._kill:
            return Fate(kill=rng.choice(("before", "after")))
        before = after = 0.0
        if rng.random() < self._slow:
            before = rng.expovariate(1 / self._seconds)
            after = rng.expovariate(1 / self._seconds)
        if rng.random() >= self.rates.get(driver, 0):
            return Fate(before, after) if before else FINE
        error = rng.choice(("before", "after", "hangs"))
        return self._hangs(driver) if error == "hangs" else Fate(before, after, error)

    def _hangs(self, driver: str) -> Fate:
        if self._rng.random() < 0.7:
            return Fate(error="hangs")
        late = self._rng.choice((0, self._rng.uniform(0, LATE)))
        return Fate(error="hangs", late=late)

    def happens(self, chance: float) -> bool:
        """Return whether a fault of this probability happens; never after the end."""
        return not self.calm and chance > 0 and self._rng.random() < chance
