"""
Accept an upload.

The order is: original, row, job.  An original without a row is garbage that nobody
refers to; a row without an original would be a promise that cannot be kept; so the
bytes come first.  The commit of the row accepts the upload.  A job without a row would
be work for nobody; so it comes last, and if it cannot be sent now, the row says so and
the repair loop sends it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.crunch.signature import SIGNATURE_BYTES, sniff
from fxprofile.model.avatars import Avatar
from fxprofile.model.errors import DriverError, ImageRefused, StoreError
from fxprofile.model.keys import new_id, private_key
from fxprofile.model.messages import Job, Op
from fxprofile.model.ports import Body, IBucket, IProfileStore
from fxprofile.uploads.outbox import Outbox

#: An original is never served, so it has no type of its own.
ORIGINAL_TYPE = "application/octet-stream"

#: Seconds after which a commit of unknown outcome has happened, or never will: its
#: original must not be deleted if the row may still come.
DOUBT_AGE = 300


class Intake:
    """
    Takes uploads in.

    :param private: the bucket of the originals.
    :param heic: whether HEIC is an image too: the setting ``crunch.heic``.
    :param new_id: makes the id of an upload.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        private: IBucket,
        store: IProfileStore,
        outbox: Outbox,
        clock: IReactorTime,
        heic: bool = False,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        self._private = private
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._heic = heic
        self._new_id = new_id
        # Since when, by id.
        self._doubtful: dict[str, float] = {}

    async def accept(self, *, uid: str, body: Body, length: int) -> Avatar:
        """
        Store an original and add its row.

        :param length: how many bytes the body has.
        :returns: the row.  From here on nothing may lose the upload.
        :raises ImageRefused: if the first bytes are not those of an image.
        :raises DriverError: if it could not be stored; then nothing stays.
        :raises Exception: whatever the body raises; then nothing stays.
        """
        avatar_id = self._new_id()
        images_only = _ImagesOnly(body, self._heic)
        try:
            await self._private.put(
                key=private_key(avatar_id),
                body=images_only,
                length=length,
                content_type=ORIGINAL_TYPE,
            )
        finally:
            await images_only.aclose()
        avatar = await self._add_row(avatar_id, uid)
        try:
            await self._outbox.send(avatar)
        except DriverError as error:
            self._log.warn(
                "The job of upload {id} is left to the repair loop: {error}",
                id=avatar_id,
                error=error,
            )
        return avatar

    async def _add_row(self, avatar_id: str, uid: str) -> Avatar:
        try:
            return await self._store.accept(avatar_id=avatar_id, uid=uid, now=self._clock.seconds())
        except StoreError:
            # The commit may have happened all the same: then the upload stands.
            self._doubtful[avatar_id] = self._clock.seconds()
            avatar = await self._look(avatar_id)
            if avatar is not None:
                return avatar
            raise

    async def _look(self, avatar_id: str) -> Avatar | None:
        try:
            avatar: Avatar | None = await self._store.avatar(avatar_id=avatar_id)
        except StoreError as error:
            self._log.warn(
                "Whether upload {id} was accepted is not known yet: {error}",
                id=avatar_id,
                error=error,
            )
            return None
        if avatar is not None:
            del self._doubtful[avatar_id]
        return avatar

    async def settle_doubts(self) -> int:
        """
        Look again at uploads of which it was not known whether they were accepted.  Those
        that were are left to the outbox; the originals of those that were not go.

        :returns: how many are still in doubt.
        """
        before = self._clock.seconds() - DOUBT_AGE
        due = [avatar_id for avatar_id, since in self._doubtful.items() if since <= before]
        try:
            for avatar_id in due:
                if await self._store.avatar(avatar_id=avatar_id) is None:
                    # Only workers may delete from the private bucket.
                    await self._outbox.send_job(Job(op=Op.DELETE, id=avatar_id))
                del self._doubtful[avatar_id]
        except DriverError as error:
            # What fails for one of them would fail for all.
            self._log.warn(
                "{count} uploads are still in doubt: {error}",
                count=len(self._doubtful),
                error=error,
            )
        return len(self._doubtful)


class _ImagesOnly:
    """
    The body of an upload, as long as it begins like an image.

    The type that the client claims is not looked at.
    """

    def __init__(self, body: Body, heic: bool) -> None:
        self._body = body
        self._heic = heic
        self._known = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._known:
            return await self._body.__anext__()
        head = b""
        while len(head) < SIGNATURE_BYTES:
            try:
                head += await self._body.__anext__()
            except StopAsyncIteration:
                break
        if sniff(head, heic=self._heic) is None:
            raise ImageRefused("unsupported")
        self._known = True
        return head

    async def aclose(self) -> None:
        await self._body.aclose()
