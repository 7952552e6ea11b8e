"""
The pictures of avatars that come from the original profile server.

It kept three PNGs of each, named by the id, the id with ``_small`` and the id with ``_large``.
None of them is served as it is: the largest is crunched like any upload, which makes all three
anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import treq
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from fxprofile.admin.shared.tools import Tools, temporary_file
from fxprofile.deferreds.bodies import read_all
from fxprofile.deferreds.tasks import sleep
from fxprofile.deferreds.threads import Threads
from fxprofile.http_client.upstream import UpstreamFailure, within
from fxprofile.model.avatars import Variant
from fxprofile.model.errors import ChildFailed, ConfigError, DriverError, ObjectNotFound
from fxprofile.model.keys import VARIANTS, public_keys
from fxprofile.model.ports import IBucket, ICruncher
from fxprofile.worker.jobs import publish, published_variant

#: The most bytes of an old picture.
MAX_BYTES: Final = 32 << 20

#: Seconds that one request may take, and how often it is tried.
TIMEOUT: Final = 30.0
TRIES: Final = 4

#: The suffixes to try, in this order.
_SUFFIXES: Final = ("_large", "", "_small")


class OldPicturesUnavailable(DriverError):
    """The old pictures could not be read."""


#: Return the bytes of an old picture, named by an avatar id and a suffix, or None.
Fetch = Callable[[str], Awaitable[bytes | None]]


def old_pictures(tools: Tools, template: str) -> Fetch:
    """
    Return what fetches old pictures.

    :param template: a URL (http, https, s3) or a path, with ``{id}`` in it.
    :raises ConfigError: if it is neither.
    """
    if "{id}" not in template:
        raise ConfigError("--pictures-from: must contain {id}")
    if template.startswith("s3://"):
        from fxprofile.drivers.aws.s3 import s3_bucket

        name, _, key = template.removeprefix("s3://").partition("/")
        return partial(_from_bucket, s3_bucket(tools.settings, tools.aws, name), key)
    if template.startswith(("http://", "https://")):
        return partial(from_server, HTTPClient(tools.http), tools.reactor, template)
    if "://" in template:
        raise ConfigError("--pictures-from: must be an http, https or s3 URL, or a path")
    return partial(_from_folder, tools.files, template)


async def _from_folder(threads: Threads, template: str, name: str) -> bytes | None:
    path = Path(template.replace("{id}", name))
    try:
        return await threads.run(path.read_bytes)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OldPicturesUnavailable(f"{path}: {error.strerror}") from None


async def _from_bucket(bucket: IBucket, template: str, name: str) -> bytes | None:
    key = template.replace("{id}", name)
    try:
        _, body = await bucket.get(key=key)
        return await read_all(body, MAX_BYTES)
    except ObjectNotFound:
        return None
    except OverflowError:
        raise OldPicturesUnavailable(f"{key}: more than {MAX_BYTES} bytes") from None


async def from_server(
    client: HTTPClient, clock: IReactorTime, template: str, name: str
) -> bytes | None:
    """
    Fetch a picture from a web server, with retries.

    :raises OldPicturesUnavailable: if it answers neither with a picture nor that there is none.
    """
    url = template.replace("{id}", name)
    for attempt in range(TRIES):
        if attempt:
            await sleep(clock, 2 ** (attempt - 1))
        try:
            return await within(clock, TIMEOUT, _get(client, url))
        except UpstreamFailure as error:
            failure = str(error)
    raise OldPicturesUnavailable(f"{url}: {failure}")


async def _get(client: HTTPClient, url: str) -> bytes | None:
    data = bytearray()

    def collect(piece: bytes) -> None:
        data.extend(piece)
        if len(data) > MAX_BYTES:
            raise UpstreamFailure(f"more than {MAX_BYTES} bytes")

    try:
        response = await client.get(url, allow_redirects=False)
        await treq.collect(response, collect)
    except (CancelledError, UpstreamFailure):
        raise
    except Exception as error:
        # A connection can fail with many types of error.
        reasons = getattr(error, "reasons", None) or [error]
        raise UpstreamFailure(str(reasons[0])) from None
    # S3 answers 403 for a missing object to a client that may not list the bucket.
    if response.code in (403, 404, 410):
        return None
    if response.code != 200:
        raise UpstreamFailure(f"status {response.code}")
    return bytes(data)


@dataclass
class Pictures:
    """
    Checks and makes the pictures of avatars in the public bucket.

    :param old: fetches an old picture; None if the bucket must have all pictures already.
    :param cruncher: makes the new ones.
    """

    public: IBucket
    threads: Threads
    old: Fetch | None
    cruncher: ICruncher | None

    async def present(self, avatar_id: str) -> Mapping[str, Variant] | None:
        """Return what is in the public bucket; None unless all three are PNGs that fit."""
        variants = {}
        for name, (_, box) in VARIANTS.items():
            try:
                variant = await published_variant(self.public, avatar_id, name)
            except ObjectNotFound:
                return None
            if variant is None or not (0 < variant.width <= box and 0 < variant.height <= box):
                return None
            variants[name] = variant
        return variants

    async def can_be_copied(self, avatar_id: str) -> bool:
        """Whether there is an old picture, valid or not."""
        return await self._largest_old(avatar_id) is not None

    async def copied(self, avatar_id: str) -> tuple[Mapping[str, Variant], str | None] | None:
        """
        Make pictures from an old one, and put them into the public bucket.

        :returns: the pictures and their placeholder; None if there is no old one.
        :raises CrunchError: if it is not a valid picture.
        """
        data = await self._largest_old(avatar_id)
        if data is None or self.cruncher is None:
            return None
        with await self.threads.run(temporary_file, data) as original:
            try:
                crunched = await self.cruncher.crunch(original=original)
            except ChildFailed:
                crunched = await self.cruncher.crunch(original=original)
        return await publish(self.public, avatar_id, crunched), crunched.placeholder

    async def _largest_old(self, avatar_id: str) -> bytes | None:
        if self.old is not None:
            for suffix in _SUFFIXES:
                if (data := await self.old(avatar_id + suffix)) is not None:
                    return data
        return None

    async def remove(self, avatar_id: str) -> None:
        """Remove pictures from the public bucket."""
        await self.public.delete(keys=public_keys(avatar_id))
