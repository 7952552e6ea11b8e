"""
Tests of the requests and responses of the S3 bucket.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from xml.etree import ElementTree

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fxprofile.deferreds.bodies import read_all
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.s3 import S3Bucket, s3_bucket
from fxprofile.model.errors import ObjectNotFound
from fxprofile.model.keys import PROBE
from fxprofile.settings.model import Settings
from tests.drivers.aws.s3_case import BucketCase
from tests.drivers.aws.server import ScriptedServer, answer, cut, hang, xml_error
from tests.drivers.aws.support import make_client


class GetTests(BucketCase):
    async def get(self, *script: Any) -> Any:
        _, bucket = self.serve(*script)
        return await bucket.get(key="k")

    async def test_only_a_missing_object_is_not_found(self) -> None:
        """A missing object raises ObjectNotFound; a missing bucket or permission does not."""
        await self.fails(self.get(xml_error(404, "NoSuchKey")), ObjectNotFound)
        await self.fails(self.get(xml_error(404, "NoSuchBucket")))
        await self.fails(self.get(xml_error(403, "AccessDenied")))
        _, bucket = self.serve(answer(404), answer(403))
        await self.fails(bucket.head(key="k"), ObjectNotFound)
        await self.fails(bucket.head(key="k"))

    async def test_a_truncated_body_is_an_error(self) -> None:
        """A truncated body raises StorageError."""
        info, body = await self.get(cut(100, b"x" * 50, ETag='"t"'))
        self.assertEqual((info.length, info.etag), (100, "t"))
        self.assertEqual(await body.__anext__(), b"x" * 50)
        await self.fails(body.__anext__())

    async def test_a_body_must_match_its_etag(self) -> None:
        """A body whose MD5 is not its ETag raises StorageError at its end."""
        good, bad = b"x" * 50, b"y" * 50
        tag = f'"{hashlib.md5(good).hexdigest()}"'
        _, body = await self.get(answer(200, bad, ETag=tag))
        self.assertEqual(await body.__anext__(), bad)
        self.assertIn("ETag", await self.fails(body.__anext__()))
        for headers in ({}, {"x_amz_server_side_encryption": "AES256"}):
            _, body = await self.get(answer(200, good, ETag=tag, **headers))
            self.assertEqual(await read_all(body, 100), good)

    async def test_an_etag_that_is_no_digest_is_not_compared(self) -> None:
        """The ETag of an object that is encrypted by KMS or in parts is not compared."""
        for tag, encryption in (("0" * 32 + "-2", "AES256"), ("0" * 32, "aws:kms")):
            behave = answer(200, b"x", ETag=f'"{tag}"', x_amz_server_side_encryption=encryption)
            _, body = await self.get(behave)
            self.assertEqual(await read_all(body, 100), b"x")

    async def test_a_response_without_etag_is_an_error(self) -> None:
        """A response without ETag, such as the page of a proxy, raises StorageError."""
        self.assertIn("not from S3", await self.fails(self.get(answer(200))))

    async def test_a_body_of_unknown_length_is_an_error(self) -> None:
        """A body without an announced length raises StorageError at its end."""

        def chunked(request: Any) -> int:
            request.setHeader("etag", '"t"')
            request.write(b"x" * 50)
            request.finish()
            return 1

        _, body = await self.get(chunked)
        self.assertEqual(await body.__anext__(), b"x" * 50)
        self.assertIn("too long", await self.fails(body.__anext__()))

    async def test_a_cancelled_get_leaves_no_connection(self) -> None:
        """A get that is cancelled before its response closes its connection."""
        _, bucket = self.serve(hang)
        getting = Deferred.fromCoroutine(bucket.get(key="k"))
        await deferLater(reactor, 0.02)
        getting.cancel()
        await self.fails(getting, CancelledError)


class DeleteTests(BucketCase):
    def errors(self, **codes: str) -> Any:
        entries = "".join(
            f"<Error><Key>{key}</Key><Code>{code}</Code><Message>m</Message></Error>"
            for key, code in codes.items()
        )
        return answer(200, f"<DeleteResult>{entries}</DeleteResult>".encode())

    def keys(self, seen: Any) -> list[str | None]:
        return [node.text for node in ElementTree.fromstring(seen.body).iterfind(".//{*}Key")]

    async def test_many_objects_are_deleted_in_batches(self) -> None:
        """Many objects are deleted in batches of a thousand, and a single one by one call."""
        server, bucket = self.serve(self.errors(), self.errors(), answer(204))
        keys = [f"k{number}" for number in range(1500)]
        await bucket.delete(keys=keys)
        self.assertEqual(self.keys(server.seen[0]) + self.keys(server.seen[1]), keys)
        self.assertEqual(len(self.keys(server.seen[0])), 1000)
        digest = base64.b64encode(hashlib.md5(server.seen[0].body).digest()).decode()
        self.assertEqual(server.seen[0].headers["content-md5"], digest)
        await bucket.delete(keys=["one"])
        self.assertEqual((server.seen[2].method, server.seen[2].uri), ("DELETE", "/bucket/one"))

    async def test_failed_deletes_are_retried(self) -> None:
        """Only the objects that S3 failed to delete are retried."""
        server, bucket = self.serve(
            self.errors(b="InternalError"), self.errors(b="SlowDown"), self.errors()
        )
        await bucket.delete(keys=["a", "b"])
        self.assertEqual([self.keys(seen) for seen in server.seen], [["a", "b"], ["b"], ["b"]])

    async def test_an_object_that_stays_is_an_error(self) -> None:
        """A delete that is refused or fails repeatedly names an object."""
        _, bucket = self.serve(*[self.errors(b="InternalError")] * 3)
        self.assertIn("bucket/b: InternalError", await self.fails(bucket.delete(keys=["a", "b"])))
        server, bucket = self.serve(self.errors(a="AccessDenied", b="InternalError"))
        self.assertIn("bucket/a: AccessDenied", await self.fails(bucket.delete(keys=["a", "b"])))
        self.assertEqual(len(server.seen), 1)

    async def test_missing_objects_count_as_deleted(self) -> None:
        """An object that the server reports as missing counts as deleted."""
        _, bucket = self.serve(self.errors(a="NoSuchKey"))
        await bucket.delete(keys=["a", "b"])


class CheckTests(BucketCase):
    async def test_a_bucket_is_checked_by_a_list(self) -> None:
        """A bucket that may be listed is checked by one list."""
        server, bucket = self.serve(answer(200, b"<ListBucketResult/>"))
        await bucket.check()
        self.assertEqual([seen.method for seen in server.seen], ["GET"])

    async def test_a_bucket_is_checked_by_a_put(self) -> None:
        """A refused list is followed by a put, and is not repeated if that succeeds."""
        refusal = xml_error(403, "AccessDenied")
        server, bucket = self.serve(refusal, answer(200), answer(200))
        await bucket.check()
        await bucket.check()
        self.assertEqual([seen.method for seen in server.seen], ["GET", "PUT", "PUT"])
        self.assertEqual((server.seen[2].uri, server.seen[2].body), (f"/bucket/{PROBE}", b""))

    async def test_a_failed_check_gives_its_reasons(self) -> None:
        """The check of a missing bucket, or of one that refuses both, names the reasons."""
        _, bucket = self.serve(xml_error(404, "NoSuchBucket"))
        self.assertIn("NoSuchBucket", await self.fails(bucket.check()))
        refusals = (
            xml_error(403, "AccessDenied", "no list"),
            xml_error(403, "AccessDenied", "no put"),
        )
        _, bucket = self.serve(*refusals)
        text = await self.fails(bucket.check())
        self.assertIn("no list", text)
        self.assertIn("no put", text)


class AddressTests(BucketCase):
    async def test_a_bucket_can_be_in_the_host(self) -> None:
        """With virtual addressing the bucket is in the host."""
        server = ScriptedServer(self, answer(204))
        url = server.url.replace("127.0.0.1", "localhost")
        bucket = self.bucket(url, addressing="virtual")
        endpoint = await bucket._service.endpoint("bucket")
        self.assertEqual(endpoint.url, url.replace("localhost", "bucket.localhost"))


class ServiceTests(BucketCase):
    async def test_a_stopped_client_closes_its_connections(self) -> None:
        """A client that stops closes its idle connections, and can be used again."""
        server = ScriptedServer(self, *[answer(204)] * 2)
        client = make_client(reactor)
        bucket = S3Bucket(AwsService(client, "s3", server.url), "bucket")
        for _ in range(2):
            client.startService()
            await bucket.delete(keys=["k"])
            # Trial fails a test that leaves a connection open.
            await client.stopService()


class SettingsTests(TestCase):
    def test_a_bucket_has_the_settings_of_its_kind(self) -> None:
        """Only the public bucket's objects may be cached."""
        settings = Settings(storage={"driver": "s3"}, images={"max_age": 7})
        client = make_client(reactor)
        private = s3_bucket(settings, client, "fxprofile-private")
        public = s3_bucket(settings, client, "fxprofile-public")
        self.assertEqual(private._put_settings, {"CacheControl": "no-store"})
        self.assertEqual(public._put_settings, {"CacheControl": "public, max-age=7"})
