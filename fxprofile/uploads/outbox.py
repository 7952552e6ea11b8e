"""
The transactional outbox: send the jobs that rows have pending.

A row in ``processing`` has a pending crunch job, one in ``deleting`` or ``replaced`` a
pending delete job.  The row is committed first and is the source of truth; the job is sent
next, and then ``job_sent`` records it.  If the process dies in between, the repair loop
finds the row and sends the job: each job is sent at least once.  A client does not wait for the
record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.tasks import briefly, detached
from fxprofile.model.avatars import QUARANTINED, Avatar, Status
from fxprofile.model.errors import DriverError, QueueError
from fxprofile.model.messages import Job, Op
from fxprofile.model.ports import IProfileStore, IQueue
from fxprofile.telemetry import traces

_OPS = {
    Status.PROCESSING: Op.CRUNCH,
    Status.DELETING: Op.DELETE,
    Status.REPLACED: Op.DELETE,
}

#: Seconds that a client waits for jobs to be sent; sending then goes on without it.
SEND_WAIT: Final = 2.0


@dataclass(kw_only=True, eq=False)
class Outbox:
    """
    Sends the pending jobs of rows to the jobs queue.

    :ivar recovered: called after the first job that is sent after a failure.
    """

    _log = Logger()

    jobs: IQueue
    store: IProfileStore
    clock: IReactorTime
    recovered: Callable[[], None] | None = field(init=False, default=None)
    _failed: bool = field(init=False, default=False)

    async def send(self, avatar: Avatar) -> None:
        """
        Send the pending job of a row, if it has one, and record it as sent.

        :raises QueueError: if it could not be sent.
        :raises StoreError: if it could not be recorded; it will be sent again.
        """
        if await self._send(avatar):
            await self._record(avatar, lazy=False)

    async def _send(self, avatar: Avatar) -> bool:
        """Send the pending job of a row, and return whether it has one."""
        op = Op.DELETE if avatar.error == QUARANTINED else _OPS.get(avatar.status)
        if op is None:
            return False
        await self.send_job(Job(op=op, id=avatar.id))
        return True

    async def _record(self, avatar: Avatar, *, lazy: bool) -> None:
        now = self.clock.seconds()
        await self.store.job_sent(avatar_id=avatar.id, status=avatar.status, now=now, lazy=lazy)

    async def _try_to_record(self, avatar: Avatar) -> None:
        try:
            await self._record(avatar, lazy=True)
        except DriverError as error:
            self._log.warn(
                "Cannot record that the job of avatar {id} was sent; the repair loop will send it"
                " again: {error}",
                id=avatar.id,
                error=error,
            )

    async def send_job(self, job: Job) -> None:
        """
        Send a job, which need not have a row.

        :raises QueueError: if it could not be sent.
        """
        try:
            job = replace(job, traceparent=traces.traceparent())
            await self.jobs.send(body=job.encode(self.clock.seconds()))
        except QueueError:
            self._failed = True
            raise
        if self._failed:
            self._failed = False
            if self.recovered is not None:
                self.recovered()

    async def try_to_send(self, avatar: Avatar) -> None:
        """
        Send the pending job of a row; if that fails, the repair loop sends it later.

        After :data:`SEND_WAIT` seconds this returns, and sending goes on.
        """

        await briefly(self._try_to_send(avatar), SEND_WAIT, self.clock)

    async def _try_to_send(self, avatar: Avatar) -> None:
        try:
            if await self._send(avatar):
                detached(self._try_to_record(avatar))
        except DriverError as error:
            self._log_failed(avatar.id, error)

    async def try_to_send_by_id(self, *avatar_ids: str) -> None:
        """Send the pending jobs of rows; the same as :meth:`try_to_send`."""
        await briefly(self._send_by_id(avatar_ids), SEND_WAIT, self.clock)

    async def _send_by_id(self, avatar_ids: Sequence[str]) -> None:
        for avatar_id in avatar_ids:
            try:
                avatar = await self.store.avatar(avatar_id=avatar_id)
                if avatar is not None:
                    await self._try_to_send(avatar)
            except DriverError as error:
                self._log_failed(avatar_id, error)

    def _log_failed(self, avatar_id: str, error: DriverError) -> None:
        self._log.warn(
            "Cannot send the job of avatar {id}; the repair loop will send it: {error}",
            id=avatar_id,
            error=error,
        )
