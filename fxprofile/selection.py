"""
Decide which avatar a user has.

Results come in any order, more than once, and late.  The store decides each transition
by itself; this module says what follows from it: whom to tell, and which objects have
to go.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.errors import DriverError
from fxprofile.interfaces import IProfileStore
from fxprofile.keys import DEFAULT_AVATAR_ID
from fxprofile.model import Avatar, Job, Op, Outcome, Result, Status
from fxprofile.outbox import Outbox
from fxprofile.profiles import Changes

#: A result that another process applied is seen after at most so many seconds.
LOOK_AGAIN = 0.5


class NotTheOwner(Exception):
    """The avatar belongs to somebody else."""


class Selection:
    """
    Applies results, deletes avatars, and lets others wait for a result.

    :param changes: is told whose profile changed.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        store: IProfileStore,
        outbox: Outbox,
        changes: Changes,
        clock: IReactorTime,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._changes = changes
        self._clock = clock
        self._waiting: dict[str, set[Deferred[None]]] = defaultdict(set)

    async def apply(self, result: Result) -> None:
        """
        Apply what a worker reports.  Doing so again changes nothing.

        :raises StoreError: if it could not be applied; it has to come again.
        """
        now = self._clock.seconds()
        if result.status is Outcome.READY:
            await self._ready(result, now)
        elif result.status is Outcome.FAILED:
            await self._store.failed(
                avatar_id=result.id, reason=result.reason or "crashed", now=now
            )
        else:
            await self._store.deleted(avatar_id=result.id, now=now)
        self._wake(result.id)

    async def _ready(self, result: Result, now: float) -> None:
        before = await self._store.avatar(avatar_id=result.id)
        previous = None
        if before is not None:
            previous = (await self._store.profile(uid=before.uid)).avatar_id
        avatar = await self._store.ready(avatar_id=result.id, variants=result.variants, now=now)
        if avatar is None:
            # Deleted while it was crunched: the worker has just put objects that no
            # row knows.
            await self._outbox.send_job(Job(op=Op.DELETE, id=result.id))
        elif avatar.status is Status.DELETING:
            await self._store.redelete(avatar_id=avatar.id)
            await self._outbox.try_to_send(avatar.id)
        elif avatar.status is Status.REPLACED:
            await self._outbox.try_to_send(avatar.id)
        elif avatar.status is Status.READY:
            if previous is not None and previous != avatar.id:
                await self._outbox.try_to_send(previous)
            await self._changes.announce(avatar.uid)

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
            woken = self._listen(avatar.id, min(rest, LOOK_AGAIN))
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
                if not woken.called:
                    woken.callback(None)
                return avatar
            await woken

    def _listen(self, avatar_id: str, seconds: float) -> Deferred[None]:
        woken: Deferred[None] = Deferred()
        late = self._clock.callLater(max(0, seconds), woken.callback, None)
        self._waiting[avatar_id].add(woken)

        def forget(outcome: Any) -> Any:
            if late.active():
                late.cancel()
            self._waiting[avatar_id].discard(woken)
            if not self._waiting[avatar_id]:
                del self._waiting[avatar_id]
            return outcome

        return woken.addBoth(forget)

    def _wake(self, avatar_id: str) -> None:
        for woken in list(self._waiting.get(avatar_id, ())):
            woken.callback(None)

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
        if not ids:
            return
        await self._changes.announce(uid)
        await self._outbox.try_to_send(*ids)
        for avatar_id in ids:
            self._wake(avatar_id)
