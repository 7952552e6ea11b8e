"""Buckets: the drivers of :class:`fxprofile.model.ports.IBucket`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprofile.model.ports import IBucket
from fxprofile.settings.model import Settings

if TYPE_CHECKING:
    from fxprofile.deferreds.threads import Threads


def bucket_from_config(
    settings: Settings,
    which: str,
    *,
    reactor: Any,
    threads: Threads,
    expire_after: float | None = None,
) -> IBucket:
    """
    The private or the public bucket, in the driver that ``storage.driver`` names.

    A driver that has something to start and to stop is an ``IService`` as well, and
    whoever makes it gives it a parent.

    :param which: ``private`` or ``public``.
    :param expire_after: the age in seconds at which the driver itself removes objects,
        where no lifecycle rule does.
    """
    name = getattr(settings.storage, f"{which}_bucket")
    if settings.storage.driver == "s3":
        from fxprofile.drivers.aws.s3 import s3_bucket

        return s3_bucket(settings, name, reactor=reactor, threads=threads)
    from fxprofile.drivers.filesystem.bucket import FilesystemBucket

    return FilesystemBucket(
        threads,
        settings.storage.directory.absolute() / name,
        reactor,
        expire_after=expire_after,
        shared=which == "public",
    )
