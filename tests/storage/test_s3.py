"""
Tests of :mod:`fxprofile.storage.s3`.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.storage.s3 import S3Bucket
from tests.aws.support import make_client
from tests.contracts.bucket import BucketContract
from tests.servers import moto


class S3BucketContractTests(BucketContract, TestCase):
    async def setUp(self) -> None:
        self.client = make_client(reactor)
        self.addCleanup(self.client.transport.close)
        moto.shared.reset()
        self.bucket = S3Bucket(self.client, "bucket", endpoint_url=moto.shared.url)
        await self.client.service("s3", endpoint_url=moto.shared.url).call(
            "CreateBucket", {"Bucket": "bucket"}
        )
