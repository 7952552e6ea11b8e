"""
The loops that repair what a crash or a failure left behind.

Every web process runs them, and only the one that holds the lease in the database does
anything.  Each run is bounded; what is left waits for the next.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.services import Repeating
from fxprofile.model.avatars import Status
from fxprofile.model.errors import DriverError, MalformedMessage
from fxprofile.model.messages import Job, Message, Op, Result
from fxprofile.model.ports import BATCH, IProfileStore, IQueue
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.accept import Intake
from fxprofile.uploads.outbox import Outbox
from fxprofile.uploads.selection import Selection

#: Seconds between two runs of the outbox loop, and how long a row may owe its job
#: before the loop takes it for forgotten.
OUTBOX_PERIOD = 10
OUTBOX_AGE = 5

#: Seconds between two runs of the other loops.
PERIOD = 60

#: Seconds without a result after which a job is sent again.
STUCK_AGE = 600

#: Seconds after which an upload that is still processing has failed.
EXPIRE_AGE = 86400

#: Seconds that failed uploads, with their originals, and replaced ones are remembered.
FAILED_AGE = 14 * 86400
REPLACED_AGE = 86400

#: Rows or messages of one run.
LIMIT = 100

#: Seconds that the lease lasts: longer than any pause between two renewals.
LEASE = 40


class Repair(Service):
    """
    The repair loops.

    :param dead: the dead-letter queue of the jobs, if it is known.
    :param dead_results: that of the results, if it is known.
    :param owner: names this process; made up if left out.
    """

    name = "repair loops"
    _log = Logger()

    def __init__(
        self,
        *,
        store: IProfileStore,
        outbox: Outbox,
        selection: Selection,
        intake: Intake,
        dead: IQueue | None,
        dead_results: IQueue | None,
        metrics: Metrics,
        clock: IReactorTime,
        owner: str | None = None,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._selection = selection
        self._intake = intake
        self._dead = dead
        self._dead_results = dead_results
        self._metrics = metrics
        self._clock = clock
        self._owner = owner or secrets.token_hex(8)
        self._last_slow_run: float | None = None
        self._loop = Repeating(clock, OUTBOX_PERIOD, self.run, "repair")

    def startService(self) -> None:
        super().startService()
        self._loop.startService()

    def stopService(self) -> Deferred[None]:
        if not self.running:
            return succeed(None)
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._loop.stopService()
        try:
            await self._store.resign(owner=self._owner)
        except DriverError as error:
            self._log.warn("The lease will have to run out: {error}", error=error)

    async def run(self) -> None:
        """
        One run of whatever is due, if this process leads.

        :raises DriverError: if nobody knows whether it leads.
        """
        await self._intake.settle_doubts()
        now = self._clock.seconds()
        leads = False
        try:
            leads = await self._store.leadership(owner=self._owner, now=now, seconds=LEASE)
        finally:
            # Who cannot ask may have lost it to another process.
            self._metrics.leader.set(leads)
        if not leads:
            return
        await self._try(self.send_unsent)
        if self._last_slow_run is None or now - self._last_slow_run >= PERIOD:
            self._last_slow_run = now
            await self._try(self.send_stuck_again)
            await self._try(self.expire)
            await self._try(self.apply_dead_letters)
            await self._try(self.apply_dead_results)
            await self._try(self.count)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        # A queue that is down must not keep what needs only the database from its turn.
        try:
            await step()
        except DriverError as error:
            self._log.warn("Cannot {step}: {error}", step=step.__name__, error=error)

    async def send_unsent(self) -> None:
        """Send the jobs that rows have owed for a while."""
        before = self._clock.seconds() - OUTBOX_AGE
        for avatar in await self._store.unsent(before=before, limit=LIMIT):
            await self._outbox.send(avatar)
            self._metrics.repairs.labels("outbox").inc()

    async def send_stuck_again(self) -> None:
        """Send the jobs again that were sent long ago and have no result."""
        before = self._clock.seconds() - STUCK_AGE
        for avatar in await self._store.stuck(sent_before=before, limit=LIMIT):
            self._log.warn("Sending the job of avatar {id} again", id=avatar.id)
            await self._outbox.send(avatar)
            self._metrics.repairs.labels("stuck").inc()

    async def expire(self) -> None:
        """Give up uploads that nobody could process, and forget old ones."""
        now = self._clock.seconds()
        for avatar_id in await self._store.expire(
            processing_before=now - EXPIRE_AGE, now=now, limit=LIMIT
        ):
            self._log.error("Upload {id} is given up", id=avatar_id)
            self._metrics.repairs.labels("expire").inc()
        purged = await self._store.purge(
            failed_before=now - FAILED_AGE,
            replaced_before=now - REPLACED_AGE,
            now=now,
            limit=LIMIT,
        )
        self._metrics.repairs.labels("purge").inc(purged)

    async def apply_dead_letters(self) -> None:
        """
        Turn the rows of dead crunch jobs ``failed``.

        Such a message stays on the dead-letter queue, for operators to look at.  A dead
        job of an avatar that is being deleted, or gone, is of no use to them: what it
        may have left behind is deleted by a new job, and the message goes.
        """
        if self._dead is not None:
            await self._settle(self._dead, self._is_settled)

    async def apply_dead_results(self) -> None:
        """
        Apply results that could not be applied for long: the database may be back.

        What is no result stays on the dead-letter queue, for operators to look at.
        """
        if self._dead_results is not None:
            await self._settle(self._dead_results, self._is_applied)

    async def _settle(self, dead: IQueue, is_settled: Callable[[Message], Awaitable[bool]]) -> None:
        """Go through dead letters; those that are settled go, the others stay."""
        kept: list[Message] = []
        seen = 0
        try:
            while seen < LIMIT:
                messages = await dead.receive(max_messages=BATCH, wait=0)
                if not messages:
                    break
                seen += len(messages)
                kept.extend(messages)
                for message in messages:
                    if await is_settled(message):
                        await dead.delete(message=message)
                        kept.remove(message)
        finally:
            for message in kept:
                await self._put_back(dead, message)

    async def _is_settled(self, message: Message) -> bool:
        """Do what a dead letter asks for.  Whether nobody needs it any longer."""
        try:
            job = Job.decode(message.body)
        except MalformedMessage:
            return False
        if job.op is Op.CRUNCH and await self._selection.give_up(job.id, "dead"):
            self._log.error("The job of avatar {id} is dead", id=job.id)
            self._metrics.repairs.labels("dead").inc()
            return False
        if not await self._selection.clean_up(job.id):
            return False
        self._log.warn("Avatar {id} is deleted by a new job: the last is dead", id=job.id)
        self._metrics.repairs.labels("clean up").inc()
        return True

    async def _is_applied(self, message: Message) -> bool:
        """Apply a dead result.  Whether it was one."""
        try:
            result = Result.decode(message.body)
        except MalformedMessage:
            return False
        await self._selection.apply(result)
        self._log.warn("The dead result of avatar {id} was applied", id=result.id)
        self._metrics.repairs.labels("dead results").inc()
        return True

    async def _put_back(self, dead: IQueue, message: Message) -> None:
        try:
            await dead.extend(message=message, visibility=0)
        except DriverError as error:
            self._log.warn("A dead letter stays hidden for a while: {error}", error=error)

    async def count(self) -> None:
        """Set the gauges of rows in work, and of dead letters."""
        counts = await self._store.counts()
        for status in (Status.PROCESSING, Status.DELETING):
            self._metrics.rows.labels(status.value).set(counts.get(status, 0))
        for name, dead in (("jobs", self._dead), ("results", self._dead_results)):
            if dead is not None:
                depth = await dead.depth()
                self._metrics.dead_letters.labels(name).set(depth.visible + depth.in_flight)
