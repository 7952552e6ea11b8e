"""
Find pictures that no row knows, and have them deleted.

There should be none: whatever puts pictures reports it, and whoever hears of it for an
avatar that was deleted meanwhile sends another delete job.  But a worker that was held
up for longer than its lease may put a picture when everybody else is done with its
avatar, and then fail; and a queue may lose what it holds for too long.  Nothing but a
look through the whole bucket finds what they leave.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime

from fxprofile.interfaces import IBucket, IProfileStore
from fxprofile.keys import PUBLIC_PREFIX, id_of_public_key
from fxprofile.model import ObjectInfo, Status
from fxprofile.selection import Selection

#: Seconds that a picture has to be there before it may be called forgotten: longer than
#: any job is on its way.
AGE = 2 * 86400

#: Objects of one look.
PAGE = 1000


@dataclass(frozen=True)
class Found:
    """
    What a look through the bucket has found.

    :ivar looked_at: how many avatars have pictures.
    :ivar orphans: the ids of those whose pictures nobody needs.
    """

    looked_at: int
    orphans: tuple[str, ...]


class Sweep:
    """
    Looks through the public bucket.

    :param selection: sends the delete jobs.
    :param age: see :data:`AGE`.
    :param page: see :data:`PAGE`.
    """

    def __init__(
        self,
        *,
        public: IBucket,
        store: IProfileStore,
        selection: Selection,
        clock: IReactorTime,
        age: float = AGE,
        page: int = PAGE,
    ) -> None:
        self._public = public
        self._store = store
        self._selection = selection
        self._clock = clock
        self._age = age
        self._page = page

    async def find(self) -> Found:
        """
        Look, and change nothing.

        Whoever lets something be deleted had better look at the figures first: with the
        wrong database, every picture is an orphan.

        :raises StorageError: if the bucket could not be read.
        :raises StoreError: if the database could not be.
        """
        before = self._clock.seconds() - self._age
        looked_at, orphans = 0, []
        async for avatar_id, youngest in self._avatars():
            looked_at += 1
            if youngest < before and await self._is_orphan(avatar_id):
                orphans.append(avatar_id)
        return Found(looked_at=looked_at, orphans=tuple(orphans))

    async def remove(self, found: Found) -> int:
        """
        Send delete jobs for what was found, unless somebody needs it by now.

        :returns: how many were sent.
        :raises DriverError: if one could not be sent; those before it were.
        """
        return sum([await self._selection.clean_up(avatar_id) for avatar_id in found.orphans])

    async def _is_orphan(self, avatar_id: str) -> bool:
        avatar = await self._store.avatar(avatar_id=avatar_id)
        return avatar is None or avatar.status in (Status.DELETING, Status.REPLACED)

    async def _avatars(self) -> AsyncIterator[tuple[str, float]]:
        """Each id that has pictures, and the time of its youngest one."""
        avatar_id, youngest = "", 0.0
        # The pictures of an avatar come one after the other.
        async for info in self._objects():
            found = id_of_public_key(info.key)
            if found is None:
                continue
            if found != avatar_id:
                if avatar_id:
                    yield avatar_id, youngest
                avatar_id, youngest = found, info.modified
            youngest = max(youngest, info.modified)
        if avatar_id:
            yield avatar_id, youngest

    async def _objects(self) -> AsyncIterator[ObjectInfo]:
        after = ""
        while True:
            page = await self._public.list(prefix=PUBLIC_PREFIX, after=after, limit=self._page)
            for info in page:
                yield info
            if not page:
                return
            after = page[-1].key
