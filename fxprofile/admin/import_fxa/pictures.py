"""
The pictures of avatars that come from the original profile server.

It kept three PNGs of each, under the id, the id with ``_small`` and the id with
``_large``.  Nothing of them is served as it is: the largest that there is goes through
the cruncher like any upload, and gives all three anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, Protocol

import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout

from fxprofile.admin.shared.tools import Tools
from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched, Variant
from fxprofile.model.errors import ChildFailed, ConfigError, DriverError, ObjectNotFound
from fxprofile.model.keys import VARIANTS, public_keys
from fxprofile.model.ports import IBucket, ICruncher
from fxprofile.worker.jobs import publish, published_variant

#: The most bytes of an old picture.
MAX_BYTES: Final = 32 << 20

#: Seconds that one may take to come, and how often it is asked for.
TIMEOUT: Final = 30.0
TRIES: Final = 4

#: What is looked for, in this order.
_SUFFIXES: Final = ("_large", "", "_small")


class OldPicturesUnavailable(DriverError):
    """Where the pictures are now could not be reached, or gave something else."""


class OldPictures(Protocol):
    """Where the pictures are now."""

    async def fetch(self, name: str) -> bytes | None:
        """
        The bytes of a picture, or None if there is none of this name.

        :param name: an avatar id and a suffix.
        :raises DriverError: if it is not known.
        """


class FolderPictures:
    """Pictures in a folder."""

    def __init__(self, template: str, threads: Threads) -> None:
        self._template = template
        self._threads = threads

    async def fetch(self, name: str) -> bytes | None:
        path = Path(self._template.replace("{id}", name))
        try:
            return await self._threads.run(path.read_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OldPicturesUnavailable(f"{path}: {error.strerror}") from None


class BucketPictures:
    """Pictures in a bucket of S3."""

    def __init__(self, template: str, bucket: IBucket) -> None:
        self._template = template
        self._bucket = bucket

    async def fetch(self, name: str) -> bytes | None:
        key = self._template.replace("{id}", name)
        try:
            _, body = await self._bucket.get(key=key)
            return await read_all(body, MAX_BYTES)
        except ObjectNotFound:
            return None
        except OverflowError:
            raise OldPicturesUnavailable(f"{key}: more than {MAX_BYTES} bytes") from None


class HttpPictures:
    """Pictures on a web server."""

    def __init__(self, template: str, client: Any, clock: Any) -> None:
        self._template = template
        self._client = client
        self._clock = clock

    async def fetch(self, name: str) -> bytes | None:
        url = self._template.replace("{id}", name)
        for attempt in range(1, TRIES + 1):
            try:
                asking = Deferred.fromCoroutine(self._ask(url))
                return await asking.addTimeout(TIMEOUT, self._clock)
            except DeferredTimeout:
                failure = f"{url}: no answer in {TIMEOUT:.0f} s"
            except OldPicturesUnavailable as error:
                failure = str(error)
            if attempt < TRIES:
                await sleep(self._clock, 2**attempt / 2)
        raise OldPicturesUnavailable(failure)

    async def _ask(self, url: str) -> bytes | None:
        data = bytearray()

        def collect(piece: bytes) -> None:
            data.extend(piece)
            if len(data) > MAX_BYTES:
                raise OverflowError

        try:
            response = await self._client.get(url, allow_redirects=False)
            await treq.collect(response, collect)
        except OverflowError:
            raise OldPicturesUnavailable(f"{url}: more than {MAX_BYTES} bytes") from None
        except CancelledError:
            raise
        except Exception as error:
            # What a connection can end with is many things.
            reasons = getattr(error, "reasons", None) or [error]
            raise OldPicturesUnavailable(f"{url}: {reasons[0]}") from None
        # S3 says 403 of what is not there to those who may not list the bucket.
        if response.code in (403, 404, 410):
            return None
        if response.code != 200:
            raise OldPicturesUnavailable(f"{url}: status {response.code}")
        return bytes(data)


def old_pictures(tools: Tools, template: str) -> OldPictures:
    """
    The pictures that a template leads to.

    :param template: a URL or a path with ``{id}`` in it.
    :raises ConfigError: if it is none.
    """
    if "{id}" not in template:
        raise ConfigError("--pictures-from: must contain {id}")
    if template.startswith("s3://"):
        from fxprofile.drivers.aws.s3 import s3_bucket

        name, _, key = template.removeprefix("s3://").partition("/")
        bucket = s3_bucket(tools.settings, name, reactor=tools.reactor, threads=tools.files)
        bucket.setServiceParent(tools.stack)
        return BucketPictures(key, bucket)
    if template.startswith(("http://", "https://")):
        from fxprofile.http_client.upstream import client_for, pool_for

        pool = pool_for(tools.reactor)
        tools.at_end(pool.closeCachedConnections)
        return HttpPictures(template, client_for(tools.reactor, pool, TIMEOUT), tools.reactor)
    if "://" in template:
        raise ConfigError("--pictures-from: must be an http, https or s3 URL, or a path")
    return FolderPictures(template, tools.files)


class Pictures:
    """
    Sees that the pictures of an avatar are in the public bucket.

    :param old: where they are now; None if they have to be in the bucket already.
    :param cruncher: makes the new ones.
    """

    def __init__(
        self,
        *,
        public: IBucket,
        threads: Threads,
        old: OldPictures | None,
        cruncher: ICruncher | None,
    ) -> None:
        self._public = public
        self._threads = threads
        self._old = old
        self._cruncher = cruncher

    async def present(self, avatar_id: str) -> Mapping[str, Variant] | None:
        """
        What is in the public bucket.

        :returns: None unless all pictures are there, and are PNGs that fit their boxes.
        """
        variants = {}
        for name in VARIANTS:
            try:
                variant = await published_variant(self._public, avatar_id, name)
            except ObjectNotFound:
                return None
            _, box = VARIANTS[name]
            if variant is None or not (0 < variant.width <= box and 0 < variant.height <= box):
                return None
            variants[name] = variant
        return variants

    async def can_be_copied(self, avatar_id: str) -> bool:
        """Whether there is an old picture, good or not."""
        return await self._largest_old(avatar_id) is not None

    async def copied(self, avatar_id: str) -> tuple[Mapping[str, Variant], str | None] | None:
        """
        Make pictures out of an old one, and put them into the public bucket.

        :returns: what is there now, and its placeholder; None if there is no old one.
        :raises CrunchError: if it is no good.
        """
        data = await self._largest_old(avatar_id)
        if data is None or self._cruncher is None:
            return None
        crunched = await self._crunched(self._cruncher, data)
        return await publish(self._public, avatar_id, crunched), crunched.placeholder

    async def _largest_old(self, avatar_id: str) -> bytes | None:
        if self._old is None:
            return None
        for suffix in _SUFFIXES:
            data = await self._old.fetch(avatar_id + suffix)
            if data is not None:
                return data
        return None

    async def remove(self, avatar_id: str) -> None:
        """Remove pictures from the public bucket."""
        await self._public.delete(keys=public_keys(avatar_id))

    async def _crunched(self, cruncher: ICruncher, data: bytes) -> Crunched:
        with await self._threads.run(_file_of, data) as original:
            try:
                return await cruncher.crunch(original=original)
            except ChildFailed:
                return await cruncher.crunch(original=original)


def _file_of(data: bytes) -> IO[bytes]:
    file = TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.flush()
    return file
