"""Tests of jobs that fail."""

from __future__ import annotations

import tempfile
from typing import Any

from twisted.internet.defer import CancelledError

from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import (
    ChildFailed,
    CruncherUnavailable,
    DriverError,
    ImageRefused,
    QueueError,
    StorageError,
)
from fxprofile.model.messages import Result, ResultStatus
from tests.support.fakes.flaky import Flaky
from tests.worker.jobs_case import ID, ORIGINAL, JobsTestCase


class FailingImageTests(JobsTestCase):
    """Images and children that fail."""

    def assert_failed(self, reason: str) -> None:
        """The result says why, the original is gone, and nothing is public."""
        (result,) = self.reported()
        self.assertEqual(result, Result(ID, ResultStatus.FAILED, reason))
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


class FailingOutsideTests(JobsTestCase):
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


class CancelledTests(JobsTestCase):
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
