"""
Tests of the S3 bucket against real servers.
"""

from __future__ import annotations

import contextlib
from typing import Any

from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsRefused
from fxprofile.drivers.aws.s3 import PAYLOADS, S3Bucket
from fxprofile.model.errors import StorageError
from tests.contracts.bucket import BucketContract, ScriptedBody
from tests.drivers.aws.support import chain, make_client
from tests.drivers.aws.tls import trusting_agent
from tests.support.servers import moto, s3rver, stores
from tests.support.servers.child import ChildServer

#: Longer than what is buffered and signed as a whole.
DATA = b"0123456789" * 20_000


def _skipped(reason: str) -> Any:
    async def test(self: TestCase) -> None:
        """This server differs from S3 here."""

    test.skip = reason  # type: ignore[attr-defined]
    return test


class StoreCase(BucketContract):
    """
    The contract of buckets, against one server.

    :cvar understands: the settings ``storage.payload`` that it understands.
    """

    server: ChildServer
    access_key = (moto.ACCESS_KEY, moto.SECRET_KEY)
    understands = frozenset({"auto", *PAYLOADS})

    async def setUp(self) -> None:
        self.bucket = self.make_bucket()
        # trial reads a module's attribute suppress.
        with contextlib.suppress(AwsRefused):
            s3 = AwsService(self.make_client(), "s3", self.server.url)
            await s3.call("CreateBucket", {"Bucket": "bucket"})
        found = await self.bucket.list(prefix="", after="", limit=1000)
        await self.bucket.delete(keys=[info.key for info in found])

    def make_client(self, secret: str | None = None) -> Any:
        access, known = self.access_key
        found = Credentials(access, secret or known)
        client = make_client(reactor, credentials=chain(reactor, lambda: found))
        self.addCleanup(client.agent.stopService)
        return client

    def make_bucket(self, payload: str = "auto", secret: str | None = None) -> S3Bucket:
        s3 = AwsService(self.make_client(secret), "s3", self.server.url)
        return S3Bucket(s3, "bucket", {"CacheControl": "no-store"}, payload)

    async def test_a_stream_is_stored_as_it_is_or_not_at_all(self) -> None:
        """A stream is stored byte for byte, or refused if its payload is not understood."""
        for payload in ("auto", *PAYLOADS):
            body = ScriptedBody(DATA[:70_000], DATA[70_000:])
            put = self.make_bucket(payload).put(
                key=payload, body=body, length=len(DATA), content_type="image/png"
            )
            if payload in self.understands:
                await put
                self.assertEqual(await self.bytes_of(payload), DATA)
            else:
                await self.rejected(StorageError, put)
        self.assertEqual(set(await self.keys()), self.understands)


class MotoBucketTests(StoreCase, TestCase):
    """The contract of buckets, against moto."""

    server = moto.shared

    async def setUp(self) -> None:
        _ = moto.shared.url
        moto.shared.reset()
        await super().setUp()


class RcloneBucketTests(StoreCase, TestCase):
    """The contract of buckets, against rclone."""

    server = stores.rclone


class JuicefsBucketTests(StoreCase, TestCase):
    """The contract of buckets, against the gateway of JuiceFS."""

    server = stores.juicefs
    understands = StoreCase.understands - {"trailer"}

    test_deletes_are_idempotent = _skipped("JuiceFS keeps the folder b/, so that b cannot be put")


class S3rverCase(StoreCase):
    """The contract of buckets, against s3rver with verified signatures."""

    access_key = (s3rver.ACCESS_KEY, s3rver.SECRET_KEY)
    # It would store the encoding of the others as content.
    understands = frozenset({"auto", "unsigned"})

    test_a_list_is_sorted_and_filtered = _skipped("s3rver does not sort its lists by key")
    test_pages_contain_each_object_once = _skipped("s3rver does not continue after some keys")
    test_one_of_simultaneous_puts_wins = _skipped("s3rver writes all bodies of a key into one file")
    test_a_failing_body_stores_nothing = _skipped("s3rver stores incomplete bodies")

    async def test_a_wrong_secret_is_refused(self) -> None:
        """The server refuses requests that are signed with another secret."""
        for work in (
            self.make_bucket(secret="other").list(prefix="", after="", limit=1),
            self.make_bucket(secret="other").get(key="k"),
        ):
            error = await self.rejected(StorageError, work)
            self.assertIn("SignatureDoesNotMatch", str(error))


class S3rverWithoutTlsTests(S3rverCase, TestCase):
    """s3rver without TLS."""

    server = s3rver.without_tls


class S3rverWithTlsTests(S3rverCase, TestCase):
    """s3rver with TLS."""

    server = s3rver.shared

    def make_client(self, secret: str | None = None) -> Any:
        client = super().make_client(secret)
        client.agent = trusting_agent(self, s3rver.shared.certificate)
        return client
