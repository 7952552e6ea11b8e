"""
Tests of :mod:`fxprofile.crunch`.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch import Crunch
from fxprofile.errors import (
    ChildFailed,
    CruncherUnavailable,
    DriverError,
    ImageRefused,
    QueueError,
    StorageError,
)
from fxprofile.keys import FORMATS, VARIANTS, public_key, public_keys
from fxprofile.metrics import Metrics
from fxprofile.model import REASONS, Job, Op, Outcome, Result
from fxprofile.queues.memory import MemoryQueue
from tests.fakes.bucket import MemoryBucket
from tests.fakes.cruncher import PLACEHOLDER, FakeCruncher, pictures_of
from tests.fakes.flaky import Flaky
from tests.fakes.threads import InlineThreads

ID = "0123456789abcdef" * 2
ORIGINAL = b"\xff\xd8\xff an original" * 10_000


class CrunchTestCase(SynchronousTestCase):
    """A worker whose private bucket holds one original."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.diary: list[str] = []
        self.private_objects = MemoryBucket(self.clock)
        self.public_objects = MemoryBucket(self.clock)
        self.queue = MemoryQueue("results", 30, None, self.clock)
        self.private = Flaky(self.private_objects, "private", self.diary)
        self.public = Flaky(self.public_objects, "public", self.diary)
        self.results = Flaky(self.queue, "results", self.diary)
        self.cruncher = FakeCruncher()
        self.metrics = Metrics()
        self.crunch = Crunch(
            private=self.private,
            public=self.public,
            results=self.results,
            cruncher=self.cruncher,
            threads=InlineThreads(),
            metrics=self.metrics,
            clock=self.clock,
        )
        self.private_objects.objects[ID] = ORIGINAL

    def run_job(self, op: Op = Op.CRUNCH) -> Deferred[None]:
        """Do a job."""
        return Deferred.fromCoroutine(self.crunch.run(Job(op, ID)))

    def run_now(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of work that waits for nothing."""
        return self.successResultOf(Deferred.fromCoroutine(work))

    def fails_now(self, work: Coroutine[Any, Any, Any], *kinds: type[Exception]) -> None:
        """See work that waits for nothing fail."""
        self.failureResultOf(Deferred.fromCoroutine(work), *kinds)

    def reported(self) -> list[Result]:
        """What the results queue was told since the last time."""
        receiving = Deferred.fromCoroutine(self.queue.receive(max_messages=10, wait=0))
        messages = self.successResultOf(receiving)
        for message in messages:
            self.successResultOf(Deferred.fromCoroutine(self.queue.delete(message=message)))
        return [Result.decode(message.body) for message in messages]

    def expected(self) -> dict[str, bytes]:
        """What the public bucket should hold when all is done."""
        return {public_key(ID, name): data for name, (_, data) in pictures_of(ORIGINAL).items()}

    def assert_done(self) -> None:
        """The pictures are there, the original is gone, and the last result says ready."""
        self.assertEqual(self.public_objects.objects, self.expected())
        self.assertEqual(self.private_objects.objects, {})
        last = self.reported()[-1]
        self.assertEqual((last.id, last.status), (ID, Outcome.READY))
        self.assertEqual(
            last.variants, {name: variant for name, (variant, _) in pictures_of(ORIGINAL).items()}
        )

    def counted(self, outcome: str) -> float:
        """How many images had this outcome."""
        labels = {"outcome": outcome}
        return self.metrics.registry.get_sample_value("fxprofile_crunched_total", labels) or 0


class CrunchingTests(CrunchTestCase):
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


class FailingImageTests(CrunchTestCase):
    """Images and children that fail."""

    def assert_failed(self, reason: str) -> None:
        """The result says why, the original is gone, and nothing is public."""
        (result,) = self.reported()
        self.assertEqual(result, Result(ID, Outcome.FAILED, reason))
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual(self.public_objects.objects, {})
        self.assertEqual(self.counted(reason), 1)

    def test_refused(self) -> None:
        """An image that is at fault fails for good, with its reason, at the first try."""
        for reason in ("unsupported", "corrupt", "too_many_pixels", "too_large"):
            self.private_objects.objects[ID] = ORIGINAL
            self.cruncher.plan = [ImageRefused(reason, "detail")]
            self.successResultOf(self.run_job())
            self.assert_failed(reason)

    def test_order(self) -> None:
        """The original of a failed image goes after the result."""
        self.cruncher.plan = [ImageRefused("corrupt")]
        self.successResultOf(self.run_job())
        self.assertEqual(self.diary, ["private get", "results send", "private delete"])

    def test_child_fails_once(self) -> None:
        """A child that died is followed by a fresh one."""
        self.cruncher.plan = [ChildFailed("crashed")]
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(self.cruncher.crunched, [ORIGINAL, ORIGINAL])

    def test_child_fails_twice(self) -> None:
        """If the second child fails as well, the image has failed, for the second reason."""
        for reason in ("crashed", "timeout", "memory"):
            self.private_objects.objects[ID] = ORIGINAL
            self.cruncher.plan = [ChildFailed("crashed"), ChildFailed(reason)]
            self.successResultOf(self.run_job())
            self.assert_failed(reason)

    def test_refused_by_the_second_child(self) -> None:
        """What the second child says of the image counts."""
        self.cruncher.plan = [ChildFailed("timeout"), ImageRefused("corrupt")]
        self.successResultOf(self.run_job())
        self.assert_failed("corrupt")

    def test_no_child(self) -> None:
        """If there could be no child the image is not at fault: it is tried again."""
        self.cruncher.plan = [CruncherUnavailable("no helper")]
        self.failureResultOf(self.run_job(), CruncherUnavailable)
        self.assertEqual(self.reported(), [])
        self.successResultOf(self.run_job())
        self.assert_done()

    def test_reasons(self) -> None:
        """Every reason that is reported can be read again."""
        for reason in REASONS:
            self.cruncher.plan = [ImageRefused(reason)]
            self.private_objects.objects[ID] = ORIGINAL
            self.successResultOf(self.run_job())
            self.assertEqual(self.reported()[0].reason, reason)


class FailingOutsideTests(CrunchTestCase):
    """Buckets and queues that fail: the job is done again, and comes to a good end."""

    def test_every_call_fails(self) -> None:
        """
        Whichever call fails, before or after its effect, is raised, and the job that is
        done again is done.
        """
        calls: list[tuple[Flaky, str, DriverError, int]] = [
            (self.private, "get", StorageError("down"), 0),
            *((self.public, "put", StorageError("down"), skip) for skip in range(3)),
            (self.results, "send", QueueError("down"), 0),
            (self.private, "delete", StorageError("down"), 0),
        ]
        for driver, method, error, skip in calls:
            for after in (False, True):
                self.private_objects.objects[ID] = ORIGINAL
                self.public_objects.objects.clear()
                driver.fail(method, error, after=after, skip=skip)
                self.failureResultOf(self.run_job(), type(error))
                self.successResultOf(self.run_job())
                self.assert_done()

    def test_original_is_kept(self) -> None:
        """As long as the result is not on its queue, the original stays."""
        self.results.fail("send", QueueError("down"))
        self.failureResultOf(self.run_job(), QueueError)
        self.assertEqual(self.private_objects.objects, {ID: ORIGINAL})

    def test_body_fails(self) -> None:
        """A bucket that fails in mid-body is one that fails, and the body is closed."""
        body = _BrokenBody(StorageError("reset"))
        self.private_objects.get = body.get
        self.failureResultOf(self.run_job(), StorageError)
        self.assertTrue(body.closed)
        self.assertEqual(self.cruncher.crunched, [])

    def test_files_are_closed(self) -> None:
        """Whatever happens, no temporary file stays open."""
        files = []
        make = tempfile.TemporaryFile

        def note(*args: Any, **kwargs: Any) -> Any:
            files.append(make(*args, **kwargs))
            return files[-1]

        self.patch(tempfile, "TemporaryFile", note)
        self.successResultOf(self.run_job())
        self.private_objects.objects[ID] = ORIGINAL
        self.cruncher.plan = [ImageRefused("corrupt")]
        self.successResultOf(self.run_job())
        self.private_objects.get = _BrokenBody(StorageError("reset")).get
        self.failureResultOf(self.run_job(), StorageError)
        self.assertEqual([file.closed for file in files], [True] * 3)


class CancelledTests(CrunchTestCase):
    """A job whose lease is lost."""

    def test_while_crunching(self) -> None:
        """The child hears of it; nothing is reported, put or deleted."""
        self.cruncher.hold()
        running = self.run_job()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.cruncher.cancelled, 1)
        self.assertEqual(self.diary, ["private get"])
        self.assertEqual(len(self.cruncher.crunched), 1)

    def test_while_putting(self) -> None:
        """Pictures that are there already do not matter: no row knows them yet."""
        self.public.hold("put", after=True)
        running = self.run_job()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.reported(), [])
        self.assertEqual(self.private_objects.objects, {ID: ORIGINAL})
        self.successResultOf(self.run_job())
        self.assert_done()


class WithoutOriginalTests(CrunchTestCase):
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
            self.assertEqual(self.reported(), [Result(ID, Outcome.FAILED, "lost")])

    def test_not_pictures(self) -> None:
        """What is not a picture of ours is never called ready."""
        for data in (b"", b"\x89PNG", b"GIF89a" + b"x" * 100):
            self.public_objects.objects = dict.fromkeys(self.expected(), data)
            self.failureResultOf(self.run_job(), StorageError)
            self.assertEqual(self.reported(), [])


class DeleteTests(CrunchTestCase):
    """Delete jobs."""

    def test_everything_goes(self) -> None:
        """Every picture goes, then the original, and then the result says so."""
        self.public_objects.objects.update(self.expected())
        self.public_objects.objects["a/" + "f" * 32] = b"of somebody else"
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.public_objects.objects, {"a/" + "f" * 32: b"of somebody else"})
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual(self.diary, ["public delete", "private delete", "results send"])
        self.assertEqual(self.reported(), [Result(ID, Outcome.DELETED)])

    def test_nothing_there(self) -> None:
        """What is gone already counts as deleted."""
        self.private_objects.objects.clear()
        self.successResultOf(self.run_job(Op.DELETE))
        self.assertEqual(self.reported(), [Result(ID, Outcome.DELETED)])

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
        self.assertEqual(self.reported(), [Result(ID, Outcome.DELETED)])


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


class _BrokenBody:
    """A body that fails after its first piece."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._pieces = iter([b"first"])
        self.closed = False

    async def get(self, *, key: str) -> Any:
        return None, self

    def __aiter__(self) -> _BrokenBody:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise self._error

    async def aclose(self) -> None:
        self.closed = True


async def _bytes_of(body: Any) -> AsyncIterator[int]:
    async for piece in body:
        for byte in piece:
            yield byte
