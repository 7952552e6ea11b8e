"""
Run a job.

The order is: get the original, crunch it, put the pictures, send the result, delete the
original; whoever called deletes the message last.  Each step may be repeated: the same
original gives the same pictures under the same keys.  A process that dies anywhere
leaves a message that comes back, and all that it did is done again; only when the result
is on its queue does the original go.  So "the original is gone and the pictures are
there" means that all was done before.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from typing import IO

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched, Variant
from fxprofile.model.errors import ChildFailed, CrunchError, ObjectNotFound, StorageError
from fxprofile.model.keys import FORMATS, VARIANTS, private_key, public_key, public_keys
from fxprofile.model.messages import Job, Op, Result, ResultStatus
from fxprofile.model.ports import IBucket, ICruncher, IQueue
from fxprofile.telemetry.metrics import Metrics

#: Where the sides of a PNG end, which are the first of IHDR: ISO/IEC 15948, section 11.2.2.
_PNG_HEAD = 24
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Crunch:
    """
    Does what jobs ask for.

    :param threads: for the work on temporary files.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        private: IBucket,
        public: IBucket,
        results: IQueue,
        cruncher: ICruncher,
        threads: Threads,
        metrics: Metrics,
        clock: IReactorTime,
    ) -> None:
        self._private = private
        self._public = public
        self._results = results
        self._cruncher = cruncher
        self._threads = threads
        self._metrics = metrics
        self._clock = clock

    async def run(self, job: Job) -> None:
        """
        Do a job to its end.

        :raises DriverError: if something outside failed; the job is to be done again.
        """
        if job.op is Op.DELETE:
            await self._delete(job.id)
        else:
            await self._crunch(job.id)

    async def _delete(self, avatar_id: str) -> None:
        await self._public.delete(keys=public_keys(avatar_id))
        await self._private.delete(keys=[private_key(avatar_id)])
        await self._report(Result(id=avatar_id, status=ResultStatus.DELETED))

    async def _crunch(self, avatar_id: str) -> None:
        started = self._clock.seconds()
        try:
            original = await self._fetch(avatar_id)
        except ObjectNotFound:
            await self._report(await self._without_original(avatar_id))
            return
        fetched = self._clock.seconds()
        try:
            crunched = await self._crunched(avatar_id, original)
        except CrunchError as error:
            self._metrics.crunched.labels(error.reason).inc()
            self._log.info("Avatar {id} failed: {error}", id=avatar_id, error=error)
            await self._report(
                Result(id=avatar_id, status=ResultStatus.FAILED, reason=error.reason)
            )
            await self._private.delete(keys=[private_key(avatar_id)])
            return
        finally:
            await self._threads.run(original.close)
        done = self._clock.seconds()
        self._metrics.crunched.labels("ready").inc()
        self._metrics.crunch_seconds.observe(done - fetched)
        variants = await publish(self._public, avatar_id, crunched)
        put = self._clock.seconds()
        await self._report(
            Result(
                id=avatar_id,
                status=ResultStatus.READY,
                variants=variants,
                placeholder=crunched.placeholder,
                timing={
                    "get": fetched - started,
                    "crunch": done - fetched,
                    "put": put - done,
                },
            )
        )
        await self._private.delete(keys=[private_key(avatar_id)])

    async def _fetch(self, avatar_id: str) -> IO[bytes]:
        _, body = await self._private.get(key=private_key(avatar_id))
        # Without a name in the file system, the kernel cleans up after a kill -9.
        try:
            file = await self._threads.run(tempfile.TemporaryFile)
            try:
                async for piece in body:
                    await self._threads.run(file.write, piece)
                await self._threads.run(file.flush)
            except BaseException:
                file.close()
                raise
        finally:
            await body.aclose()
        return file

    async def _crunched(self, avatar_id: str, original: IO[bytes]) -> Crunched:
        try:
            return await self._cruncher.crunch(original=original)
        except ChildFailed as error:
            self._log.warn(
                "The child that crunched {id} failed, trying once more: {error}",
                id=avatar_id,
                error=error,
            )
            return await self._cruncher.crunch(original=original)

    async def _without_original(self, avatar_id: str) -> Result:
        """What is to be said of an avatar whose original is gone."""
        variants = {}
        for name in VARIANTS:
            try:
                variant = await look_at(self._public, avatar_id, name)
            except ObjectNotFound:
                return Result(id=avatar_id, status=ResultStatus.FAILED, reason="lost")
            if variant is None:
                raise StorageError("what is in the public bucket is not a picture of ours")
            variants[name] = variant
        return Result(id=avatar_id, status=ResultStatus.READY, variants=variants)

    async def _report(self, result: Result) -> None:
        await self._results.send(body=result.encode())


async def publish(public: IBucket, avatar_id: str, crunched: Crunched) -> Mapping[str, Variant]:
    """
    Put the pictures of an avatar into the public bucket.

    :returns: what there is now as PNG, by the name of the variant.
    :raises StorageError: if not all of them could be put.
    """
    # The PNGs come last: where they are, all is.
    for form, pictures in sorted(crunched.pictures.items(), key=lambda item: item[0] == "png"):
        for name, (_, data) in pictures.items():
            await public.put(
                key=public_key(avatar_id, name, form),
                body=BytesBody(data),
                length=len(data),
                content_type=FORMATS[form][1],
            )
    return {name: variant for name, (variant, _) in crunched.pictures["png"].items()}


async def look_at(public: IBucket, avatar_id: str, name: str) -> Variant | None:
    """
    What is in the public bucket as PNG of an avatar.

    :param name: of the variant.
    :returns: None if it is no PNG.
    :raises ObjectNotFound: if there is nothing.
    """
    info, body = await public.get(key=public_key(avatar_id, name))
    head = b""
    try:
        async for piece in body:
            head += piece
            if len(head) >= _PNG_HEAD:
                break
    finally:
        await body.aclose()
    if len(head) < _PNG_HEAD or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:_PNG_HEAD])
    return Variant(width=width, height=height, bytes=info.length)
