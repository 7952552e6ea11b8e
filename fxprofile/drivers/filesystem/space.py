"""The free space of a disk, less a reserve that uploads may not use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from fxprofile.deferreds.threads import Threads
from fxprofile.model.errors import StorageError

#: The reserve of a disk unless it is configured: so many bytes, or this part of a small disk.
RESERVE: Final = 256 << 20
RESERVE_PART: Final = 0.05


@attrs.define(eq=False, slots=False)
class DiskSpace:
    """
    What uploads may take of a disk.

    The rest is a reserve for what gets rid of uploads: pictures, results and the database.

    :param directory: any folder of the disk.
    :param reserve: in bytes; None for the default of its size.
    :param statvfs: returns the status of the file system; blocks.
    """

    _threads: Threads
    _directory: Path
    _reserve: int | None = None
    _statvfs: Callable[[Path], os.statvfs_result] = os.statvfs

    def room(self) -> float:
        """
        Return how many bytes are free besides the reserve; negative if that is in use.

        This blocks.

        :raises OSError: if it is unknown.
        """
        status = self._statvfs(self._directory)
        total = status.f_blocks * status.f_frsize
        reserve = min(RESERVE, total * RESERVE_PART) if self._reserve is None else self._reserve
        return status.f_bavail * status.f_frsize - reserve

    def require(self, length: int) -> None:
        """
        Check that so many bytes fit; this blocks.

        :raises OSError: if they do not.
        """
        if self.room() < length:
            raise OSError(errno.ENOSPC, "only the reserve is left (storage.reserve)")

    async def available(self) -> float:
        """
        Return :meth:`room` without blocking.

        :raises StorageError: if it is unknown.
        """
        try:
            return await self._threads.run(self.room)
        except OSError as error:
            raise StorageError(f"cannot look at the disk of {self._directory}: {error}") from error

    async def check(self) -> str:
        """Return "low" if uploads may take nothing, else "ok", for the heartbeat."""
        return "ok" if await self.available() > 0 else "low"
