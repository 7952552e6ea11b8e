"""
Tests of :mod:`fxprofile.worker.jobs`: jobs that fail.
"""

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
from fxprofile.model.ports import ObjectInfo
from fxprofile.worker.jobs import WRITE_SIZE
from tests.support.fakes.flaky import Flaky
from tests.worker.jobs_case import ID, ORIGINAL, JobsTestCase


class FailingImageTests(JobsTestCase):
    """Images and children that fail."""

    def assert_failed(self, reason: str) -> None:
        """The result has the reason, the original is deleted, and no picture is public."""
        (result,) = self.reported()
        self.assertEqual(result, Result(ID, ResultStatus.FAILED, reason))
        self.assertEqual(self.private_objects.objects, {})
        self.assertEqual(self.public_objects.objects, {})
        self.assertEqual(self.counted(reason), 1)

    def test_refused_image_fails_at_once(self) -> None:
        """An image that is refused fails without a retry, with its reason."""
        for reason in ("unsupported", "corrupt", "too_many_pixels", "too_large"):
            self.private_objects.objects[ID] = ORIGINAL
            self.cruncher.plan = [ImageRefused(reason, "detail")]
            self.successResultOf(self.run_job())
            self.assert_failed(reason)

    def test_original_is_deleted_after_the_result(self) -> None:
        """The original of a failed image is deleted after the result was sent."""
        self.cruncher.plan = [ImageRefused("corrupt")]
        self.successResultOf(self.run_job())
        self.assertEqual(self.diary, ["private get", "results send", "private delete"])

    def test_failed_child_is_retried(self) -> None:
        """An image whose child died is crunched again in a fresh child."""
        self.cruncher.plan = [ChildFailed("crashed")]
        self.successResultOf(self.run_job())
        self.assert_done()
        self.assertEqual(self.cruncher.crunched, [ORIGINAL, ORIGINAL])

    def test_second_failed_child_fails_the_image(self) -> None:
        """If the second child fails too, the image fails with the second reason."""
        for reason in ("crashed", "timeout", "memory"):
            self.private_objects.objects[ID] = ORIGINAL
            self.cruncher.plan = [ChildFailed("crashed"), ChildFailed(reason)]
            self.successResultOf(self.run_job())
            self.assert_failed(reason)

    def test_second_child_refuses_the_image(self) -> None:
        """An image that the second child refuses fails with that reason."""
        self.cruncher.plan = [ChildFailed("timeout"), ImageRefused("corrupt")]
        self.successResultOf(self.run_job())
        self.assert_failed("corrupt")

    def test_no_child_is_no_fault_of_the_image(self) -> None:
        """If no child can be started, the job fails without a result and can be repeated."""
        self.cruncher.plan = [CruncherUnavailable("no helper")]
        self.failureResultOf(self.run_job(), CruncherUnavailable)
        self.assertEqual(self.reported(), [])
        self.successResultOf(self.run_job())
        self.assert_done()

    def test_every_reason_survives_the_queue(self) -> None:
        """Every reason of a failure is decoded as it was encoded."""
        for reason in REASONS:
            self.cruncher.plan = [ImageRefused(reason)]
            self.private_objects.objects[ID] = ORIGINAL
            self.successResultOf(self.run_job())
            self.assertEqual(self.reported()[0].reason, reason)


class FailingDriverTests(JobsTestCase):
    """Buckets and queues that fail: a repeated job succeeds."""

    def test_job_is_repeatable_after_any_failed_call(self) -> None:
        """After any call has failed, before or after its effect, a repeated job succeeds."""
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

    def test_original_is_kept_until_the_result_is_sent(self) -> None:
        """The original is kept while the result cannot be sent."""
        self.results.fail("send", QueueError("down"))
        self.failureResultOf(self.run_job(), QueueError)
        self.assertEqual(self.private_objects.objects, {ID: ORIGINAL})

    def test_failed_download_closes_the_body(self) -> None:
        """A download that fails in the middle fails the job and closes the body."""
        body = _BrokenBody(StorageError("reset"))
        self.private_objects.get = body.get
        self.failureResultOf(self.run_job(), StorageError)
        self.assertTrue(body.closed)
        self.assertEqual(self.cruncher.crunched, [])

    def test_temporary_files_are_closed(self) -> None:
        """The temporary file is closed after success, failure and a failed download."""
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
    """A job that is cancelled because its lease was lost."""

    def test_cancelled_while_crunching(self) -> None:
        """
        A job cancelled while crunching cancels the child, and sends, puts and deletes nothing.
        """
        self.cruncher.hold()
        running = self.run_job()
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.cruncher.cancelled, 1)
        self.assertEqual(self.diary, ["private get"])
        self.assertEqual(len(self.cruncher.crunched), 1)

    def test_cancelled_while_putting(self) -> None:
        """A job cancelled while putting pictures sends no result and can be repeated."""
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
        self._pieces = iter([bytes(WRITE_SIZE)])
        self.closed = False

    async def get(self, *, key: str, as_file: bool) -> Any:
        return ObjectInfo(key, len(ORIGINAL), "etag", 0), self

    def __aiter__(self) -> _BrokenBody:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise self._error

    async def aclose(self) -> None:
        self.closed = True
