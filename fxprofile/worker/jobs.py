"""
Run the jobs of the jobs queue: crunch an original, or delete an avatar's objects.

A crunch job gets the original, crunches it, puts the pictures, sends the result and
deletes the original, in this order; the poller deletes the message last.  Each step is
idempotent: the same original gives the same pictures under the same keys.  A process
that dies at any point leaves a message that is delivered again, and the job is repeated.
The original is deleted only after the result is on its queue, so a missing original
with all pictures present means that the job was done before.

The jobs of one avatar run one after the other, so that nothing is put after a delete job.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import IO, Final

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from fxprofile.deferreds.bodies import FileBody
from fxprofile.deferreds.threads import Threads
from fxprofile.model.avatars import Crunched, Variant
from fxprofile.model.errors import ChildFailed, CrunchError, ObjectNotFound, StorageError
from fxprofile.model.keys import FORMATS, VARIANTS, private_key, public_key, public_keys
from fxprofile.model.messages import Job, Message, Op, Result, ResultStatus
from fxprofile.model.ports import IBucket, ICruncher, IQueue, NewObject
from fxprofile.telemetry import traces
from fxprofile.telemetry.metrics import Metrics

#: Bytes of an original that are gathered before they are written: each write takes a call in a
#: thread, and the pieces that a network delivers are small.
WRITE_SIZE: Final = 1 << 18

#: Length in bytes of a PNG's signature and the first fields of IHDR, up to the height
#: (ISO/IEC 15948, section 11.2.2).
_PNG_HEAD = 24
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(kw_only=True, eq=False)
class JobRunner:
    """
    Runs jobs; :meth:`handle` is the handler of the jobs queue.

    :param threads: run the blocking work on temporary files.
    """

    _log = Logger()

    private: IBucket
    public: IBucket
    results: IQueue
    cruncher: ICruncher
    threads: Threads
    metrics: Metrics
    clock: IReactorTime
    # By avatar id.
    _locks: dict[str, DeferredLock] = field(init=False, default_factory=dict)

    async def handle(self, message: Message) -> None:
        """
        Run the job of a message.

        :raises MalformedMessage: if the message is not a job.
        :raises DriverError: if a bucket, a queue or the cruncher failed; the job has to
            be run again.
        """
        job = Job.decode(message.body)
        lock = self._locks.setdefault(job.id, DeferredLock())
        await lock.acquire()
        try:
            if job.op is Op.DELETE:
                await self._delete(job.id)
            else:
                await self._crunch(job.id)
        finally:
            lock.release()
            if not lock.locked:
                self._locks.pop(job.id, None)

    async def _delete(self, avatar_id: str) -> None:
        await self.public.delete(keys=public_keys(avatar_id))
        await self.private.delete(keys=[private_key(avatar_id)])
        await self._report(Result(id=avatar_id, status=ResultStatus.DELETED))

    async def _crunch(self, avatar_id: str) -> None:
        started = self.clock.seconds()
        try:
            original = await self._download(avatar_id)
        except ObjectNotFound:
            await self._report(await self._result_without_original(avatar_id))
            return
        if original is None:
            # The web role emptied it, because a newer upload has superseded it.
            self.metrics.crunched.labels("superseded").inc()
            await self._delete(avatar_id)
            return
        downloaded = self.clock.seconds()
        try:
            crunched = await self._crunch_with_retry(avatar_id, original)
        except CrunchError as error:
            self.metrics.crunched.labels(error.reason).inc()
            self._log.info("Avatar {id} failed: {error}", id=avatar_id, error=error)
            result = Result(id=avatar_id, status=ResultStatus.FAILED, reason=error.reason)
        else:
            done = self.clock.seconds()
            self.metrics.crunched.labels("ready").inc()
            self.metrics.crunch_seconds.observe(done - downloaded)
            result = Result(
                id=avatar_id,
                status=ResultStatus.READY,
                variants=await publish(self.public, avatar_id, crunched),
                placeholder=crunched.placeholder,
                pixels=crunched.pixels,
                timing={
                    "get": downloaded - started,
                    "crunch": done - downloaded,
                    "put": self.clock.seconds() - done,
                },
            )
        finally:
            await self.threads.run(original.close)
        await self._report(result)
        await self.private.delete(keys=[private_key(avatar_id)])

    async def _download(self, avatar_id: str) -> IO[bytes] | None:
        """Return the original in a file; None if it is empty."""
        info, body = await self.private.get(key=private_key(avatar_id), as_file=True)
        async with aclosing(body):
            if not info.length:
                return None
            if isinstance(body, FileBody):
                return body.take()
            file: IO[bytes] | None = None
            pieces: list[bytes] = []
            size = 0
            try:
                async for piece in body:
                    pieces.append(piece)
                    size += len(piece)
                    if size >= WRITE_SIZE:
                        file = await self.threads.run(_append, file, pieces)
                        pieces, size = [], 0
                return await self.threads.run(_append, file, pieces)
            except BaseException:
                if file is not None:
                    file.close()
                raise

    async def _crunch_with_retry(self, avatar_id: str, original: IO[bytes]) -> Crunched:
        try:
            return await self.cruncher.crunch(original=original)
        except ChildFailed as error:
            self._log.warn(
                "Crunching {id} failed, retrying in a fresh child: {error}",
                id=avatar_id,
                error=error,
            )
            return await self.cruncher.crunch(original=original)

    async def _result_without_original(self, avatar_id: str) -> Result:
        """Return ready if all pictures exist, because the job was done before; else failed."""
        variants = {}
        for name in VARIANTS:
            try:
                variant = await published_variant(self.public, avatar_id, name)
            except ObjectNotFound:
                return Result(id=avatar_id, status=ResultStatus.FAILED, reason="lost")
            if variant is None:
                raise StorageError(
                    f"public bucket: {public_key(avatar_id, name)} is not a PNG of this service"
                )
            variants[name] = variant
        return Result(id=avatar_id, status=ResultStatus.READY, variants=variants)

    async def _report(self, result: Result) -> None:
        result = replace(result, traceparent=traces.traceparent())
        await self.results.send(body=result.encode())
        self._log.info("Avatar {id} is {status}", id=result.id, status=result.status.value)


def _append(file: IO[bytes] | None, pieces: Sequence[bytes]) -> IO[bytes]:
    """Write to a file, or to a new one if it is None, and return it; this blocks."""
    if file is None:
        # It has no name, so the kernel removes it even after a kill -9.
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.writelines(pieces)
    file.flush()
    return file


async def publish(public: IBucket, avatar_id: str, crunched: Crunched) -> Mapping[str, Variant]:
    """
    Put the pictures of an avatar into the public bucket.

    :returns: the PNG pictures, by the name of the variant.
    :raises StorageError: if a put failed.
    """
    objects: dict[bool, list[NewObject]] = {False: [], True: []}
    for form, pictures in crunched.pictures.items():
        for name, (_, data) in pictures.items():
            key = public_key(avatar_id, name, form)
            objects[form == "png"].append(NewObject(key, data, FORMATS[form][1]))
    # The PNGs are put last: if they exist, the other formats do.
    for some in filter(None, objects.values()):
        await public.put_all(objects=some)
    return {name: variant for name, (variant, _) in crunched.pictures["png"].items()}


async def published_variant(public: IBucket, avatar_id: str, name: str) -> Variant | None:
    """
    Return the sides and length of an avatar's PNG in the public bucket.

    :param name: of the variant.
    :returns: None if the object is not a PNG.
    :raises ObjectNotFound: if there is no such object.
    """
    info, body = await public.get(key=public_key(avatar_id, name))
    head = b""
    async with aclosing(body):
        async for piece in body:
            head += piece
            if len(head) >= _PNG_HEAD:
                break
    if len(head) < _PNG_HEAD or not head.startswith(_SIGNATURE) or head[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", head[16:_PNG_HEAD])
    return Variant(width=width, height=height, bytes=info.length)
