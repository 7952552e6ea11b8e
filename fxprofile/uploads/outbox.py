"""
The jobs that rows owe.

A row in ``processing`` owes a crunch job, one in ``deleting`` or ``replaced`` a delete
job.  The row is committed first and is the truth; the job follows, and ``job_sent``
notes it.  A process that dies between the two leaves a row that the repair loop finds:
a job may be sent twice, and never less than once.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import DriverError
from fxprofile.model.messages import Job, Op
from fxprofile.model.ports import IProfileStore, IQueue

_OPS = {
    Status.PROCESSING: Op.CRUNCH,
    Status.DELETING: Op.DELETE,
    Status.REPLACED: Op.DELETE,
}


class Outbox:
    """Puts on the jobs queue what rows owe."""

    _log = Logger()

    def __init__(self, *, jobs: IQueue, store: IProfileStore, clock: IReactorTime) -> None:
        self._jobs = jobs
        self._store = store
        self._clock = clock

    async def send(self, avatar: Avatar) -> None:
        """
        Send the job of a row, and note it.  A row that owes nothing is passed over.

        :raises QueueError: if it could not be sent.
        :raises StoreError: if it could not be noted; it will then be sent again.
        """
        op = _OPS.get(avatar.status)
        if op is None:
            return
        await self.send_job(Job(op=op, id=avatar.id))
        await self._store.job_sent(
            avatar_id=avatar.id, status=avatar.status, now=self._clock.seconds()
        )

    async def send_job(self, job: Job) -> None:
        """
        Send a job for which there is no row.

        :raises QueueError: if it could not be sent.
        """
        await self._jobs.send(body=job.encode(self._clock.seconds()))

    async def try_to_send(self, *avatar_ids: str) -> None:
        """Send what these rows owe; what fails is left to the repair loop."""
        for avatar_id in avatar_ids:
            try:
                avatar = await self._store.avatar(avatar_id=avatar_id)
                if avatar is not None:
                    await self.send(avatar)
            except DriverError as error:
                self._log.warn(
                    "The job of avatar {id} is left to the repair loop: {error}",
                    id=avatar_id,
                    error=error,
                )
