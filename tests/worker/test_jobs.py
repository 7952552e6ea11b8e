"""
Tests of :mod:`fxprofile.worker.jobs`: crunch and delete jobs that succeed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError

from fxprofile.deferreds.bodies import Body, BytesBody
from fxprofile.model.avatars import DIGEST
from fxprofile.model.errors import StorageError
from fxprofile.model.keys import FORMATS, VARIANTS, public_key, public_keys
from fxprofile.model.messages import Op, Result, ResultStatus
from tests.support.fakes.bucket import MemoryBucket
from tests.support.fakes.cruncher import PLACEHOLDER, pictures_of
from tests.worker.jobs_case import ID, ORIGINAL, JobsTestCase, _bytes_of


class CrunchingTests(JobsTestCase):
    """A crunch job without failures."""

    def test_original_becomes_pictures_and_a_result(self) -> None:
        """A crunch job puts three pictures, sends a result and deletes the original."""
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(set(self.public_objects.types.values()), {"image/png"})
        self.assertEqual(self.cruncher.crunched, [ORIGINAL])
        self.assertEqual(self.counted("ready"), 1)

    def test_pngs_are_put_after_other_formats(self) -> None:
        """Pictures in other formats are put before the PNGs."""
        self.cruncher.formats = ("png", "webp", "avif")
        self.successResultOf(self.run_job())
        types = self.public_objects.types
        self.assertEqual(set(types), set(public_keys(ID)))
        for variant in VARIANTS:
            for form, (_, media_type) in FORMATS.items():
                self.assertEqual(types[public_key(ID, variant, form)], media_type)
                self.assertEqual(
                    self.public_objects.objects[public_key(ID, variant, form)],
                    pictures_of(ORIGINAL, form)[variant][1],
                )
        puts = [key for operation, (key, *_) in self.public_objects.calls if operation == "put"]
        self.assertEqual(set(puts[-3:]), {public_key(ID, variant) for variant in VARIANTS})
        (result,) = self.reported()
        self.assertEqual(set(result.variants), set(VARIANTS))

    def test_pictures_are_put_as_bodies_in_memory(self) -> None:
        """Pictures are put as ``BytesBody``, which the S3 driver signs and sends in one piece."""
        bodies: list[Body] = []

        class RecordingBucket(MemoryBucket):
            async def put(self, *, key: str, body: Body, length: int, content_type: str) -> None:
                bodies.append(body)
                await super().put(key=key, body=body, length=length, content_type=content_type)

        self.runner.public = RecordingBucket(self.clock)
        self.successResultOf(self.run_job())
        self.assertEqual([type(body) for body in bodies], [BytesBody] * len(VARIANTS))

    def test_original_in_small_pieces_takes_few_writes(self) -> None:
        """The pieces of an original are gathered: each 256 KiB take one call in a thread."""
        original = bytes(range(256)) * 2500
        self.private_objects.objects[ID] = original
        whole = self.private_objects.get

        async def get(*, key: str, as_file: bool) -> Any:
            info, _ = await whole(key=key)
            return info, _PiecesBody(
                [original[n : n + 1000] for n in range(0, len(original), 1000)]
            )

        self.private_objects.get = get
        self.successResultOf(self.run_job())
        self.assertEqual(self.cruncher.crunched, [original])
        # Three writes, and the close.
        self.assertEqual(self.runner.threads.calls, 4)

    def test_empty_original_is_deleted(self) -> None:
        """
        A crunch job with an empty original, whose upload is superseded, crunches nothing and ends
        as a delete job.
        """
        self.private_objects.objects[ID] = b""
        self.public_objects.objects[public_key(ID)] = b"of an earlier run"
        self.successResultOf(self.run_job())
        self.assertEqual(self.cruncher.crunched, [])
        self.assertEqual(self.public_objects.objects, {})
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual([r.status for r in self.reported()], [ResultStatus.DELETED])
        self.assertEqual(self.counted("superseded"), 1)

    def test_delete_removes_every_format(self) -> None:
        """A delete job removes every format, whichever formats are configured."""
        for key in public_keys(ID):
            self.public_objects.objects[key] = b"a picture"
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {})

    def test_result_has_the_placeholder_and_the_digest(self) -> None:
        """The ready result has the placeholder and the digest of the pixels."""
        self.successResultOf(self.run_job())
        (result,) = self.reported()
        self.assertEqual(result.placeholder, PLACEHOLDER)
        self.assertRegex(result.pixels or "", DIGEST)

    def test_order_of_the_steps(self) -> None:
        """
        The result is sent after the last picture, and the original is deleted after the result.
        """
        self.successResultOf(self.run_job())
        self.assertEqual(
            self.diary,
            ["private get", *["public put"] * 3, "results send", "private delete"],
        )

    def test_result_has_the_duration_of_each_step(self) -> None:
        """The ready result has the duration of each step."""
        held = self.cruncher.hold()
        running = self.run_job()
        self.clock.advance(1.5)
        held.callback(None)
        self.successResultOf(running)
        (result,) = self.reported()
        self.assertEqual(result.timing, {"get": 0, "crunch": 1.5, "put": 0})

    def test_repeated_job_is_idempotent(self) -> None:
        """A repeated job sends the same result and changes no object."""
        self.successResultOf(self.run_job())
        self.assert_done()
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(len(self.cruncher.crunched), 1)

    def test_repeated_job_with_its_original(self) -> None:
        """A repeated job whose original was not deleted puts the same pictures again."""
        self.private.fail("delete", StorageError("down"))
        self.failureResultOf(self.run_job(), StorageError)
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(len(self.cruncher.crunched), 2)

    def test_concurrent_workers_agree(self) -> None:
        """
        Two workers that run the same job at the same time end with the same objects and results.
        """
        held = self.cruncher.hold()
        first = self.run_job()
        # Within one process, they would run one after the other.
        self.runner = replace(self.runner)
        self.successResultOf(self.run_job())
        held.callback(None)
        self.successResultOf(first)
        self.assert_done()

    def test_jobs_of_one_avatar_run_one_after_the_other(self) -> None:
        """A delete job waits until the crunch job of its avatar has put its last picture."""
        held = self.cruncher.hold()
        crunching, deleting = self.run_job(), self.run_job(Op.DELETE)
        self.assertNoResult(deleting)
        held.callback(None)
        self.successResultOf(crunching)
        self.successResultOf(deleting)
        self.assertEqual(self.public_objects.objects, {})

    def test_a_cancelled_job_does_not_wait(self) -> None:
        """A job that is cancelled while it waits for another ends, and the next one runs."""
        held = self.cruncher.hold()
        crunching, waiting = self.run_job(), self.run_job(Op.DELETE)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        held.callback(None)
        self.successResultOf(crunching)
        self.successResultOf(self.run_job(Op.DELETE))


class WithoutOriginalTests(JobsTestCase):
    """Crunch jobs whose original was deleted."""

    def setUp(self) -> None:
        super().setUp()
        self.private_objects.objects.clear()

    def test_ready_if_all_pictures_exist(self) -> None:
        """If all pictures exist, the job was done before: the result is ready, with their sides."""
        self.public_objects.objects.update(self.expected())
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(self.cruncher.crunched, [])

    def test_picture_in_one_byte_pieces(self) -> None:
        """The sides of a picture are read even if its body arrives byte by byte."""
        self.public_objects.objects.update(self.expected())
        whole = self.public_objects.get

        async def get(*, key: str) -> Any:
            info, body = await whole(key=key)
            pieces = [bytes([byte]) async for byte in _bytes_of(body)]
            return info, _PiecesBody(pieces)

        self.public_objects.get = get
        self.successResultOf(self.run_job())
        self.assert_done()

    def test_lost_if_a_picture_is_missing(self) -> None:
        """If one of the pictures is missing, the upload has failed as lost."""
        for missing in VARIANTS:
            self.public_objects.objects = self.expected()
            del self.public_objects.objects[public_key(ID, missing)]
            self.successResultOf(self.run_job())
            self.assertEqual(self.reported(), [Result(ID, ResultStatus.FAILED, "lost")])

    def test_other_objects_are_not_reported_as_ready(self) -> None:
        """Objects that are not PNGs fail the job and are never reported as ready."""
        for data in (b"", b"\x89PNG", b"GIF89a" + b"x" * 100):
            self.public_objects.objects = dict.fromkeys(self.expected(), data)
            self.failureResultOf(self.run_job(), StorageError)
            self.assertEqual(self.reported(), [])


class DeleteTests(JobsTestCase):
    """Delete jobs."""

    def test_pictures_then_original_then_result(self) -> None:
        """A delete job removes the pictures, then the original, and then sends its result."""
        self.public_objects.objects.update(self.expected())
        self.public_objects.objects["a/" + "f" * 32] = b"of somebody else"
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {"a/" + "f" * 32: b"of somebody else"})
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual(self.diary, ["public delete", "private delete", "results send"])
        self.assertEqual(self.reported(), [Result(ID, ResultStatus.DELETED)])

    def test_missing_objects_count_as_deleted(self) -> None:
        """A delete job without any objects succeeds."""
        self.private_objects.objects.clear()
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.reported(), [Result(ID, ResultStatus.DELETED)])

    def test_failed_delete_sends_no_result(self) -> None:
        """A delete job that fails sends no result, and succeeds when it is repeated."""
        self.public_objects.objects.update(self.expected())
        for driver, error in ((self.public, StorageError("x")), (self.private, StorageError("x"))):
            for after in (False, True):
                driver.fail("delete", error, after=after)
                self.failureResultOf(self.run_job(Op.DELETE), StorageError)
                self.assertEqual(self.reported(), [])
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {})
        self.assertEqual(self.reported(), [Result(ID, ResultStatus.DELETED)])


class _PiecesBody:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> _PiecesBody:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._pieces = iter(())
