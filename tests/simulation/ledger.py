"""
What was committed in a simulation, and the invariants that must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReactorTime

from fxprofile.model.avatars import QUARANTINED, Status
from fxprofile.model.keys import DEFAULT_AVATAR_ID, image_url, public_key, public_keys
from fxprofile.model.ports import Body, ObjectInfo
from fxprofile.model.profiles import Credentials
from fxprofile.profiles.read import profile_variant
from tests.drivers.sql.inline import result_of
from tests.simulation.drivers import READS
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.cruncher import pictures_of

#: The URL of an image.
IMAGES = "http://images.example/a/{id}"

if TYPE_CHECKING:
    from tests.simulation.world import World


class Violation(Exception):
    """An invariant is broken."""


@dataclass
class Upload:
    """
    An upload that was committed.

    :ivar deleted: whether its owner has deleted it.
    :ivar superseded: whether a newer upload took its place while it was in processing.
    :ivar emptied: whether its original was overwritten with nothing since then: it must not be
        crunched any more.
    :ivar dropped: whether a message about it was lost, by an operator or otherwise: then its
        original stays until it expires.
    """

    id: str
    uid: str
    seq: int
    data: bytes
    deleted: bool = False
    dropped: bool = False
    superseded: bool = False
    emptied: bool = False

    @property
    def good(self) -> bool:
        return b"good" in self.data


class Ledger:
    """
    Records every upload, deletion and selection when it is committed.

    :ivar uploads: committed uploads, by id.
    :ivar marks: by uid, the number of the newest upload that was selected, or deleted
        together with everything: no older one may be selected from then on.
    :ivar buried: the dead letters of queues in memory, which no operator can redrive.
    :ivar quarantined: the uploaded bytes that an operator has quarantined.
    :ivar gone: the uids of deleted accounts: none of their data may be written any more.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.uploads: dict[str, Upload] = {}
        self.marks: dict[str, int] = {}
        self.selected: dict[str, str | None] = {}
        self.gone: set[str] = set()
        self.quarantined: list[bytes] = []
        self.buried: list[str] = []
        self._newest: dict[str, int] = {}
        # A worker that is suspended for longer than its lease may put an image before it
        # learns that, after other workers have finished the job and even the delete job; or a
        # put has a late effect after it has failed.  The service cannot know these objects;
        # only a sweep of the whole bucket finds them.
        self._late: set[str] = set()

    def fail(self, text: str) -> None:
        """Record a violation.  An exception would reach only the caller that found it."""
        self._world.violations.append(text)

    def committed(self, method: str, arguments: dict[str, Any], result: Any) -> None:
        """Record a transaction of the store."""
        if method == "accept":
            if arguments["uid"] in self.gone:
                self.fail(f"{arguments['avatar_id']} was accepted after its account was deleted")
            avatar = result.avatar
            data = self._world.private.objects.get(avatar.id)
            if data is None:
                self.fail(f"{avatar.id} was accepted without its original")
            else:
                self.uploads[avatar.id] = Upload(avatar.id, avatar.uid, avatar.seq, data)
                if data in self.quarantined:
                    self.fail(f"{avatar.id} was accepted after its picture was quarantined")
            self._newest[avatar.uid] = avatar.seq
            for avatar_id in result.superseded:
                self._supersede(self.uploads[avatar_id], arguments["keep"])
        elif method == "delete" and result:
            self.uploads[arguments["avatar_id"]].deleted = True
        elif method in ("delete_current", "delete_user"):
            for avatar_id in result:
                self.uploads[avatar_id].deleted = True
            uid = arguments["uid"]
            self.marks[uid] = max(self.marks.get(uid, 0), self._newest.get(uid, 0))
        if method == "delete_user":
            self.gone.add(arguments["uid"])
        if method not in ("accept", *READS):
            self._look_at_selections()
            self._look_at_removed()

    def _supersede(self, upload: Upload, keep: int) -> None:
        upload.superseded = True
        newer = [
            other.id
            for other in self.uploads.values()
            if other.uid == upload.uid and other.seq > upload.seq and not other.superseded
        ]
        if len(newer) < keep:
            self.fail(f"{upload.id} was superseded by {newer} alone")

    def _look_at_selections(self) -> None:
        for uid, avatar_id in self._world.state.selections():
            if avatar_id == self.selected.get(uid):
                continue
            self.selected[uid] = avatar_id
            if avatar_id is None:
                continue
            upload = self.uploads[avatar_id]
            if upload.superseded:
                self.fail(f"{avatar_id} was selected after it was superseded")
            if upload.deleted:
                self.fail(f"{avatar_id} was selected after it was deleted")
            if upload.data in self.quarantined:
                self.fail(f"{avatar_id} was selected after it was quarantined")
            if upload.seq <= self.marks.get(uid, 0):
                self.fail(f"{avatar_id} was selected after a newer one")
            self.marks[uid] = upload.seq
            self._look_at_pictures(upload)

    def _look_at_removed(self) -> None:
        names = self._world.state.names()
        for uid in self.gone.intersection(names):
            if names[uid] is not None:
                self.fail(f"{uid} has a name after the account was deleted")
            if self.selected.get(uid) is not None:
                self.fail(f"{uid} has an avatar after the account was deleted")

    def _look_at_pictures(self, upload: Upload) -> None:
        for name, (_, data) in pictures_of(upload.data).items():
            if self._world.public.objects.get(public_key(upload.id, name)) != data:
                self.fail(f"{upload.id} is selected without its picture {name}")

    def emptied(self, avatar_id: str) -> None:
        """Check that only a superseded original is emptied."""
        upload = self.uploads[avatar_id]
        upload.emptied = True
        if not upload.superseded:
            self.fail(f"the original of {avatar_id} was emptied")

    def read(self, avatar_id: str, length: int) -> None:
        """Check that no worker gets an original to crunch after it was emptied."""
        if length and self.uploads[avatar_id].emptied:
            self.fail(f"{avatar_id} is crunched although it was superseded")

    def put(self, key: str) -> None:
        """Record that an image was put."""
        if self._world.clock.seconds() == self._world.stood_still_until:
            self.late(key)

    def late(self, key: str) -> None:
        """Record that an image is put after its call has ended."""
        self._late.add(key[2:34])

    def removed(self, keys: Sequence[str]) -> None:
        """Check that no image of a selected avatar is deleted, unless it is quarantined."""
        for avatar_id in self.selected.values():
            if avatar_id is None or self.uploads[avatar_id].data in self.quarantined:
                continue
            if set(keys).intersection(public_keys(avatar_id)):
                self.fail(f"pictures of {avatar_id} were deleted while it was selected")

    def check_quiet(self) -> None:
        """Check every row, object and cached profile, when nothing is pending."""
        for upload in self.uploads.values():
            row = self._world.state.row(upload.id)
            if upload.deleted:
                if row is not None:
                    self.fail(f"{upload.id} was deleted, and is still {row.status}")
            elif row is None:
                self.fail(f"{upload.id} was accepted, and is gone")
            else:
                self._check_row(upload, row)
        for uid, avatar_id in self._world.state.selections():
            if (
                avatar_id is not None
                and self._world.state.row(avatar_id).status is not Status.READY
            ):
                self.fail(f"the avatar of {uid} is not ready")
        self._check_public()
        if not self._world.kept_may_be_old:
            self._check_kept()

    def _check_kept(self) -> None:
        for uid, avatar_id in self._world.state.selections():
            variant = profile_variant(Credentials(uid, ("profile",)))
            text = result_of(self._world.cache.lookup(uid=uid, variant=variant)).value
            if text is None:
                continue
            expected = image_url(IMAGES, avatar_id or DEFAULT_AVATAR_ID)
            if json.loads(text)["fields"]["avatar"] != expected:
                self.fail(f"an old profile of {uid} is kept")

    def _check_row(self, upload: Upload, row: Any) -> None:
        mark = self.marks.get(upload.uid, 0)
        if row.status is Status.READY:
            if self.selected.get(upload.uid) != upload.id:
                self.fail(f"{upload.id} is ready and not selected")
            if upload.data in self.quarantined:
                self.fail(f"{upload.id} is quarantined, and is still shown")
        elif row.status is Status.REPLACED:
            if upload.seq > mark and not upload.superseded:
                self.fail(f"{upload.id} was replaced by nothing")
        elif row.status is not Status.FAILED:
            self.fail(f"{upload.id} is still {row.status}")
        elif row.error == QUARANTINED and upload.data in self.quarantined:
            pass
        elif upload.good and not (row.error == "dead" and self._is_dead(upload)):
            self.fail(f"{upload.id} is good, and failed: {row.error}")
        elif not upload.good and row.error not in ("corrupt", "crashed", "dead", "lost"):
            self.fail(f"{upload.id} failed for an odd reason: {row.error}")
        if not upload.good and row.status is not Status.FAILED and not upload.superseded:
            self.fail(f"{upload.id} is no image, and is {row.status}")

    def _is_dead(self, upload: Upload) -> bool:
        dead = [entry.body for entry in self._world.dead_jobs.entries] + self.buried
        return upload.dropped or any(upload.id in body for body in dead)

    def _check_public(self) -> None:
        known = {
            upload.id
            for upload in self.uploads.values()
            if not upload.deleted and self._world.state.row(upload.id).status is Status.READY
        }
        # A failed upload whose job died may have left images; they are deleted when its row is.
        forgiven = {
            upload.id
            for upload in self.uploads.values()
            if not upload.deleted
            and self._world.state.row(upload.id).status is Status.FAILED
            and upload.data not in self.quarantined
        }
        found = {key[2:34] for key in self._world.public.objects}
        if orphans := found - known - forgiven - self._late:
            self.fail(f"pictures that nobody knows: {sorted(orphans)}")
        for avatar_id in known:
            self._look_at_pictures(self.uploads[avatar_id])

    def check_end(self) -> None:
        """Check what remains when every temporary row has expired."""
        if left := self.gone.intersection(self._world.state.names()):
            self.fail(f"rows of the deleted accounts {sorted(left)} are still there")
        rows = self._world.state.rows()
        for row in rows:
            if row.status is not Status.READY:
                self.fail(f"{row.id} is still {row.status}, {row.error}")
        expected = {key for row in rows for key in public_keys(row.id, ["png"])}
        if odd := set(self._world.public.objects) ^ expected:
            self.fail(f"the public bucket is wrong about {sorted(odd)}")
        for avatar_id in self._world.private.objects:
            upload = self.uploads.get(avatar_id)
            if upload is None or upload.deleted or not self._is_dead(upload):
                self.fail(f"the original of {avatar_id} is still there")


class WatchedStore:
    """The shared store; it reports every transaction to the ledger."""

    def __init__(self, inner: Any, ledger: Ledger) -> None:
        self._inner = inner
        self._ledger = ledger

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        inner = getattr(self._inner, method)

        async def call(**arguments: Any) -> Any:
            result = await inner(**arguments)
            self._ledger.committed(method, arguments, result)
            return result

        setattr(self, method, call)
        return call


class PrivateBucket(MemoryBucket):
    """The private bucket; it reports to the ledger which originals are emptied and read."""

    def __init__(self, clock: IReactorTime, ledger: Ledger) -> None:
        super().__init__(clock)
        self._ledger = ledger

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        await super().put(key=key, body=body, length=length, content_type=content_type)
        if not length:
            self._ledger.emptied(key)

    async def get(self, *, key: str, as_file: bool = False) -> tuple[ObjectInfo, Body]:
        info, body = await super().get(key=key)
        self._ledger.read(key, info.length)
        return info, body


class PublicBucket(MemoryBucket):
    """The public bucket; it reports every change to the ledger."""

    def __init__(self, clock: IReactorTime, ledger: Ledger) -> None:
        super().__init__(clock)
        self._ledger = ledger

    async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
        await super().put(key=key, body=body, length=length, content_type=content_type)
        self._ledger.put(key)

    async def delete(self, *, keys: Sequence[str]) -> None:
        self._ledger.removed(keys)
        await super().delete(keys=keys)
