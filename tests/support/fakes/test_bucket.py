"""
Tests of :mod:`tests.support.fakes.bucket`.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.errors import StorageError
from tests.contracts.bucket import BucketContract
from tests.support.fakes.bucket import MemoryBucket


class MemoryBucketContractTests(BucketContract, TestCase):
    def setUp(self) -> None:
        self.bucket = MemoryBucket()


class MemoryBucketTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.bucket = MemoryBucket(self.clock)

    def put(self, key: str) -> Deferred[None]:
        return Deferred.fromCoroutine(
            self.bucket.put(key=key, body=BytesBody(b"x"), length=1, content_type="image/png")
        )

    def test_objects_have_the_time_of_the_clock(self) -> None:
        """An object's modification time is that of the injected clock."""
        self.clock.advance(42)
        self.successResultOf(self.put("k"))
        info = self.successResultOf(Deferred.fromCoroutine(self.bucket.head(key="k")))
        self.assertEqual(info.modified, 42)

    def test_planned_failure_before_the_effect(self) -> None:
        """A planned failure is raised once, and that operation has no effect."""
        self.bucket.fail_next("put", StorageError("down"))
        self.failureResultOf(self.put("k"), StorageError)
        self.assertEqual(self.bucket.objects, {})
        self.successResultOf(self.put("k"))

    def test_planned_failure_after_the_effect(self) -> None:
        """A failure planned for after the effect is raised although the object was put."""
        self.bucket.fail_next("put", StorageError("lost the response"), moment="after")
        self.failureResultOf(self.put("k"), StorageError)
        self.assertEqual(self.bucket.objects, {"k": b"x"})

    def test_interrupted_operation_hangs_until_cancelled(self) -> None:
        """An operation whose interruption never fires hangs until it is cancelled."""
        self.bucket.interrupt = lambda operation, moment, keys: Deferred()
        putting = self.put("k")
        self.assertNoResult(putting)
        putting.cancel()
        self.failureResultOf(putting, CancelledError)
        self.assertEqual(self.bucket.calls, [("put", ("k",))])
