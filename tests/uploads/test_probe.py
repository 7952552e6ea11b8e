"""The checks of buckets with a probe object."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.aws.s3 import MAX_BUFFERED
from fxprofile.model.errors import StorageError
from fxprofile.model.keys import PROBE, is_id
from fxprofile.uploads.probe import INTERVAL, UploadProbe, check_bucket
from tests.support.fakes.bucket import MemoryBucket


class _Forgetful(MemoryBucket):
    """A bucket that does not delete."""

    async def delete(self, *, keys: Any) -> None:
        pass


class _Mixed(MemoryBucket):
    """A bucket that stores other bytes."""

    async def put(self, *, key: str, body: Any, length: int, content_type: str) -> None:
        await super().put(
            key=key, body=BytesBody(b"x" * length), length=length, content_type=content_type
        )


class ProbeTests(SynchronousTestCase):
    """The check of a bucket."""

    ALL = frozenset({"put", "get", "delete"})

    def test_a_bucket_that_misbehaves_is_an_error(self) -> None:
        """A bucket that keeps a deleted object or returns other bytes is an error."""
        for bucket, text in ((_Forgetful(), "after it was deleted"), (_Mixed(), "has other bytes")):
            failure = self.failureResultOf(
                Deferred.fromCoroutine(check_bucket(bucket, self.ALL)), StorageError
            )
            self.assertIn(text, str(failure.value))

    def test_a_check_uses_only_the_rights_given(self) -> None:
        """Without the right to put, a check looks for and deletes an object that does not exist."""
        for rights in (self.ALL, frozenset({"get"}), frozenset({"get", "delete"})):
            bucket = MemoryBucket()
            self.successResultOf(Deferred.fromCoroutine(check_bucket(bucket, rights)))
            listing = bucket.list(prefix="", after="", limit=9)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(listing)), [])

    def test_a_probe_is_longer_than_what_is_sent_in_another_way(self) -> None:
        """A probe object is streamed as a long upload is, under a key that no upload has."""
        bucket = MemoryBucket()
        rights = frozenset({"put"})
        self.successResultOf(Deferred.fromCoroutine(check_bucket(bucket, rights)))
        self.assertGreater(len(bucket.objects[PROBE]), MAX_BUFFERED)
        self.assertFalse(is_id(PROBE))


class UploadProbeTests(SynchronousTestCase):
    """The health check of the private bucket."""

    def setUp(self) -> None:
        self.clock, self.bucket = Clock(), MemoryBucket()
        self.probe = UploadProbe(
            bucket=self.bucket, rights=frozenset({"put", "delete"}), clock=self.clock
        )

    def puts(self) -> int:
        return [operation for operation, _ in self.bucket.calls].count("put")

    def check(self) -> Any:
        return Deferred.fromCoroutine(self.probe.check())

    def test_a_working_bucket_is_probed_once_a_minute(self) -> None:
        """A probe object is put once in an interval, and removed if the rights allow it."""
        for _ in range(3):
            self.successResultOf(self.check())
        self.assertEqual((self.puts(), self.bucket.objects), (1, {}))
        self.clock.advance(INTERVAL)
        self.successResultOf(self.check())
        self.assertEqual(self.puts(), 2)

    def test_a_failed_probe_is_repeated_at_once(self) -> None:
        """A bucket that refuses a probe is unhealthy until it accepts one."""
        self.bucket.fail_next("put", StorageError("refused"))
        self.failureResultOf(self.check(), StorageError)
        self.successResultOf(self.check())
        self.assertEqual(self.bucket.objects, {})
