"""
Hold buckets and rows against each other: find objects that no row needs, and rows whose
pictures are gone.

There should be neither.  But a worker that was held up for longer than its lease may put
a picture when everybody else is done with its avatar, and die before it says so; a queue
may lose what it holds for too long; a bucket may be restored from an older copy.  Only a
look through everything finds what that leaves.

Buckets and rows come in the order of the ids, a page at a time, so it takes little
memory however many there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.admin.shared.lookups import avatar_rows
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.avatars import Status
from fxprofile.model.errors import ObjectNotFound, StoreError
from fxprofile.model.keys import PUBLIC_PREFIX, id_of_public_key, is_id, public_keys
from fxprofile.model.ports import IBucket, IProfileStore, ObjectInfo
from fxprofile.uploads.selection import Selection

#: Objects or rows of one page.
PAGE: Final = 10_000

#: Findings of one kind that are looked at once more: with more than these something is
#: wrong that matters more than who was deleted during the look.
LOOKS: Final = 1000


class Row(Protocol):
    """
    What has to be known of a row of the avatars table.

    :ivar owed_since: None once its job is done.
    :ivar updated: when the status last changed.
    """

    id: str
    uid: str
    status: str
    owed_since: float | None
    updated: float


#: Gives at most so many rows whose ids sort after this one, in the order of the ids.
Rows = Callable[[str, int], Awaitable[Sequence[Row]]]


@dataclass(frozen=True)
class Found:
    """
    All that there is of one avatar.

    :ivar row: its row, if it has one.
    :ivar pictures: what of it is in the public bucket.
    :ivar original: what of it is in the private bucket.
    """

    id: str
    row: Row | None
    pictures: tuple[ObjectInfo, ...]
    original: ObjectInfo | None

    @property
    def status(self) -> Status | None:
        """The status of the row."""
        return None if self.row is None else Status(self.row.status)

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """All of its objects."""
        return self.pictures if self.original is None else (*self.pictures, self.original)

    @property
    def missing(self) -> list[str]:
        """The keys of the pictures that are not there."""
        there = {info.key for info in self.pictures}
        return [key for key in public_keys(self.id, ["png"]) if key not in there]

    def is_orphan(self, before: float) -> bool:
        """
        Whether it has objects, all older than a time, that no row needs.

        Rows that are ready, or processed, or failed and yet to be tried again, need
        them; one that owes a delete job will see to them.
        """
        if any(info.modified >= before for info in self.objects):
            return False
        done = self.row is None or (self.status is Status.REPLACED and self.row.owed_since is None)
        return done and bool(self.objects)

    def is_broken(self) -> bool:
        """Whether it is ready, and not all of its pictures are there."""
        return self.status is Status.READY and bool(self.missing)


@dataclass
class Findings:
    """
    What a look has found.

    :ivar rows: how many there are; so for ``originals`` and ``pictures``, by avatar.
    :ivar avatars: how many have objects of any kind.
    :ivar broken: ready avatars without all of their pictures.
    """

    rows: int = 0
    originals: int = 0
    pictures: int = 0
    avatars: int = 0
    orphans: list[Found] = field(default_factory=list)
    broken: list[Found] = field(default_factory=list)


class Sweep:
    """
    Looks through both buckets and all rows.

    :param rows: see :data:`Rows`.
    :param selection: sends delete jobs.
    :param grace: seconds that an object has to be there before it may be an orphan:
        longer than any upload or job is on its way.
    :param page: see :data:`PAGE`.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        private: IBucket,
        public: IBucket,
        rows: Rows,
        store: IProfileStore,
        selection: Selection,
        clock: IReactorTime,
        grace: float,
        page: int = PAGE,
    ) -> None:
        self._private = private
        self._public = public
        self._rows = rows
        self._store = store
        self._selection = selection
        self._clock = clock
        self._grace = grace
        self._page = page

    async def find(self) -> Findings:
        """
        Look, and change nothing.

        Whoever lets something be deleted had better look at the figures first: with the
        wrong database, every picture is an orphan.

        :raises DriverError: if something cannot be read to its end.
        """
        before = self._clock.seconds() - self._grace
        findings = Findings()
        async for found in self._avatars():
            findings.rows += found.row is not None
            findings.originals += found.original is not None
            findings.pictures += bool(found.pictures)
            findings.avatars += bool(found.objects)
            if found.is_orphan(before):
                await self._note(findings.orphans, found)
            elif found.is_broken():
                await self._note(findings.broken, found)
        return findings

    async def remove(self, findings: Findings) -> int:
        """
        Send delete jobs for the orphans, unless somebody needs them by now.

        :returns: how many were sent.
        :raises DriverError: if one could not be sent; those before it were.
        """
        return sum([await self._selection.clean_up(found.id) for found in findings.orphans])

    async def _note(self, noted: list[Found], found: Found) -> None:
        # Pages are read at different times: in between, an avatar may have been deleted.
        if len(noted) >= LOOKS or await self._is_still_so(found):
            noted.append(found)

    async def _is_still_so(self, found: Found) -> bool:
        avatar = await self._store.avatar(avatar_id=found.id)
        if (avatar and avatar.status) != found.status:
            return False
        for key in found.missing if found.is_broken() else [i.key for i in found.pictures]:
            if await self._is_there(self._public, key) != found.is_broken():
                return True
        return found.original is not None and await self._is_there(
            self._private, found.original.key
        )

    async def _is_there(self, bucket: IBucket, key: str) -> bool:
        try:
            await bucket.head(key=key)
        except ObjectNotFound:
            return False
        return True

    async def _avatars(self) -> AsyncIterator[Found]:
        """Everything, in the order of the ids."""
        pictures = _Ahead(self._pictures())
        originals = _Ahead(self._originals())
        rows = _Ahead(self._all_rows())
        while True:
            heads = [await stream.head() for stream in (pictures, originals, rows)]
            ids = [head for head in heads if head is not None]
            if not ids:
                return
            avatar_id = min(ids)
            yield Found(
                id=avatar_id,
                pictures=tuple(pictures.take(avatar_id) or ()),
                original=originals.take(avatar_id),
                row=rows.take(avatar_id),
            )

    async def _pictures(self) -> AsyncIterator[tuple[str, list[ObjectInfo]]]:
        together: list[ObjectInfo] = []
        last = ""
        # Those of one avatar come one after the other.
        async for info in self._objects(self._public, PUBLIC_PREFIX):
            avatar_id = id_of_public_key(info.key)
            if avatar_id is None:
                continue
            if avatar_id != last and together:
                yield last, together
                together = []
            last = avatar_id
            together.append(info)
        if together:
            yield last, together

    async def _originals(self) -> AsyncIterator[tuple[str, ObjectInfo]]:
        async for info in self._objects(self._private, ""):
            if is_id(info.key):
                yield info.key, info

    async def _objects(self, bucket: IBucket, prefix: str) -> AsyncIterator[ObjectInfo]:
        after, number = "", 0
        while page := await bucket.list(prefix=prefix, after=after, limit=self._page):
            for info in page:
                yield info
            after, number = page[-1].key, number + len(page)
            self._log.info("{number} objects of {bucket} so far", number=number, bucket=bucket)

    async def _all_rows(self) -> AsyncIterator[tuple[str, Row]]:
        after = ""
        while page := await self._rows(after, self._page):
            for row in page:
                yield row.id, row
            after = page[-1].id


def sweep_of(
    tools: Tools, *, grace: float, clock: IReactorTime | None = None, page: int = PAGE
) -> Sweep:
    """
    A sweep of the buckets and the database, which is open, that an operator has.

    :param grace: seconds that an object has to be there before it may be called an orphan.
    :param clock: other than the reactor only in tests.
    """
    return Sweep(
        private=tools.bucket("private"),
        public=tools.bucket("public"),
        rows=partial(avatar_rows, tools),
        store=tools.store,
        selection=tools.selection,
        clock=clock or tools.reactor,
        grace=grace,
        page=page,
    )


class _Ahead:
    """
    A stream of ids and what belongs to them, of which the next can be looked at.

    :raises StoreError: if the ids do not come in their order: then nothing that comes of
        it could be trusted.
    """

    def __init__(self, stream: AsyncIterator[tuple[str, Any]]) -> None:
        self._stream = stream
        self._next: tuple[str, Any] | None = None
        self._last = ""

    async def head(self) -> str | None:
        """The next id; None at the end."""
        if self._next is None:
            self._next = await anext(self._stream, None)
            if self._next is not None:
                if self._next[0] <= self._last:
                    raise StoreError(f"{self._next[0]} came after {self._last}, out of order")
                self._last = self._next[0]
        return None if self._next is None else self._next[0]

    def take(self, avatar_id: str) -> Any:
        """What belongs to this id, if it is the next one; it is then no longer."""
        if self._next is None or self._next[0] != avatar_id:
            return None
        found, self._next = self._next[1], None
        return found
