"""
``fxprofile-admin orphans``: find objects that no row needs, and ready avatars without pictures.

There should be neither.  But a worker that was suspended for longer than its lease may put a
picture after its avatar was deleted, and die before it reports that; a queue may lose messages
that it holds for too long; a bucket may be restored from an older copy.  Only a comparison of
everything finds what that leaves.

Buckets and rows are read in the order of the ids, a page at a time, so the memory needed does
not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.admin.shared import commands
from fxprofile.admin.shared.output import Members, listing, moment
from fxprofile.admin.shared.tools import AvatarRecord, Tools, avatar_records, head, where
from fxprofile.drivers.sql.schema import avatars
from fxprofile.model.avatars import Status
from fxprofile.model.errors import StoreError
from fxprofile.model.keys import PUBLIC_PREFIX, id_of_public_key, is_id, public_keys
from fxprofile.model.ports import IBucket, IProfileStore, ObjectInfo
from fxprofile.uploads.selection import Selection

_log = Logger()

#: Age in hours from which an object may be called an orphan.
GRACE: Final = 48

#: The share of all avatars that one run may delete, unless ``--most`` gives a number.
SHARE: Final = 0.01

#: The members that are listed of each kind of finding.
_COLUMNS: Final = {
    "orphans": ("avatar", "row", "bytes", "modified"),
    "broken": ("avatar", "uid", "missing", "updated"),
}

#: The length of the progress bar.
_STEPS: Final = 1000

#: Objects or rows of one page.
PAGE: Final = 10_000

#: So many findings of one kind are checked a second time.  With more than these the cause is
#: not that users were deleted while the sweep ran.
RECHECKED: Final = 1000


#: Return at most so many rows whose ids sort after this one, in the order of the ids.
Rows = Callable[[str, int], Awaitable[Sequence[AvatarRecord]]]


@click.command(cls=commands.AdminCommand)
@click.option("--delete", is_flag=True, help="Send a delete job for each orphan.")
@click.option(
    "--most",
    type=click.IntRange(min=1),
    help="With --delete: delete nothing if there are more than this.  [default: 1 % of all]",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=1),
    default=GRACE,
    metavar="HOURS",
    help="The age from which an object may be an orphan.",
)
@commands.limit_option(help="How many of each kind to list.")
@commands.yes_option
@commands.with_tools
async def orphans(
    tools: Tools, delete: bool, most: int | None, grace: float, limit: int
) -> commands.Answer:
    """
    Find objects that no row needs, and ready avatars without their pictures.

    Reads both buckets and all rows. With --delete the worker removes the orphans, by
    ordinary delete jobs; if they are more than 1 % of all avatars, check first that this is
    the right database, and then give --most. The status is 1 if there are orphans that were
    not deleted, or avatars without their pictures: their users have to upload them again,
    or the bucket has to be restored.
    """
    if delete:
        commands.require_yes()
    await tools.open_database()
    sweep = sweep_of(tools, grace=grace * 3600)
    with commands.progress("Comparing", length=_STEPS) as bar:
        report = await sweep.find(lambda share: bar.update(int(share * _STEPS) - bar.pos))
    about = _members(report, limit)
    number = len(report.orphans)
    allowed = most or math.ceil(report.avatars * SHARE)
    text, errors = "\n".join(_lines(about)), []
    if delete and number > allowed:
        errors.append(
            f"nothing was deleted: {number} orphans of {report.avatars} avatars are more"
            f" than {allowed}; if {where(tools.database_url)} is the right database, add"
            f" --most={number}"
        )
    elif delete and number:
        commands.confirm(f"Delete {number} orphans?", text)
        about["sent"] = await sweep.remove(report)
        text = f"Sent {about['sent']} delete jobs; the worker removes the objects."
    left = report.broken or (report.orphans and about["sent"] is None)
    text += f"\n\n{_outcome(about)}"
    return commands.Answer(about, text.strip(), status=1 if left else 0, errors=errors)


def _members(report: SweepReport, limit: int) -> Members:
    return {
        "looked_at": {
            "rows": report.rows,
            "pictures": report.pictures,
            "originals": report.originals,
        },
        "orphans_total": len(report.orphans),
        "orphans": [
            {
                "avatar": found.id,
                "row": found.status,
                "objects": [info.key for info in found.objects],
                "bytes": sum(info.length for info in found.objects),
                "modified": moment(max(info.modified for info in found.objects)),
            }
            for found in report.orphans[:limit]
        ],
        "broken_total": len(report.broken),
        "broken": [
            {
                "avatar": found.id,
                "uid": found.row and found.row.uid,
                "missing": found.missing,
                "updated": found.row and moment(found.row.updated),
            }
            for found in report.broken[:limit]
        ],
        "sent": None,
    }


def _lines(about: Members) -> Iterator[str]:
    read = about["looked_at"]
    yield (
        f"Read {read['rows']} rows, the pictures of {read['pictures']} avatars,"
        f" and {read['originals']} originals."
    )
    for kind, columns in _COLUMNS.items():
        found, total = about[kind], about[f"{kind}_total"]
        if found:
            yield f"\n{kind} ({total}):\n{listing(found, *columns)}"
        if total > len(found):
            yield f"… and {total - len(found)} more"


def _outcome(about: Members) -> str:
    lines = []
    if about["sent"] is None and about["orphans_total"]:
        lines.append(f"{about['orphans_total']} orphans: --delete lets the worker remove them.")
    if about["broken_total"]:
        lines.append(
            f"PROBLEM: {about['broken_total']} ready avatars lack pictures: restore the public"
            " bucket, or let their users upload them again."
        )
    return "\n".join(lines) or ("All is well." if about["sent"] is None else "")


@dataclass(frozen=True)
class Found:
    """
    Everything that belongs to one avatar.

    :ivar row: its row, if it has one.
    :ivar objects: its objects in both buckets.
    """

    id: str
    row: AvatarRecord | None
    objects: Sequence[ObjectInfo]

    @property
    def status(self) -> Status | None:
        """The status of the row."""
        return None if self.row is None else Status(self.row.status)

    @property
    def pictures(self) -> Sequence[ObjectInfo]:
        """Its objects in the public bucket."""
        return [info for info in self.objects if info.key.startswith(PUBLIC_PREFIX)]

    @property
    def missing(self) -> list[str]:
        """The keys of the pictures that do not exist."""
        existing = {info.key for info in self.pictures}
        return [key for key in public_keys(self.id, ["png"]) if key not in existing]

    def is_orphan(self, before: float) -> bool:
        """
        Whether it has objects, all older than a time, that no row needs.

        Rows that are ready, processing, or failed and not yet retried need them; a row with
        a pending delete job removes them itself.
        """
        if any(info.modified >= before for info in self.objects):
            return False
        done = self.row is None or (self.status is Status.REPLACED and self.row.owed_since is None)
        return done and bool(self.objects)

    def is_broken(self) -> bool:
        """Whether it is ready but lacks a picture."""
        return self.status is Status.READY and bool(self.missing)


@dataclass
class SweepReport:
    """
    The findings of one sweep.

    :ivar rows: how many rows there are.
    :ivar originals: how many avatars have an original; likewise ``pictures``.
    :ivar avatars: how many avatars have objects of any kind.
    :ivar broken: ready avatars that lack a picture.
    """

    rows: int = 0
    originals: int = 0
    pictures: int = 0
    avatars: int = 0
    orphans: list[Found] = field(default_factory=list)
    broken: list[Found] = field(default_factory=list)


@dataclass(kw_only=True)
class Sweep:
    """
    A comparison of both buckets with all rows.

    :param rows: see :data:`Rows`.
    :param selection: sends delete jobs.
    :param grace: age in seconds from which an object may be an orphan: longer than any
        upload or job takes.
    :param page: see :data:`PAGE`.
    """

    private: IBucket
    public: IBucket
    rows: Rows
    store: IProfileStore
    selection: Selection
    clock: IReactorTime
    grace: float
    page: int = PAGE

    async def find(self, progress: Callable[[float], object] = lambda share: None) -> SweepReport:
        """
        Compare, and change nothing.

        :param progress: called with the share that is done, from 0 to 1.

        Check the figures before you delete: with the wrong database, every picture is an
        orphan.

        :raises DriverError: if something cannot be read to its end.
        """
        before = self.clock.seconds() - self.grace
        report = SweepReport()
        async for found in self._avatars():
            # Ids are random, and read in their order.
            progress(int(found.id[:4], 16) / 0x10000)
            report.rows += found.row is not None
            report.originals += len(found.objects) > len(found.pictures)
            report.pictures += bool(found.pictures)
            report.avatars += bool(found.objects)
            for kind, applies in (
                (report.orphans, found.is_orphan(before)),
                (report.broken, found.is_broken()),
            ):
                # Pages are read at different times: the avatar may have been deleted since.
                if applies and (len(kind) >= RECHECKED or await self._is_unchanged(found)):
                    kind.append(found)
        progress(1)
        return report

    async def remove(self, report: SweepReport) -> int:
        """
        Send delete jobs for the orphans that still no row needs.

        :returns: how many were sent.
        :raises DriverError: if one could not be sent; those before it were.
        """
        return sum([await self.selection.clean_up(found.id) for found in report.orphans])

    async def _is_unchanged(self, found: Found) -> bool:
        avatar = await self.store.avatar(avatar_id=found.id)
        if (avatar and avatar.status) != found.status:
            return False
        if found.is_broken():
            return any([await head(self.public, key) is None for key in found.missing])
        checks = [
            await head(self.public if info in found.pictures else self.private, info.key)
            for info in found.objects
        ]
        return any(checks)

    async def _avatars(self) -> AsyncIterator[Found]:
        """
        Merge the three streams, which are in the order of the avatar ids.

        :raises StoreError: if one is not in that order, as no finding could be trusted.
        """
        streams: tuple[AsyncIterator[tuple[str, ObjectInfo | AvatarRecord]], ...] = (
            self._objects(self.public, PUBLIC_PREFIX, id_of_public_key),
            self._objects(self.private, "", lambda key: key if is_id(key) else None),
            self._all_rows(),
        )
        heads = [await anext(stream, None) for stream in streams]
        while ids := [item[0] for item in heads if item is not None]:
            avatar_id = min(ids)
            taken: list[ObjectInfo | AvatarRecord] = []
            for number, stream in enumerate(streams):
                while (item := heads[number]) is not None and item[0] == avatar_id:
                    taken.append(item[1])
                    heads[number] = await anext(stream, None)
                if item is not None and item[0] < avatar_id:
                    raise StoreError(f"{item[0]} came after {avatar_id}, out of order")
            objects = [item for item in taken if isinstance(item, ObjectInfo)]
            rows = [item for item in taken if not isinstance(item, ObjectInfo)]
            yield Found(avatar_id, row=rows[0] if rows else None, objects=objects)

    async def _objects(
        self, bucket: IBucket, prefix: str, id_of: Callable[[str], str | None]
    ) -> AsyncIterator[tuple[str, ObjectInfo]]:
        """Yield the objects of avatars, each with the avatar id in its key."""
        after, number = "", 0
        while page := await bucket.list(prefix=prefix, after=after, limit=self.page):
            for info in page:
                if (avatar_id := id_of(info.key)) is not None:
                    yield avatar_id, info
            after, number = page[-1].key, number + len(page)
            _log.info("Listed {number} objects of {bucket}", number=number, bucket=bucket)

    async def _all_rows(self) -> AsyncIterator[tuple[str, AvatarRecord]]:
        after = ""
        while page := await self.rows(after, self.page):
            for row in page:
                yield row.id, row
            after = page[-1].id


def sweep_of(tools: Tools, *, grace: float) -> Sweep:
    """
    Return a sweep of the buckets and the database of the settings; the database is open.

    :param grace: see :class:`Sweep`.
    """

    async def rows(after: str, limit: int) -> Sequence[AvatarRecord]:
        return await avatar_records(tools, avatars.c.id > after, limit=limit)

    return Sweep(
        private=tools.private_bucket,
        public=tools.public_bucket,
        rows=rows,
        store=tools.store,
        selection=tools.selection,
        clock=tools.reactor,
        grace=grace,
    )
