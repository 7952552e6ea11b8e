"""
The repair loops: reconcile rows with the queues after crashes and failures.

Every web process runs them, and only the leader, which holds a lease in the database, does
the work.  Each run is bounded; the rest waits for the next run.  The first job that is sent
after a failure starts a run at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from fxprofile.deferreds.services import Repeating
from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import DriverError, MalformedMessage
from fxprofile.model.messages import Job, Message, Op, Result
from fxprofile.model.ports import BATCH, IProfileStore, IQueue
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.selection import Selection

#: Seconds between two runs of the outbox loop, and the age from which it sends a pending
#: job: younger ones are being sent by the request that created them.
OUTBOX_PERIOD = 5
OUTBOX_AGE = 5

#: Seconds between two runs of the other loops.
PERIOD = 60

#: Seconds between two counts of rows and messages, for metrics.
COUNT_PERIOD = 15

#: The ages by which pending rows are counted, in seconds.
AGES = (0, 10, 60, 600, 3600)

#: Seconds without a result after which a job is sent again.
STUCK_AGE = 600

#: Seconds after which an upload that is still processing fails.
EXPIRE_AGE = 86400

#: Seconds for which failed uploads, with their originals, and replaced ones are kept.
FAILED_AGE = 14 * 86400
REPLACED_AGE = 86400

#: Seconds for which the data of a deleted account cannot be written: longer than any token is
#: valid, any request lasts, and any queue keeps a message (14 days for SQS).
TOMBSTONE_AGE = 30 * 86400

#: Seconds since a quarantine for which avatars are searched that show its picture: an upload or a
#: result may have been in flight, or the command may not have taken down all of them.
QUARANTINE_AGE = 3600

#: Rows or messages of one run; the outbox loop has no such limit.
LIMIT = 100

#: Jobs that are sent at the same time.
CONCURRENCY = 10

#: Seconds that the lease lasts: longer than any pause between two renewals.
LEASE = 40


@dataclass(kw_only=True, eq=False, repr=False)
class Repair(Repeating):
    """
    The repair loops.

    :param dead: the dead-letter queue of the jobs, if known.
    :param dead_results: the dead-letter queue of the results, if known.
    :param queues: the queues whose messages are counted.
    :param resend: whether the jobs of all pending rows are sent when this starts, because the
        queues are in memory.
    :param owner: the name of this process.
    """

    store: IProfileStore
    outbox: Outbox
    selection: Selection
    intake: Intake
    dead: IQueue | None
    dead_results: IQueue | None
    metrics: Metrics
    clock: IReactorTime
    owner: str
    queues: Sequence[IQueue] = ()
    resend: bool = False
    _has_leftovers: bool = field(init=False, default=False)
    _next_slow_run: float = field(init=False, default=0.0)
    _next_count: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        super().__init__(self.clock, OUTBOX_PERIOD, self.run, "repair")
        self.outbox.recovered = self.wake

    def stopService(self) -> Deferred[None]:
        """Stop the loops and release the lease."""
        if not self.running:
            return succeed(None)
        return Deferred.fromCoroutine(self._resign(super().stopService()))

    async def _resign(self, stopped: Deferred[None]) -> None:
        await stopped
        try:
            await self.store.resign(owner=self.owner)
        except DriverError as error:
            self._log.warn("Cannot release the lease; it will expire: {error}", error=error)

    async def run(self) -> None:
        """
        Run the loops that are due, if this process is the leader.

        :raises DriverError: if it is unknown who is the leader.
        """
        if self.resend:
            await self.send_lost()
            self.resend, self._has_leftovers = False, True
        await self.intake.resolve_in_doubt()
        now = self.clock.seconds()
        leads = False
        try:
            leads = await self.store.leadership(owner=self.owner, now=now, seconds=LEASE)
        finally:
            # If this fails, another process may have become the leader.
            self.metrics.leader.set(leads)
            if not leads:
                self.metrics.clear_totals()
        if not leads:
            return
        steps: list[Callable[[], Awaitable[None]]] = [self.send_unsent, self.measure_wait]
        if self._has_leftovers:
            steps.append(self.delete_leftovers)
        if now >= self._next_slow_run:
            self._next_slow_run = now + PERIOD
            steps += [self.send_stuck, self.expire, self.apply_dead_jobs]
            steps += [self.apply_dead_results, self.take_down]
        if now >= self._next_count:
            self._next_count = now + COUNT_PERIOD
            steps.append(self.count)
        for step in steps:
            # If a queue is unreachable, the steps that need only the database still run.
            try:
                await step()
            except DriverError as error:
                name = step.__name__
                self._log.warn("Repair step {step} failed: {error}", step=name, error=error)

    async def send_lost(self) -> None:
        """Send the jobs of all pending rows, those of the newest first."""
        await self.store.forget_jobs()
        while rows := await self.store.unsent(before=math.inf, limit=LIMIT, newest_first=True):
            await self._send(rows, "start")

    async def delete_leftovers(self) -> None:
        """Delete the originals of ready avatars: an earlier process ended before it did."""
        private, after = self.intake.private, ""
        while page := await private.list(prefix="", after=after, limit=LIMIT):
            after = page[-1].key
            for info in page:
                avatar = await self.store.avatar(avatar_id=info.key)
                if avatar is not None and avatar.status is Status.READY:
                    await private.delete(keys=[info.key])
        self._has_leftovers = False

    async def send_unsent(self) -> None:
        """Send jobs that have been pending for a while, as long as the lease allows."""
        began = self.clock.seconds()
        while self.clock.seconds() - began < LEASE / 2:
            rows = await self.store.unsent(before=began - OUTBOX_AGE, limit=CONCURRENCY)
            if not rows:
                return
            await self._send(rows, "outbox")
        self.wake()

    async def send_stuck(self) -> None:
        """
        Send jobs again that were sent long ago and have no result, if they are lost: if the queue
        has fewer messages than rows wait for one, at most as many as it lacks.
        """
        before = self.clock.seconds() - STUCK_AGE
        rows = await self.store.stuck(sent_before=before, limit=LIMIT)
        if not rows:
            return
        depth = await self.outbox.jobs.depth()
        pending = sum((await self.store.counts()).values())
        rows = rows[: max(0, pending - depth.visible - depth.in_flight)]
        for avatar in rows:
            self._log.warn("Avatar {id} has no result; sending its job again", id=avatar.id)
        await self._send(rows, "stuck")

    async def _send(self, rows: Sequence[Avatar], loop: str) -> None:
        """Send the jobs of rows, several at the same time; raise the first error at the end."""
        for first in range(0, len(rows), CONCURRENCY):
            some = rows[first : first + CONCURRENCY]
            sending = [Deferred.fromCoroutine(self.outbox.send(avatar)) for avatar in some]
            outcomes: list[object] = [o for _, o in await DeferredList(sending, consumeErrors=True)]
            failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
            self.metrics.repairs.labels(loop).inc(len(outcomes) - len(failures))
            for failure in failures:
                failure.raiseException()

    async def expire(self) -> None:
        """Fail uploads that have been processing for too long, and remove old rows."""
        now = self.clock.seconds()
        expired = await self.store.expire(processing_before=now - EXPIRE_AGE, now=now, limit=LIMIT)
        for avatar_id in expired:
            self._log.error("Upload {id} failed: it expired without a result", id=avatar_id)
            self.metrics.repairs.labels("expire").inc()
        purged = await self.store.purge(
            failed_before=now - FAILED_AGE,
            replaced_before=now - REPLACED_AGE,
            removed_before=now - TOMBSTONE_AGE,
            now=now,
            limit=LIMIT,
        )
        self.metrics.repairs.labels("purge").inc(purged)

    async def apply_dead_jobs(self) -> None:
        """
        Fail the uploads of dead-lettered crunch jobs.

        These messages stay on the dead-letter queue for operators.  A dead job of an avatar
        that is being deleted or was removed is useless to them: a new delete job removes
        what it may have put, and the message is deleted.
        """
        await self._process(self.dead, self._apply_dead_job)

    async def apply_dead_results(self) -> None:
        """
        Apply dead-lettered results, which failed because the database was unreachable.

        Malformed results stay on the dead-letter queue for operators.
        """
        await self._process(self.dead_results, self._apply_dead_result)

    async def _process(self, dead: IQueue | None, apply: Callable[[str], Awaitable[bool]]) -> None:
        """Apply dead letters; delete those for which this returns True, release the others."""
        if dead is None:
            return
        kept: list[Message] = []
        seen = 0
        try:
            while seen < LIMIT and (messages := await dead.receive(max_messages=BATCH, wait=0)):
                seen += len(messages)
                kept.extend(messages)
                for message in messages:
                    with suppress(MalformedMessage):
                        if await apply(message.body):
                            await dead.delete(message=message)
                            kept.remove(message)
        finally:
            for message in kept:
                try:
                    await dead.extend(message=message, visibility=0)
                except DriverError as error:
                    self._log.warn("Cannot release a dead letter: {error}", error=error)

    async def _apply_dead_job(self, body: str) -> bool:
        job = Job.decode(body)
        if job.op is Op.CRUNCH and await self.selection.fail(job.id, "dead"):
            self._log.error("The job of avatar {id} was dead-lettered", id=job.id)
            self.metrics.repairs.labels("dead").inc()
            return False
        if not await self.selection.clean_up(job.id):
            return False
        self._log.warn("A new delete job replaces the dead job of avatar {id}", id=job.id)
        self.metrics.repairs.labels("clean up").inc()
        return True

    async def _apply_dead_result(self, body: str) -> bool:
        result = Result.decode(body)
        await self.selection.apply(result)
        self._log.warn("The dead-lettered result of avatar {id} was applied", id=result.id)
        self.metrics.repairs.labels("dead results").inc()
        return True

    async def take_down(self) -> None:
        """Start to delete avatars that show a picture that was quarantined lately."""
        since = self.clock.seconds() - QUARANTINE_AGE
        for avatar in await self.store.quarantined(since=since, limit=LIMIT):
            if await self.selection.delete(uid=avatar.uid, avatar_id=avatar.id):
                self._log.warn("Avatar {id} is quarantined, and taken down", id=avatar.id)
                self.metrics.repairs.labels("quarantine").inc()
                if self.selection.cdn is not None:
                    await self.selection.cdn.purge([avatar.id])

    async def measure_wait(self) -> None:
        """Set the signal for autoscaling: how long the backlog makes a job wait."""
        since = (await self.store.backlog(limit=1, skip=0)).since
        age = 0 if since is None else max(0, self.clock.seconds() - since)
        # A job of no time would make any age infinite.
        self.metrics.autoscaling.set(age / max(self.selection.job_seconds, 0.01))

    async def count(self) -> None:
        """Set the gauges of pending rows, messages and dead letters."""
        counts = await self.store.counts()
        for status in (Status.PROCESSING, Status.DELETING):
            self.metrics.rows.labels(status.value).set(counts.get(status, 0))
        now = self.clock.seconds()
        numbers = await self.store.pending_since(times=[now - age for age in AGES])
        for age, number in zip(AGES, numbers, strict=True):
            self.metrics.ages.labels(age).set(number)
        for queue in self.queues:
            depth = await queue.depth()
            self.metrics.depth.labels(queue.name, "visible").set(depth.visible)
            self.metrics.depth.labels(queue.name, "in_flight").set(depth.in_flight)
            if depth.oldest is not None or not depth.visible:
                self.metrics.oldest.labels(queue.name).set(depth.oldest or 0)
        for name, dead in (("jobs", self.dead), ("results", self.dead_results)):
            if dead is not None:
                depth = await dead.depth()
                self.metrics.dead_letters.labels(name).set(depth.visible + depth.in_flight)
