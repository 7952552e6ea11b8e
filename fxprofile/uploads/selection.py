"""
Select a user's avatar: apply results, delete avatars, and wait for a result.

Results arrive in any order, repeatedly, and late.  The store decides each transition in one
transaction; this module does what follows: it wakes waiting uploads, invalidates the
cached profile and sends delete jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.notifier import Notifier
from fxprofile.deferreds.tasks import detached
from fxprofile.model.avatars import QUARANTINED, Avatar, Status
from fxprofile.model.errors import DriverError, Quarantined
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import Job, Message, Op, Result, ResultStatus
from fxprofile.model.ports import IProfileStore
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.outbox import Outbox

if TYPE_CHECKING:
    from fxprofile.uploads.cdn import CdnPurge

#: Results over which the duration of a job is averaged.
SMOOTHING = 20

#: Seconds between two lookups of an upload whose result another process may apply.
POLL = 0.5

#: Rows that are kept in memory for the requests that wait for them.
MAX_APPLIED = 1000


class NotTheOwner(Exception):
    """The avatar belongs to another user."""


@dataclass(kw_only=True, eq=False)
class Selection:
    """
    Applies results, deletes avatars, and waits for results.

    :meth:`handle` is the handler of the results queue.

    :param invalidator: invalidates the cached profiles of users whose avatar changes.
    :param cdn: purges quarantined pictures from a CDN, if configured.
    :ivar job_seconds: how long a worker works on an upload, by the latest results.
    """

    _log = Logger()

    store: IProfileStore
    outbox: Outbox
    invalidator: ProfileInvalidator
    metrics: Metrics
    clock: IReactorTime
    cdn: CdnPurge | None = None
    job_seconds: float = field(init=False, default=1.0)
    # Notified when an avatar changes status; keyed by avatar id.
    _notifier: Notifier = field(init=False, default_factory=Notifier)
    # The rows after the latest results; keyed by avatar id.
    _applied: dict[str, Avatar] = field(init=False, default_factory=dict)

    async def handle(self, message: Message) -> None:
        """
        Apply a message of the results queue.

        :raises MalformedMessage: if the message is not a result.
        :raises DriverError: if it could not be applied; it has to be delivered again.
        """
        result = Result.decode(message.body)
        await self.apply(result)
        self.metrics.results.labels(result.status.value).inc()
        if result.timing:
            seconds = sum(result.timing.values())
            self.job_seconds += (seconds - self.job_seconds) / SMOOTHING

    async def apply(self, result: Result) -> None:
        """
        Apply a result.  This is idempotent.

        :raises DriverError: if it could not be applied; it has to be delivered again.
        """
        now = self.clock.seconds()
        if result.status is ResultStatus.READY:
            await self._ready(result, now)
        elif result.status is ResultStatus.FAILED:
            avatar = await self.store.failed(
                avatar_id=result.id, reason=result.reason or "crashed", now=now
            )
            await self._follow_failure(result.id, avatar)
            await self._delete_again(result.id, avatar)
        else:
            avatar = await self.store.deleted(avatar_id=result.id, now=now)
            self._notifier.notify(result.id)
            if avatar is not None and avatar.error == QUARANTINED and self.cdn is not None:
                # Its pictures were public for a moment, under a URL that its owner has.
                detached(self.cdn.purge([avatar.id]))

    async def _ready(self, result: Result, now: float) -> None:
        try:
            applied = await self.store.ready(
                avatar_id=result.id,
                variants=result.variants,
                placeholder=result.placeholder,
                pixels_digest=result.pixels,
                now=now,
            )
        except Quarantined:
            await self._refuse(result.id, now)
            return
        avatar = applied.avatar
        self._notify(result.id, avatar)
        if avatar is not None and avatar.status is Status.READY:
            await self.invalidator.profile_changed(avatar.uid)
            if applied.replaced is not None:
                await self.outbox.try_to_send(applied.replaced)
        else:
            await self._delete_again(result.id, avatar)

    async def _refuse(self, avatar_id: str, now: float) -> None:
        """Fail an upload that is quarantined, and have the pictures made of it deleted."""
        avatar = await self.store.failed(avatar_id=avatar_id, reason=QUARANTINED, now=now)
        await self._follow_failure(avatar_id, avatar)
        self._log.warn("Avatar {id} is quarantined", id=avatar_id)
        if avatar is not None and avatar.status is Status.READY:
            # The result of a repeated job, which lacks the digest, came before this one.
            await self.delete(uid=avatar.uid, avatar_id=avatar_id)
        else:
            await self._delete_again(avatar_id, avatar)

    def _notify(self, avatar_id: str, avatar: Avatar | None) -> None:
        """Wake the requests that wait for a result."""
        if avatar is not None:
            self._applied.pop(avatar_id, None)
            self._applied[avatar_id] = avatar
            if len(self._applied) > MAX_APPLIED:
                del self._applied[next(iter(self._applied))]
        self._notifier.notify(avatar_id)

    async def clean_up(self, avatar_id: str) -> bool:
        """
        Send a delete job for objects that a job without a result may have put.

        :returns: whether the avatar is being deleted, was removed or failed as quarantined; for any
            other avatar no job is sent.
        :raises DriverError: if the job could not be sent.
        """
        return await self._delete_again(avatar_id, await self.store.avatar(avatar_id=avatar_id))

    async def _delete_again(self, avatar_id: str, avatar: Avatar | None) -> bool:
        """
        Send a delete job for an avatar that was deleted, replaced or quarantined while it was
        crunched: the worker may have put objects after an earlier delete job was done.

        If this fails, the result has to be delivered again.  A pending job in the row is not
        enough: the result of the earlier delete job would clear it.
        """
        if avatar is None:
            await self.outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
        elif avatar.status in (Status.DELETING, Status.REPLACED) or avatar.error == QUARANTINED:
            await self.store.redelete(avatar_id=avatar_id)
            await self.outbox.send(avatar)
        else:
            return False
        return True

    async def fail(self, avatar_id: str, reason: str) -> bool:
        """
        Fail an upload whose job was dead-lettered.

        :returns: whether it was still processing.
        """
        avatar = await self.store.avatar(avatar_id=avatar_id)
        if avatar is None or avatar.status is not Status.PROCESSING:
            return False
        now = self.clock.seconds()
        avatar = await self.store.failed(avatar_id=avatar_id, reason=reason, now=now)
        await self._follow_failure(avatar_id, avatar)
        return True

    async def _follow_failure(self, avatar_id: str, avatar: Avatar | None) -> None:
        self._notify(avatar_id, avatar)
        if avatar is not None:
            # It is no pending upload any more.
            await self.invalidator.invalidate(avatar.uid)

    async def wait(self, avatar: Avatar, seconds: float) -> Avatar:
        """
        Wait until an avatar has left the status ``processing``.

        :returns: the row at the end of the wait, whose status may still be ``processing``.
        """
        latest, looks = avatar, False

        async def has_result() -> bool:
            nonlocal latest, looks
            applied = self._applied.pop(avatar.id, None)
            if applied is not None:
                latest = applied
                return latest.status is not Status.PROCESSING
            if not looks:
                # The row was just read.
                looks = True
                return latest.status is not Status.PROCESSING
            try:
                row = await self.store.avatar(avatar_id=avatar.id)
                # A row that is gone was deleted by another request of its owner.
                latest = row or replace(avatar, status=Status.DELETING)
            except DriverError as error:
                # The upload is accepted, so this is no error for the client.
                self._log.warn("Cannot look up avatar {id}: {error}", id=avatar.id, error=error)
            return latest.status is not Status.PROCESSING

        await self._notifier.poll(
            avatar.id, has_result, clock=self.clock, seconds=seconds, period=POLL
        )
        return latest

    async def delete(self, *, uid: str, avatar_id: str | None) -> bool:
        """
        Delete one avatar, or the selected one and every upload in ``processing``.

        :param avatar_id: None for the selected avatar.
        :returns: whether there was such an avatar.
        :raises NotTheOwner: if the avatar belongs to another user.
        :raises StoreError: if it could not be deleted.
        """
        now = self.clock.seconds()
        if avatar_id is None:
            ids = list(await self.store.delete_current(uid=uid, now=now))
        elif avatar_id == DEFAULT_AVATAR_ID:
            return True
        else:
            avatar = await self.store.avatar(avatar_id=avatar_id)
            if avatar is None or avatar.status is Status.DELETING:
                # The process that deleted it may have died before the invalidation.
                await self.invalidator.invalidate(uid)
                return False
            if avatar.uid != uid:
                raise NotTheOwner(avatar_id)
            deleted = await self.store.delete(avatar_id=avatar_id, uid=uid, now=now)
            ids = [avatar_id] if deleted else []
        await self._follow_deletion(uid, ids)
        return bool(ids)

    async def delete_user(self, uid: str) -> None:
        """
        Delete the profile and every avatar of a user.

        :raises StoreError: if they could not be deleted; the caller has to try again.
        """
        ids = await self.store.delete_user(uid=uid, now=self.clock.seconds())
        await self._follow_deletion(uid, list(ids))

    async def _follow_deletion(self, uid: str, ids: list[str]) -> None:
        for avatar_id in ids:
            self._notifier.notify(avatar_id)
        # Even without ids: a process that deleted them earlier may have died at this point.
        await self.invalidator.profile_changed(uid)
        await self.outbox.try_to_send_by_id(*ids)
