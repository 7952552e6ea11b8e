"""
Tests of :mod:`fxprofile.worker.jobs`.
"""

from __future__ import annotations

from typing import Any

from fxprofile.model.errors import StorageError
from fxprofile.model.keys import FORMATS, VARIANTS, public_key, public_keys
from fxprofile.model.messages import Op, Result, ResultStatus
from tests.support.fakes.cruncher import PLACEHOLDER, pictures_of
from tests.worker.jobs_case import ID, ORIGINAL, JobsTestCase, _bytes_of


class CrunchingTests(JobsTestCase):
    """A crunch job that nothing disturbs."""

    def test_done(self) -> None:
        """An original becomes three pictures and a result, and goes."""
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(set(self.public_objects.types.values()), {"image/png"})
        self.assertEqual(self.cruncher.crunched, [ORIGINAL])
        self.assertEqual(self.counted("ready"), 1)

    def test_formats(self) -> None:
        """What is wanted in other formats lies beside the PNGs, which come last."""
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

    def test_formats_go_too(self) -> None:
        """A deleted avatar leaves nothing in any format, whatever is wanted now."""
        for key in public_keys(ID):
            self.public_objects.objects[key] = b"a picture"
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {})

    def test_placeholder(self) -> None:
        """The result has the placeholder."""
        self.successResultOf(self.run_job())
        (result,) = self.reported()
        self.assertEqual(result.placeholder, PLACEHOLDER)

    def test_order(self) -> None:
        """The result comes after the last picture, and the original goes after the result."""
        self.successResultOf(self.run_job())
        self.assertEqual(
            self.diary,
            ["private get", *["public put"] * 3, "results send", "private delete"],
        )

    def test_timing(self) -> None:
        """The result says how long each step took."""
        held = self.cruncher.hold()
        running = self.run_job()
        self.clock.advance(1.5)
        held.callback(None)
        self.successResultOf(running)
        (result,) = self.reported()
        self.assertEqual(result.timing, {"get": 0, "crunch": 1.5, "put": 0})

    def test_again(self) -> None:
        """A job that is done twice tells the same twice, and changes no byte."""
        self.successResultOf(self.run_job())
        self.assert_done()
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(len(self.cruncher.crunched), 1)

    def test_again_with_original(self) -> None:
        """If the original is still there the same pictures are put once more."""
        self.private.fail("delete", StorageError("down"))
        self.failureResultOf(self.run_job(), StorageError)
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(len(self.cruncher.crunched), 2)

    def test_two_at_a_time(self) -> None:
        """Two workers at the same job come to the same end."""
        held = self.cruncher.hold()
        first = self.run_job()
        self.successResultOf(self.run_job())
        held.callback(None)
        self.successResultOf(first)
        self.assert_done()


class WithoutOriginalTests(JobsTestCase):
    """Crunch jobs whose original is gone."""

    def setUp(self) -> None:
        super().setUp()
        self.private_objects.objects.clear()

    def test_pictures_are_there(self) -> None:
        """All was done before: that is said again, with the sides read from the pictures."""
        self.public_objects.objects.update(self.expected())
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(self.cruncher.crunched, [])

    def test_picture_in_small_pieces(self) -> None:
        """A picture whose first bytes come one by one is read all the same."""
        self.public_objects.objects.update(self.expected())
        whole = self.public_objects.get

        async def get(*, key: str) -> Any:
            info, body = await whole(key=key)
            pieces = [bytes([byte]) async for byte in _bytes_of(body)]
            return info, _PiecesBody(pieces)

        self.public_objects.get = get
        self.successResultOf(self.run_job())
        self.assert_done()

    def test_pictures_are_gone(self) -> None:
        """If not all of the pictures are there, the upload is lost."""
        for missing in VARIANTS:
            self.public_objects.objects = self.expected()
            del self.public_objects.objects[public_key(ID, missing)]
            self.successResultOf(self.run_job())
            self.assertEqual(self.reported(), [Result(ID, ResultStatus.FAILED, "lost")])

    def test_not_pictures(self) -> None:
        """What is not a picture of ours is never called ready."""
        for data in (b"", b"\x89PNG", b"GIF89a" + b"x" * 100):
            self.public_objects.objects = dict.fromkeys(self.expected(), data)
            self.failureResultOf(self.run_job(), StorageError)
            self.assertEqual(self.reported(), [])


class DeleteTests(JobsTestCase):
    """Delete jobs."""

    def test_everything_goes(self) -> None:
        """Every picture goes, then the original, and then the result says so."""
        self.public_objects.objects.update(self.expected())
        self.public_objects.objects["a/" + "f" * 32] = b"of somebody else"
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {"a/" + "f" * 32: b"of somebody else"})
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual(self.diary, ["public delete", "private delete", "results send"])
        self.assertEqual(self.reported(), [Result(ID, ResultStatus.DELETED)])

    def test_nothing_there(self) -> None:
        """What is gone already counts as deleted."""
        self.private_objects.objects.clear()
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.reported(), [Result(ID, ResultStatus.DELETED)])

    def test_failures(self) -> None:
        """Nothing is reported before all is gone, and the job can be done again."""
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
