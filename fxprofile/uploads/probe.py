"""
Checks of the buckets with a probe object, which is put as an upload is: streamed, and longer than
what a driver may send in another way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime

from fxprofile.deferreds.bodies import read_all
from fxprofile.model.errors import ObjectNotFound, StorageError
from fxprofile.model.keys import PROBE, new_id
from fxprofile.model.ports import IBucket
from fxprofile.settings.model import Role, Settings

#: Seconds between two probes of a bucket that works.
INTERVAL: Final = 10.0

#: The pieces of a probe object.
_PIECE: Final = b"probe of fxprofile\n" * 2000
_PIECES: Final = 3

_PUT_ONLY: Final = frozenset({"put"})
_ALL: Final = frozenset({"put", "get", "delete"})
_RIGHTS: Final[dict[Role, dict[str, frozenset[str]]]] = {
    Role.WEB: {"private": _PUT_ONLY},
    Role.WORKER: {"private": frozenset({"get", "delete"}), "public": _ALL},
    Role.IMAGES: {"public": frozenset({"get"})},
    Role.COMBINED: {"private": _ALL, "public": _ALL},
}


def bucket_rights(settings: Settings, role: Role) -> dict[str, frozenset[str]]:
    """Return what a role may do with the objects of each bucket."""
    # A folder that may be written to may be deleted from.
    more = frozenset({"delete"} if settings.storage.driver == "filesystem" else ())
    return {
        which: rights | more if "put" in rights else rights
        for which, rights in _RIGHTS[role].items()
    }


async def check_bucket(bucket: IBucket, rights: frozenset[str], key: str | None = None) -> None:
    """
    Do with a probe object what the rights allow, and leave none behind if they allow that.

    :param key: of the object; by default one that no upload has.
    :raises StorageError: if it does not behave as a bucket.
    """
    if key is None:
        # An object that stays is the same each time.
        key = f"{PROBE}-{new_id()}" if "delete" in rights else PROBE
    if "put" in rights:
        length, kind = len(_PIECE) * _PIECES, "application/octet-stream"
        await bucket.put(key=key, body=_pieces(), length=length, content_type=kind)
    try:
        wanted = _PIECE * _PIECES if "put" in rights else None
        if "get" in rights and await _content(bucket, key) != wanted:
            raise StorageError(f"{key} has other bytes than were put")
    except StorageError:
        if "delete" in rights:
            await bucket.delete(keys=[key])
        raise
    if "delete" in rights:
        await bucket.delete(keys=[key])
    if {"get", "delete"} <= rights and await _content(bucket, key) is not None:
        raise StorageError(f"{key} still exists after it was deleted")


async def _pieces() -> AsyncGenerator[bytes, None]:
    for _ in range(_PIECES):
        yield _PIECE


async def _content(bucket: IBucket, key: str) -> bytes | None:
    try:
        _, body = await bucket.get(key=key)
        return await read_all(body, len(_PIECE) * _PIECES)
    except ObjectNotFound:
        return None
    except OverflowError:
        return b""


@attrs.define(kw_only=True, eq=False, slots=False)
class UploadProbe:
    """
    The health check of a bucket that receives uploads.

    :param rights: what this process may do with its objects.
    """

    _bucket: IBucket
    _rights: frozenset[str]
    _clock: IReactorTime
    _probed: float = attrs.field(default=float("-inf"), init=False)

    async def check(self) -> None:
        """
        Put a probe object, unless one was put within :data:`INTERVAL`.

        :raises StorageError: if uploads cannot be stored.
        """
        now = self._clock.seconds()
        if now - self._probed < INTERVAL:
            await self._bucket.check()
            return
        await check_bucket(self._bucket, self._rights)
        self._probed = now
