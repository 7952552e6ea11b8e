"""
Tests of the S3 bucket against real servers.
"""

from __future__ import annotations

from typing import Any

from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.s3 import S3Bucket
from fxprofile.model.errors import StorageError
from tests.contracts.bucket import BucketContract
from tests.drivers.aws.support import chain, make_client
from tests.drivers.aws.tls import trusting_agent
from tests.support.servers import moto, s3rver


class MotoBucketTests(BucketContract, TestCase):
    """The contract of buckets, against moto."""

    async def setUp(self) -> None:
        url = moto.shared.url
        moto.shared.reset()
        client = make_client(reactor)
        self.addCleanup(client.transport.close)
        s3 = AwsService(client, "s3", url)
        await s3.call("CreateBucket", {"Bucket": "bucket"})
        self.bucket = S3Bucket(s3, "bucket")


def _skipped(reason: str) -> Any:
    async def test(self: TestCase) -> None:
        """This server differs from S3 here."""

    test.skip = reason  # type: ignore[attr-defined]
    return test


class S3rverBucketTests(BucketContract, TestCase):
    """The contract of buckets, against s3rver with TLS and verified signatures."""

    test_a_list_is_sorted_and_filtered = _skipped("s3rver does not sort its lists by key")
    test_pages_contain_each_object_once = _skipped("s3rver does not continue after some keys")
    test_one_of_simultaneous_puts_wins = _skipped("s3rver writes all bodies of a key into one file")
    test_a_failing_body_stores_nothing = _skipped("s3rver stores incomplete bodies")

    async def setUp(self) -> None:
        self.bucket = self.make_bucket(s3rver.SECRET_KEY)
        found = await self.bucket.list(prefix="", after="", limit=1000)
        await self.bucket.delete(keys=[info.key for info in found])

    def make_bucket(self, secret: str) -> S3Bucket:
        url = s3rver.shared.url
        client = make_client(
            reactor,
            agent=trusting_agent(self, s3rver.shared.certificate),
            credentials=chain(reactor, lambda: Credentials(s3rver.ACCESS_KEY, secret)),
        )
        return S3Bucket(AwsService(client, "s3", url), "bucket", {"CacheControl": "no-store"})

    async def test_a_wrong_secret_is_refused(self) -> None:
        """The server refuses requests that are signed with another secret."""
        for work in (
            self.make_bucket("other").list(prefix="", after="", limit=1),
            self.make_bucket("other").get(key="k"),
        ):
            error = await self.rejected(StorageError, work)
            self.assertIn("SignatureDoesNotMatch", str(error))
