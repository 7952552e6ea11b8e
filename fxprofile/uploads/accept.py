"""
Accept an upload: store the original, commit the row, send the job, in this order.

An original without a row is garbage that expires; a row without an original could never
be processed; so the original comes first.  The commit of the row accepts the upload.  A job
without a row would have no effect, so it comes last; if it cannot be sent now, the row
records it as pending and the repair loop sends it.

An upload may supersede older ones of its user.  Their originals are overwritten with nothing:
a worker that finds an empty original crunches nothing and deletes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as WaitTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.crunch.signature import SIGNATURE_BYTES, name_of_unsupported, sniff
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.tasks import briefly
from fxprofile.model.avatars import Avatar
from fxprofile.model.errors import (
    AccountUnknown,
    DriverError,
    ImageRefused,
    Quarantined,
    StoreError,
)
from fxprofile.model.keys import new_id, private_key
from fxprofile.model.messages import Job, Op
from fxprofile.model.ports import Accepted, Body, IBucket, IProfileStore
from fxprofile.profiles.invalidation import ProfileInvalidator
from fxprofile.uploads.outbox import SEND_WAIT, Outbox

#: Originals are never served, so they have no specific type.
ORIGINAL_TYPE = "application/octet-stream"

#: Seconds after which an in-doubt commit has either happened or never will.  Until then
#: its original must not be deleted, because the row may still appear.
IN_DOUBT_AGE = 300

#: Seconds for looking up, while the client waits, whether an upload in doubt was committed.
LOOKUP_WAIT = 2.0


@dataclass(kw_only=True, eq=False)
class Intake:
    """
    Accepts uploads.

    :param private: the bucket of the originals.
    :param invalidator: invalidates what is cached of the avatars of users who upload.
    :param heic: whether HEIC images are accepted: the setting ``crunch.heic``.
    :param new_id: returns the id of a new upload.
    """

    _log = Logger()

    private: IBucket
    store: IProfileStore
    outbox: Outbox
    invalidator: ProfileInvalidator
    clock: IReactorTime
    heic: bool = False
    new_id: Callable[[], str] = new_id
    # When the outcome of a commit became unknown, by avatar id.
    _in_doubt: dict[str, float] = field(init=False, default_factory=dict)

    async def accept(self, *, uid: str, body: Body, length: int, keep: int | None = None) -> Avatar:
        """
        Store an original and add its row.

        :param length: of the body, in bytes.
        :param keep: see :meth:`fxprofile.model.ports.IProfileStore.accept`.
        :returns: the row.  From here on the upload must not be lost.
        :raises ImageRefused: if the body does not begin with the signature of an image.
        :raises DriverError: if the upload could not be stored; nothing remains.
        :raises Quarantined: if an operator has quarantined these bytes; nothing remains.
        :raises AccountUnknown: if the account was deleted meanwhile; nothing remains.
        :raises Exception: any error of the body; nothing remains.
        """
        avatar_id, digest = self.new_id(), hashlib.sha256()
        async with aclosing(body):
            await self.private.put(
                key=private_key(avatar_id),
                body=_hashed(_images_only(body, self.heic), digest.update),
                length=length,
                content_type=ORIGINAL_TYPE,
            )
        accepted = await self._add_row(avatar_id, uid, keep, digest.hexdigest())
        await briefly(self.invalidator.invalidate(uid), SEND_WAIT, self.clock)
        await self.outbox.try_to_send(accepted.avatar)
        if accepted.superseded:
            await briefly(self._empty_all(accepted.superseded), SEND_WAIT, self.clock)
        return accepted.avatar

    async def _empty_all(self, avatar_ids: Sequence[str]) -> None:
        for avatar_id in avatar_ids:
            await self._empty(avatar_id)

    async def _empty(self, avatar_id: str) -> None:
        """Overwrite an original with nothing, so that it is not crunched."""
        key, empty = private_key(avatar_id), BytesBody(b"")
        try:
            await self.private.put(key=key, body=empty, length=0, content_type=ORIGINAL_TYPE)
        except DriverError as error:
            # It is crunched in vain, and then deleted.
            self._log.warn("Superseded upload {id} not emptied: {error}", id=avatar_id, error=error)

    async def _add_row(self, avatar_id: str, uid: str, keep: int | None, digest: str) -> Accepted:
        now = self.clock.seconds()
        try:
            return await self.store.accept(
                avatar_id=avatar_id, uid=uid, now=now, keep=keep, source_digest=digest
            )
        except (AccountUnknown, Quarantined):
            # There is no doubt: there is no row, and the next repair deletes the original.
            self._in_doubt[avatar_id] = -inf
            raise
        except StoreError:
            # The commit may still have happened: then the upload is accepted.
            self._in_doubt[avatar_id] = self.clock.seconds()
            avatar = await self._find_row(avatar_id)
            if avatar is None:
                raise
            return Accepted(avatar)

    async def _find_row(self, avatar_id: str) -> Avatar | None:
        looking: Deferred[Avatar | None]
        looking = Deferred.fromCoroutine(self.store.avatar(avatar_id=avatar_id))
        try:
            avatar = await looking.addTimeout(LOOKUP_WAIT, self.clock)
        except (StoreError, WaitTimeout) as error:
            self._log.warn("Upload {id} is in doubt: {error}", id=avatar_id, error=error)
            return None
        if avatar is not None:
            del self._in_doubt[avatar_id]
        return avatar

    async def resolve_in_doubt(self) -> int:
        """
        Look up uploads whose commit had an unknown outcome.

        The outbox loop sends the jobs of committed uploads; the originals of the others are
        deleted.

        :returns: the number of uploads that are still in doubt.
        """
        before = self.clock.seconds() - IN_DOUBT_AGE
        due = [avatar_id for avatar_id, since in self._in_doubt.items() if since <= before]
        try:
            for avatar_id in due:
                if await self.store.avatar(avatar_id=avatar_id) is None:
                    # Only workers may delete from the private bucket.
                    await self.outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
                del self._in_doubt[avatar_id]
        except DriverError as error:
            # The others would fail in the same way.
            count = len(self._in_doubt)
            self._log.warn("{count} uploads are in doubt: {error}", count=count, error=error)
        return len(self._in_doubt)


async def _hashed(
    body: AsyncGenerator[bytes, None], update: Callable[[bytes], None]
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a body; pass each to a hash first."""
    async with aclosing(body):
        async for piece in body:
            update(piece)
            yield piece


async def _images_only(body: Body, heic: bool) -> AsyncGenerator[bytes, None]:
    """
    Yield the pieces of a body that begins with the signature of an image.

    The Content-Type of the request is ignored.

    :raises ImageRefused: if it does not; the rest of the body is not read.
    """
    head = b""
    async for piece in body:
        head += piece
        if len(head) >= SIGNATURE_BYTES:
            break
    if sniff(head, heic=heic) is None:
        raise ImageRefused("unsupported", name_of_unsupported(head))
    yield head
    async for piece in body:
        yield piece
