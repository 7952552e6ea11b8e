"""
Decide which avatar a user has.

Results come in any order, more than once, and late.  The store decides each transition
by itself; this module says what follows from it: whom to tell, and which objects have
to go.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.notifier import Notifier
from fxprofile.model.avatars import Avatar, Status
from fxprofile.model.errors import DriverError
from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import Job, Message, Op, Result, ResultStatus
from fxprofile.model.ports import IProfileStore
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.outbox import Outbox

#: A result that another process applied is seen after at most so many seconds.
LOOK_AGAIN = 0.5


class NotTheOwner(Exception):
    """The avatar belongs to somebody else."""


class Selection:
    """
    Applies results, deletes avatars, and lets others wait for a result.

    :param invalidator: invalidates the cached profiles of users whose avatar changes.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        store: IProfileStore,
        outbox: Outbox,
        invalidator: ProfileInvalidator,
        metrics: Metrics,
        clock: IReactorTime,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._invalidator = invalidator
        self._metrics = metrics
        self._clock = clock
        # Notified when an avatar changes status; keyed by avatar id.
        self._notifier = Notifier()

    async def handle(self, message: Message) -> None:
        """
        Apply a message of the results queue, for :class:`fxprofile.worker.poller.Poller`.

        :raises MalformedMessage: if the message is not a result.
        :raises DriverError: if it could not be applied; it has to be delivered again.
        """
        result = Result.decode(message.body)
        await self.apply(result)
        self._metrics.results.labels(result.status.value).inc()

    async def apply(self, result: Result) -> None:
        """
        Apply what a worker reports.  Doing so again changes nothing.

        :raises DriverError: if it could not be applied; it has to come again.
        """
        now = self._clock.seconds()
        if result.status is ResultStatus.READY:
            await self._ready(result, now)
        elif result.status is ResultStatus.FAILED:
            avatar = await self._store.failed(
                avatar_id=result.id, reason=result.reason or "crashed", now=now
            )
            self._wake(result.id)
            await self._delete_again(result.id, avatar)
        else:
            await self._store.deleted(avatar_id=result.id, now=now)
            self._wake(result.id)

    async def _ready(self, result: Result, now: float) -> None:
        before = await self._store.avatar(avatar_id=result.id)
        previous = None
        if before is not None:
            previous = (await self._store.profile(uid=before.uid)).avatar_id
        avatar = await self._store.ready(
            avatar_id=result.id,
            variants=result.variants,
            placeholder=result.placeholder,
            now=now,
        )
        self._wake(result.id)
        if avatar is not None and avatar.status is Status.READY:
            await self._invalidator.profile_changed(avatar.uid)
            if previous is not None and previous != avatar.id:
                await self._outbox.try_to_send(previous)
        else:
            await self._delete_again(result.id, avatar)

    async def clean_up(self, avatar_id: str) -> bool:
        """
        Delete once more what a job, of which there is no result, may have put.

        :returns: whether the avatar is one that is being deleted, or gone.
        :raises DriverError: if it is not sure to be deleted.
        """
        return await self._delete_again(avatar_id, await self._store.avatar(avatar_id=avatar_id))

    async def _delete_again(self, avatar_id: str, avatar: Avatar | None) -> bool:
        """
        Send a delete job for an avatar that was deleted, or lost, while it was crunched:
        the worker may have put objects after the last one was done.

        Whoever reports such an avatar has to come again if this fails, even if the row
        owes the job: it would forget that when an earlier delete job is done.
        """
        if avatar is None:
            await self._outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
        elif avatar.status in (Status.DELETING, Status.REPLACED):
            await self._store.redelete(avatar_id=avatar_id)
            await self._outbox.send(avatar)
        else:
            return False
        return True

    async def give_up(self, avatar_id: str, reason: str) -> bool:
        """
        A job will never be done: its row fails.

        :returns: whether there was a row that waited for it.
        """
        avatar = await self._store.avatar(avatar_id=avatar_id)
        if avatar is None or avatar.status is not Status.PROCESSING:
            return False
        await self._store.failed(avatar_id=avatar_id, reason=reason, now=self._clock.seconds())
        self._wake(avatar_id)
        return True

    async def wait(self, avatar: Avatar, seconds: float) -> Avatar:
        """
        Wait until an avatar is no longer ``processing``.

        :returns: the row at the end of the wait, whatever its status.
        """
        deadline = self._clock.seconds() + seconds
        while True:
            rest = deadline - self._clock.seconds()
            # Listen before looking, or a result between the two would be missed.
            with self._notifier.subscribe(avatar.id) as subscription:
                try:
                    row = await self._store.avatar(avatar_id=avatar.id)
                    if row is None:
                        # Deleted in the meantime, by another request of its owner.
                        return replace(avatar, status=Status.DELETING)
                    avatar = row
                except DriverError as error:
                    # The upload is accepted, so its client does not hear of this.
                    self._log.warn("Cannot look at {id}: {error}", id=avatar.id, error=error)
                if avatar.status is not Status.PROCESSING or rest <= 0:
                    return avatar
                await subscription.wait(self._clock, min(rest, LOOK_AGAIN))

    def _wake(self, avatar_id: str) -> None:
        self._notifier.notify(avatar_id)

    async def delete(self, *, uid: str, avatar_id: str | None) -> bool:
        """
        Delete an avatar, or the present one and whatever is being processed.

        :param avatar_id: None for the present one.
        :returns: whether there was one.
        :raises NotTheOwner: if it is somebody else's.
        :raises StoreError: if it could not be done.
        """
        now = self._clock.seconds()
        if avatar_id is None:
            ids = list(await self._store.delete_current(uid=uid, now=now))
        elif avatar_id == DEFAULT_AVATAR_ID:
            return True
        else:
            avatar = await self._store.avatar(avatar_id=avatar_id)
            if avatar is None or avatar.status is Status.DELETING:
                # Whoever deleted it may have died before telling of it.
                await self._invalidator.invalidate(uid)
                return False
            if avatar.uid != uid:
                raise NotTheOwner(avatar_id)
            deleted = await self._store.delete(avatar_id=avatar_id, uid=uid, now=now)
            ids = [avatar_id] if deleted else []
        await self._follow_deletion(uid, ids)
        return bool(ids)

    async def delete_user(self, uid: str) -> None:
        """
        Delete the profile and every avatar of a user.

        :raises StoreError: if it could not be done; it has to be tried again.
        """
        ids = await self._store.delete_user(uid=uid, now=self._clock.seconds())
        await self._follow_deletion(uid, list(ids))

    async def _follow_deletion(self, uid: str, ids: list[str]) -> None:
        # Even if there was nothing: whoever did this before may have died right here.
        await self._invalidator.profile_changed(uid)
        await self._outbox.try_to_send(*ids)
        for avatar_id in ids:
            self._wake(avatar_id)
