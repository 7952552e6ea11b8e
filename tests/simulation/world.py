"""
A simulation of the whole service on one clock, with faults drawn from a seed.

Several web processes and workers share buckets, queues and a store.  Calls of drivers fail
before or after their effect, hang, have a late effect, are duplicated and reordered; processes
are killed at any call and started again.  Then the faults end, the clock runs until nothing is
pending, and the ledger is checked.

The invariants are those of the service: no accepted upload is lost; a selected avatar has its
images at every moment; no object without a row remains; the newest upload wins; no work is
repeated forever.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from fxprofile.admin.orphans import GRACE, Sweep
from fxprofile.drivers.memory.expiring import MemoryProfileCache
from fxprofile.model.avatars import Avatar, QuarantineEntry, Status
from fxprofile.model.errors import DriverError
from fxprofile.model.messages import Job
from fxprofile.model.profiles import Account, Credentials
from fxprofile.uploads.accept import IN_DOUBT_AGE
from fxprofile.uploads.repair import PERIOD
from tests.drivers.sql.inline import result_of
from tests.simulation.drivers import SimQueue
from tests.simulation.ledger import Ledger, PrivateBucket, PublicBucket, Violation, WatchedStore
from tests.simulation.processes import (
    JOBS_VISIBILITY,
    METRICS,
    RESULTS_VISIBILITY,
    Combined,
    Head,
    Process,
    Worker,
)
from tests.simulation.state import MemoryState, State
from tests.simulation.users import User
from tests.simulation.weather import FINE, TIMEOUT, Fate, Weather
from tests.support.fakes.identity import FakeIdentity

#: Seconds after the last fault until every hanging call and every in-doubt commit has ended.
SETTLE = IN_DOUBT_AGE + 2 * TIMEOUT

#: Seconds after the last fault within which nothing may be pending any more.
QUIET_IN = 4 * 3600

#: Seconds between two checks of that.
LOOK = 20

#: Seconds after which every temporary row has expired.
LONG = 32 * 86400

#: More steps than this mean an endless loop.
MOST_STEPS = 400_000

#: When a simulation begins, in seconds since the epoch.
BIRTH = 1_000_000

JUNK = ("junk", "{}", '{"v":1,"op":"crunch","id":"x"}')


class AnyIdentity(FakeIdentity):
    """Knows every user."""

    async def account(self, *, token: str, credentials: Credentials) -> Account:
        return Account(email="somebody@example.com")


class World:
    """
    One simulation.

    :param seed: of its random numbers.
    :param state: its store; one in memory by default.
    :param mistakes: careless classes, by the service of its processes that they replace.
    :param combined: whether one process has both roles, with its queues in memory.
    :param trace: a list to which every call is appended.
    :ivar violations: the invariants that were broken.
    :ivar kept_may_be_old: whether a process died, or a call had an unknown outcome, between a
        change of a profile and its invalidation: then the cached profile stays until it expires.
    :ivar stood_still_until: when the whole simulation was last suspended.
    """

    def __init__(
        self,
        seed: int,
        *,
        state: State | None = None,
        mistakes: Mapping[str, type] | None = None,
        combined: bool = False,
        trace: list[str] | None = None,
    ) -> None:
        self.seed = seed
        self.state = state or MemoryState()
        self.mistakes = mistakes or {}
        self._combined = combined
        self.rng = rng = Random(seed)
        self.clock = Clock()
        self.clock.advance(BIRTH)
        self.weather = Weather(rng)
        self.violations: list[str] = []
        self.over = False
        self.kept_may_be_old = False
        self.stood_still_until = 0.0
        self.unlucky: set[bytes] = set()
        self.metrics = METRICS
        self.ledger = Ledger(self)
        self.private = PrivateBucket(self.clock, self.ledger)
        self.public = PublicBucket(self.clock, self.ledger)
        self.jobs = SimQueue(self, "jobs", JOBS_VISIBILITY, self.weather.most_receives)
        self.jobs.dead = self.dead_jobs = SimQueue(self, "dead", JOBS_VISIBILITY)
        self.results = SimQueue(self, "results", RESULTS_VISIBILITY, 10)
        self.results.dead = self.dead_results = SimQueue(self, "dead results", RESULTS_VISIBILITY)
        self.cache = MemoryProfileCache(self.clock, ttl=3600)
        self.identity = AnyIdentity()
        self.shared = {
            "private": self.private,
            "public": self.public,
            "jobs": self.jobs,
            "results": self.results,
            "dead": self.dead_jobs,
            "dead results": self.dead_results,
            "store": WatchedStore(self.state.store, self.ledger),
            "cache": self.cache,
        }
        self.processes: list[Process] = []
        self._graves: list[tuple[Deferred[None], type[DriverError]]] = []
        self._trace = trace
        self._number = 0
        self._steps = 0
        self.digest = 0

    # The course of a simulation.

    def run(self) -> None:
        """
        Run the simulation.

        :raises Violation: if an invariant is broken.
        """
        globalLogPublisher.addObserver(self._log)
        try:
            self._begin()
            self._until(self.clock.seconds() + self.weather.end)
            self._clear_up()
            self._until(self.clock.seconds() + SETTLE)
            self._until_quiet()
            self.ledger.check_quiet()
            self._operate()
            self._until_quiet()
            self.ledger.check_quiet()
            self.clock.advance(LONG)
            self._until(self.clock.seconds() + 2 * PERIOD)
            self._until_quiet()
            self._sweep()
            self._until_quiet()
            self.ledger.check_end()
            self._check()
        finally:
            globalLogPublisher.removeObserver(self._log)
            self._end()

    def _begin(self) -> None:
        rng = self.rng
        if self._combined:
            self._start(Combined)
        else:
            for _ in range(rng.choice((1, 2, 3))):
                self._start(Head)
            for _ in range(rng.choice((1, 1, 2))):
                self._start(Worker)
        for _ in range(rng.choice((1, 1, 2, 3))):
            user = User(self, self.new_uid())
            living = Deferred.fromCoroutine(user.live(rng.randint(1, 8)))
            living.addErrback(self.unexpected)
        for when, seconds in self.weather.pauses:
            self.clock.callLater(when, self._pause, seconds)
        for when, seconds in self.weather.clock_steps:
            self.clock.callLater(when, self._set_a_clock, seconds)
        for _ in range(rng.choice((0, 0, 1, 3))):
            self.clock.callLater(rng.uniform(0, self.weather.end), self._replace)
        for when in self.weather.quarantines:
            self.clock.callLater(when, self._quarantine)
        for queue in () if self._combined else (self.jobs, self.results):
            if rng.random() < 0.1:
                self.clock.callLater(rng.uniform(0, self.weather.end), queue.put, rng.choice(JUNK))
            if rng.random() < 0.1:
                self.clock.callLater(rng.uniform(0, self.weather.end), self._purge, queue)

    def _start(self, kind: type[Process], clock_error: float | None = None) -> None:
        if self.over:
            return
        if clock_error is None:
            clock_error = self.rng.uniform(-2, 2)
        process = kind(self, f"{kind.kind} {self.next_number()}", clock_error)
        self.processes.append(process)
        process.start()

    def died(self, process: Process) -> None:
        """Replace a killed process after a while."""
        self.note(process.name, "", "died", {}, None)
        self.kept_may_be_old = True
        error = process.clock.error
        self.clock.callLater(self.rng.expovariate(0.1), self._start, type(process), error)

    def _replace(self) -> None:
        """Stop a process in an orderly way, and start another."""
        living = [process for process in self.processes if process.alive]
        if living and not self.over:
            process = self.rng.choice(living)
            self.note(process.name, "", "is asked to end", {}, None)
            self.kept_may_be_old = True
            if not self._combined:
                self._start(type(process))
            stopping = process.stop()
            stopping.addBoth(lambda _: self._stopped(process))

    def _stopped(self, process: Process) -> None:
        if not process.dead:
            process.dead = True
            if self._combined:
                # Two would not see each other's queues.
                self._start(type(process))

    def _purge(self, queue: SimQueue) -> None:
        """Lose the messages of pending uploads that have not been received yet."""
        if self.over:
            return
        self.note("", queue.name, "is purged", {}, None)
        for row in self.state.rows():
            for entry in list(queue.entries):
                waits = row.status is Status.PROCESSING and not entry.receive_count
                if waits and row.id in entry.body:
                    queue.entries.remove(entry)
                    self.ledger.uploads[row.id].dropped = True

    def _pause(self, seconds: float) -> None:
        """Suspend the whole simulation, as a virtual machine may be."""
        self.note("", "", f"stands still for {seconds:.0f} s", {}, None)
        self.clock.rightNow += seconds
        self.stood_still_until = self.clock.seconds()

    def _set_a_clock(self, seconds: float) -> None:
        """Set the clock of a machine wrong, or right again."""
        process = self.rng.choice(self.processes)
        self.note(process.name, "", f"has its clock set by {seconds} s", {}, None)
        process.clock.error += seconds

    def _quarantine(self) -> None:
        """Let an operator quarantine a picture that somebody has uploaded."""
        uploads = [upload for upload in self.ledger.uploads.values() if upload.good]
        if uploads and not self.over:
            upload = self.rng.choice(uploads)
            entry = QuarantineEntry(
                created_by="operator",
                reason="test",
                source_digest=hashlib.sha256(upload.data).hexdigest(),
                avatar_id=upload.id,
            )
            self.note("", "", "is quarantined", {"id": upload.id}, None)
            self.ledger.quarantined.append(upload.data)
            result_of(self.state.store.quarantine(entry=entry, now=self.clock.seconds()))

    def _clear_up(self) -> None:
        """End the faults."""
        self.note("", "", "the storm is over", {}, None)
        self.weather.calm = True

    def _operate(self) -> None:
        """Let an operator redrive or drop the dead letters."""
        for dead, queue in ((self.dead_jobs, self.jobs), (self.dead_results, self.results)):
            for entry in list(dead.entries):
                dead.entries.remove(entry)
                if entry.body in JUNK:
                    continue
                if queue is self.results or self.rng.random() < 0.7:
                    queue.put(entry.body)
                    continue
                for upload in self.ledger.uploads.values():
                    if upload.id in entry.body:
                        upload.dropped = True

    def _sweep(self) -> None:
        """Let an operator find and delete the objects without a row."""
        head = self.any_head()
        assert head is not None

        async def some_rows(after: str, limit: int) -> Sequence[Any]:
            rows = (row for row in self.state.rows() if row.id > after)
            return sorted(rows, key=lambda row: row.id)[:limit]

        sweep = Sweep(
            private=self.private,
            public=self.public,
            rows=some_rows,
            store=self.state.store,
            selection=head.selection,
            clock=self.clock,
            grace=GRACE * 3600,
        )
        findings = result_of(sweep.find())
        for found in findings.broken:
            self.ledger.fail(f"{found.id} is ready without {found.missing}")
        result_of(sweep.remove(findings))

    # Time.

    def _until(self, when: float) -> None:
        clock = self.clock
        while clock.calls and clock.calls[0].getTime() <= when:
            clock.rightNow = max(clock.rightNow, clock.calls[0].getTime())
            clock.advance(0)
            self._check()
        clock.rightNow = max(clock.rightNow, when)
        clock.advance(0)
        self._check()

    def _until_quiet(self) -> None:
        began = self.clock.seconds()
        while not self.is_quiet():
            self._until(self.clock.seconds() + LOOK)
            if self.clock.seconds() - began > QUIET_IN:
                self.ledger.fail(f"something goes on for ever: {', '.join(self._unrest())}")
                self._check()

    def is_quiet(self) -> bool:
        """Return whether nothing is pending."""
        return not any(True for _ in self._unrest())

    def _unrest(self) -> Iterator[str]:
        """Yield what is pending."""
        for queue in (self.jobs, self.results):
            if queue.entries:
                yield f"{len(queue.entries)} messages on {queue.name}: {queue.entries[0].body}"
        for row in self.state.rows():
            if row.owed_since is not None:
                yield f"{row.id} is {row.status}"
        for entry in self.dead_jobs.entries:
            if entry.body not in JUNK:
                row = self.state.row(Job.decode(entry.body).id)
                if row is None or row.status not in (Status.FAILED, Status.READY):
                    yield f"the next repair settles the dead {entry.body}"
        for entry in self.dead_results.entries:
            if entry.body not in JUNK:
                yield f"the next repair applies the dead {entry.body}"

    def _check(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            self.violations.append("it is in an endless loop")
        if self.violations:
            raise Violation(f"seed {self.seed}: {'; '.join(self.violations)}")

    def _end(self) -> None:
        """End all pending work, so that nothing of this simulation remains on the reactor."""
        self.over = True
        for process in self.processes:
            process.stop()
        while self._graves:
            deferred, error = self._graves.pop()
            if not deferred.called:
                deferred.errback(error("the world is over"))
        for _ in range(4):
            self.clock.advance(1000)

    # Used by its processes and users.

    def grave(self, error: type[DriverError]) -> Deferred[None]:
        """Return a Deferred for a call of a dead process, which does not fire before the end."""
        waiting: Deferred[None] = Deferred()
        self._graves.append((waiting, error))
        return waiting

    @property
    def age(self) -> float:
        """Seconds since the simulation began."""
        return self.clock.seconds() - BIRTH

    def next_number(self) -> int:
        """Return a new number."""
        self._number += 1
        return self._number

    def new_uid(self) -> str:
        """Return the uid of a new account."""
        return f"{self.next_number():032x}"

    def any_head(self) -> Head | None:
        """Return a web process that accepts requests, if there is one."""
        heads = [p for p in self.processes if p.alive and isinstance(p, Head)]
        return self.rng.choice(heads) if heads else None

    def unexpected(self, failure: Failure) -> None:
        """Record an unexpected error."""
        if not self.over:
            self.violations.append(f"unexpected: {failure.getTraceback()}")

    def _log(self, event: LogEvent) -> None:
        if "log_failure" in event or event["log_level"] is LogLevel.critical:
            failure = event.get("log_failure")
            trace = failure.getTraceback() if failure else ""
            self.violations.append(f"logged: {formatEvent(event)}\n{trace}")

    def note(
        self, who: str, driver: str, what: str, arguments: dict[str, Any], fate: Fate | None
    ) -> None:
        """Append an event to the trace."""
        brief = ",".join(_brief(value) for value in arguments.values())
        line = f"{self.age:10.3f} {who:10} {driver:8} {what}({brief})"
        if fate is not None and fate != FINE:
            line += f" {fate}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self._trace is not None:
            self._trace.append(line)


def _brief(value: Any) -> str:
    if isinstance(value, Avatar):
        return f"{value.id[:6]}={value.status}"
    if isinstance(value, float):
        return f"{value:.3f}"
    message = getattr(value, "message_id", None)
    if message is not None:
        return f"{message}:{value.body[:80]}"
    if isinstance(value, (str, int, list, tuple)):
        return str(value)[:100]
    return type(value).__name__
