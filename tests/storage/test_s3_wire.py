"""
Tests of what :mod:`fxprofile.storage.s3` says over the wire, and of what it makes of answers.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any
from xml.etree import ElementTree

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from fxprofile.aio import BytesBody, read_all
from fxprofile.config import Storage
from fxprofile.errors import BodyMismatch, ObjectNotFound, StorageError
from fxprofile.storage.s3 import PROBE, S3Bucket, s3_bucket
from tests.aws.server import RawServer, ScriptedServer, answer, cut, hang, xml_error
from tests.aws.support import InlineThreads, make_client
from tests.aws.test_bodies import decoded
from tests.aws.tls import make_certificate, trusting_client
from tests.contracts.bucket import ScriptedBody

DATA = hashlib.shake_128(b"data").digest(200_000)
MD5 = hashlib.md5(DATA).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()


class BucketCase(TestCase):
    def serve(self, *script: Any, **options: Any) -> tuple[ScriptedServer, S3Bucket]:
        server = ScriptedServer(self, *script)
        return server, self.bucket(server.url, **options)

    def bucket(self, url: str, http: Any = None, **options: Any) -> S3Bucket:
        client = make_client(reactor, http=http)
        self.addCleanup(client.transport.close)
        return S3Bucket(client, "bucket", endpoint_url=url, **options)

    async def put(self, bucket: S3Bucket, body: Any = None, length: int = len(DATA)) -> None:
        body = body or ScriptedBody(DATA[:70_000], DATA[70_000:])
        await bucket.put(key="a/k", body=body, length=length, content_type="image/png")

    async def fails(self, work: Any, kind: type[Exception] = StorageError) -> str:
        with self.assertRaises(kind) as caught:
            await work
        self.assertIs(type(caught.exception), kind)
        return str(caught.exception)


class PutTests(BucketCase):
    async def test_trailer(self) -> None:
        """Without TLS a stream is followed by its checksum, which S3 compares."""
        server, bucket = self.serve(answer(200, ETag=f'"{MD5}"'))
        await self.put(bucket)
        [seen] = server.seen
        body, trailers = decoded(seen.body)
        self.assertEqual(body, DATA)
        self.assertEqual(trailers, {"x-amz-checksum-crc32": CRC32})
        self.assertEqual(
            {
                name: seen.headers[name]
                for name in (
                    "content-encoding",
                    "x-amz-content-sha256",
                    "x-amz-decoded-content-length",
                    "x-amz-trailer",
                    "content-type",
                )
            },
            {
                "content-encoding": "aws-chunked",
                "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
                "x-amz-decoded-content-length": str(len(DATA)),
                "x-amz-trailer": "x-amz-checksum-crc32",
                "content-type": "image/png",
            },
        )

    async def test_tls(self) -> None:
        """With TLS a stream is sent as it is, and the digest of the answer is compared."""
        certificate = make_certificate()
        server = ScriptedServer(
            self,
            answer(200, ETag=f'"{MD5}"'),
            answer(200, ETag=f'"{"0" * 32}"'),
            answer(204),
            context=certificate.options(),
        )
        url = f"https://localhost:{server.host.partition(':')[2]}"
        bucket = self.bucket(url, http=trusting_client(self, certificate))
        await self.put(bucket)
        self.assertEqual(server.seen[0].body, DATA)
        self.assertEqual(server.seen[0].headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD")
        self.assertIn("other bytes", await self.fails(self.put(bucket)))

    async def test_tls_of_strangers(self) -> None:
        """A server whose certificate nobody vouches for gets nothing."""
        server = ScriptedServer(self, answer(200), context=make_certificate().options())
        url = f"https://localhost:{server.host.partition(':')[2]}"
        body = ScriptedBody(DATA)
        await self.fails(self.put(self.bucket(url), body))
        self.assertEqual(server.seen, [])

    async def test_small(self) -> None:
        """What fits into one piece is signed, and sent again if need be."""
        data = DATA[:1000]
        server, bucket = self.serve(
            xml_error(503, "SlowDown"), answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')
        )
        await self.put(bucket, ScriptedBody(data[:1], data[1:]), 1000)
        self.assertEqual([seen.body for seen in server.seen], [data] * 2)
        self.assertEqual(
            server.seen[1].headers["x-amz-content-sha256"], hashlib.sha256(data).hexdigest()
        )

    async def test_bytes(self) -> None:
        """So are bytes that are all there, however many."""
        server, bucket = self.serve(xml_error(503, "SlowDown"), answer(200, ETag=f'"{MD5}"'))
        await self.put(bucket, BytesBody(DATA))
        self.assertEqual([seen.body for seen in server.seen], [DATA] * 2)

    async def test_settings(self) -> None:
        """Objects are put with the headers that the settings ask for."""
        server, bucket = self.serve(
            answer(200),
            cache_control="public, max-age=60",
            encryption="aws:kms",
            kms_key_id="key-1",
        )
        await self.put(bucket, BytesBody(b"x"), 1)
        headers = server.seen[0].headers
        self.assertEqual(headers["cache-control"], "public, max-age=60")
        self.assertEqual(headers["x-amz-server-side-encryption"], "aws:kms")
        self.assertEqual(headers["x-amz-server-side-encryption-aws-kms-key-id"], "key-1")
        for name in ("cache-control", "x-amz-server-side-encryption"):
            self.assertIn(name, headers["authorization"])

    async def test_wrong_digest(self) -> None:
        """If S3 has got other bytes the put fails, and what it has got is removed."""
        for headers in ({"ETag": f'"{"0" * 32}"'}, {"x_amz_checksum_crc32": "AAAAAA=="}):
            server, bucket = self.serve(answer(200, **headers), answer(204))
            self.assertIn("other bytes", await self.fails(self.put(bucket)))
            self.assertEqual([seen.method for seen in server.seen], ["PUT", "DELETE"])

    async def test_wrong_digest_and_no_right_to_delete(self) -> None:
        """If it cannot be removed the put fails all the same."""
        _, bucket = self.serve(answer(200, ETag=f'"{"0" * 32}"'), xml_error(403, "AccessDenied"))
        self.assertIn("other bytes", await self.fails(self.put(bucket)))

    async def test_tags_that_are_no_digests(self) -> None:
        """What is encrypted by KMS, or was put in parts, has a tag of another kind."""
        for headers in (
            {"ETag": f'"{"0" * 32}"', "x_amz_server_side_encryption": "aws:kms"},
            {"ETag": f'"{"0" * 32}-1"'},
            {},
        ):
            _, bucket = self.serve(answer(200, **headers))
            await self.put(bucket)

    async def test_body_fails(self) -> None:
        """When the body fails in the middle the connection ends before S3 has all of it."""
        server = RawServer(self)
        bucket = self.bucket(server.url)
        body = ScriptedBody(DATA[:70_000], ZeroDivisionError())
        await self.fails(self.put(bucket, body), ZeroDivisionError)
        await server.connections[0].lost
        head, _, sent = server.connections[0].data.partition(b"\r\n\r\n")
        self.assertIn(b"PUT /bucket/a/k ", head)
        self.assertLess(len(sent), len(DATA))
        self.assertEqual(len(server.connections), 1)

    async def test_too_long(self) -> None:
        """Nor does S3 ever get the last byte of a body that is too long."""
        server = RawServer(self)
        body = ScriptedBody(DATA[:70_000], DATA)
        await self.fails(self.put(self.bucket(server.url), body), BodyMismatch)
        await server.connections[0].lost
        self.assertLess(len(server.connections[0].data.partition(b"\r\n\r\n")[2]), len(DATA))

    async def test_cancelled(self) -> None:
        """When the put is cancelled in the middle the connection ends."""
        server = RawServer(self)
        body = ScriptedBody(DATA[:70_000], Deferred())
        putting = Deferred.fromCoroutine(self.put(self.bucket(server.url), body))
        while not server.connections or len(server.connections[0].data) < 70_000:
            await deferLater(reactor, 0.005)
        putting.cancel()
        await self.fails(putting, CancelledError)
        await server.connections[0].lost

    async def test_back_pressure(self) -> None:
        """A server that does not read is not sent more, and the body not asked for more."""
        server = RawServer(self, paused=True)
        pieces = 1000
        body = ScriptedBody(*[b"x" * 65536] * pieces)
        putting = Deferred.fromCoroutine(
            self.put(self.bucket(server.url), body, length=pieces * 65536)
        )
        taken = -1
        while body.taken != taken or not taken:
            taken = body.taken
            await deferLater(reactor, 0.05)
        self.assertLess(taken, pieces // 2)
        putting.cancel()
        await self.fails(putting, CancelledError)

    async def test_refused_early(self) -> None:
        """A refusal in the middle of the body is heard at once, and the rest is not sent."""
        gate: Deferred[None] = Deferred()
        error = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"

        def received(connection: Any) -> None:
            if len(connection.data) > 70_000:
                connection.transport.write(
                    b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(error), error)
                )

        server = RawServer(self, received)
        body = ScriptedBody(DATA[:80_000], gate, DATA[80_000:])
        text = await self.fails(self.put(self.bucket(server.url), body))
        self.assertIn("AccessDenied", text)
        await server.connections[0].lost
        self.assertEqual(body.taken, 1)

    async def test_praised_early(self) -> None:
        """A success before the end of the body is none."""

        def received(connection: Any) -> None:
            if len(connection.data) > 70_000:
                connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        server = RawServer(self, received)
        body = ScriptedBody(DATA[:80_000], Deferred())
        await self.fails(self.put(self.bucket(server.url), body))
        await server.connections[0].lost

    async def test_reset_in_the_middle(self) -> None:
        """A connection that is reset in the middle of the body fails the put, once."""

        def received(connection: Any) -> None:
            if len(connection.data) > 70_000:
                connection.transport.abortConnection()

        server = RawServer(self, received)
        body = ScriptedBody(*[DATA[:50_000]] * 4)
        self.assertIn("Unreachable", await self.fails(self.put(self.bucket(server.url), body)))
        self.assertEqual(len(server.connections), 1)


class GetTests(BucketCase):
    async def get(self, *script: Any) -> Any:
        _, bucket = self.serve(*script)
        return await bucket.get(key="k")

    async def test_missing(self) -> None:
        """No object is one thing, and no bucket or no right another."""
        await self.fails(self.get(xml_error(404, "NoSuchKey")), ObjectNotFound)
        await self.fails(self.get(xml_error(404, "NoSuchBucket")))
        await self.fails(self.get(xml_error(403, "AccessDenied")))
        _, bucket = self.serve(answer(404), answer(403))
        await self.fails(bucket.head(key="k"), ObjectNotFound)
        await self.fails(bucket.head(key="k"))

    async def test_cut(self) -> None:
        """A body that is cut is a StorageError."""
        info, body = await self.get(cut(100, b"x" * 50, ETag='"t"'))
        self.assertEqual((info.length, info.etag), (100, "t"))
        self.assertEqual(await body.__anext__(), b"x" * 50)
        await self.fails(body.__anext__())

    async def test_other_bytes(self) -> None:
        """Bytes that are not those of the ETag are an error at their end, whoever changed them."""
        good, bad = b"x" * 50, b"y" * 50
        tag = f'"{hashlib.md5(good).hexdigest()}"'
        _, body = await self.get(answer(200, bad, ETag=tag))
        self.assertEqual(await body.__anext__(), bad)
        self.assertIn("ETag", await self.fails(body.__anext__()))
        for headers in ({}, {"x_amz_server_side_encryption": "AES256"}):
            _, body = await self.get(answer(200, good, ETag=tag, **headers))
            self.assertEqual(await read_all(body, 100), good)

    async def test_other_tags(self) -> None:
        """The tag of what was put in parts, or is encrypted by KMS, is no digest of the bytes."""
        for tag, encryption in (("0" * 32 + "-2", "AES256"), ("0" * 32, "aws:kms")):
            behave = answer(200, b"x", ETag=f'"{tag}"', x_amz_server_side_encryption=encryption)
            _, body = await self.get(behave)
            self.assertEqual(await read_all(body, 100), b"x")

    async def test_no_tag(self) -> None:
        """What has no ETag, such as the page of a proxy, is not from S3."""
        self.assertIn("not from S3", await self.fails(self.get(answer(200))))

    async def test_unknown_length(self) -> None:
        """A body whose length S3 does not tell is not taken for whole."""

        def chunked(request: Any) -> int:
            request.setHeader("etag", '"t"')
            request.write(b"x" * 50)
            request.finish()
            return 1

        _, body = await self.get(chunked)
        self.assertEqual(await body.__anext__(), b"x" * 50)
        self.assertIn("too long", await self.fails(body.__anext__()))

    async def test_hangs(self) -> None:
        """A get that is cancelled before its answer leaves no connection."""
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

    async def test_batches(self) -> None:
        """Many objects are removed in batches, one by a call of its own."""
        server, bucket = self.serve(self.errors(), self.errors(), answer(204))
        keys = [f"k{number}" for number in range(1500)]
        await bucket.delete(keys=keys)
        self.assertEqual(self.keys(server.seen[0]) + self.keys(server.seen[1]), keys)
        self.assertEqual(len(self.keys(server.seen[0])), 1000)
        digest = base64.b64encode(hashlib.md5(server.seen[0].body).digest()).decode()
        self.assertEqual(server.seen[0].headers["content-md5"], digest)
        await bucket.delete(keys=["one"])
        self.assertEqual((server.seen[2].method, server.seen[2].uri), ("DELETE", "/bucket/one"))

    async def test_retried(self) -> None:
        """Objects that S3 could not remove are tried again, and only they."""
        server, bucket = self.serve(
            self.errors(b="InternalError"), self.errors(b="SlowDown"), self.errors()
        )
        await bucket.delete(keys=["a", "b"])
        self.assertEqual([self.keys(seen) for seen in server.seen], [["a", "b"], ["b"], ["b"]])

    async def test_failed(self) -> None:
        """What stays is an error that names an object."""
        _, bucket = self.serve(*[self.errors(b="InternalError")] * 3)
        self.assertIn("bucket/b: InternalError", await self.fails(bucket.delete(keys=["a", "b"])))
        server, bucket = self.serve(self.errors(a="AccessDenied", b="InternalError"))
        self.assertIn("bucket/a: AccessDenied", await self.fails(bucket.delete(keys=["a", "b"])))
        self.assertEqual(len(server.seen), 1)

    async def test_missing(self) -> None:
        """Objects that are not there count as removed, whatever the server thinks."""
        _, bucket = self.serve(self.errors(a="NoSuchKey"))
        await bucket.delete(keys=["a", "b"])


class CheckTests(BucketCase):
    async def test_look(self) -> None:
        """Where a look is allowed, that is all."""
        server, bucket = self.serve(answer(200, b"<ListBucketResult/>"))
        await bucket.check()
        self.assertEqual([seen.method for seen in server.seen], ["GET"])

    async def test_put_only(self) -> None:
        """A look that is refused is followed by a put, and not repeated if that is allowed."""
        refusal = xml_error(403, "AccessDenied")
        server, bucket = self.serve(refusal, answer(200), answer(200))
        await bucket.check()
        await bucket.check()
        self.assertEqual([seen.method for seen in server.seen], ["GET", "PUT", "PUT"])
        self.assertEqual((server.seen[2].uri, server.seen[2].body), (f"/bucket/{PROBE}", b""))

    async def test_fails(self) -> None:
        """A bucket that is not there, or refuses both, cannot be used, and says why."""
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
    async def test_virtual_host(self) -> None:
        """The bucket may be in the name of the host."""
        server = ScriptedServer(self, answer(204))
        url = server.url.replace("127.0.0.1", "localhost")
        bucket = self.bucket(url, addressing="virtual")
        endpoint = await bucket._service.endpoint("bucket")
        self.assertEqual(endpoint.url, url.replace("localhost", "bucket.localhost"))


class ServiceTests(BucketCase):
    async def test_stopped(self) -> None:
        """The last bucket that stops closes the connections, and can be started again."""
        server = ScriptedServer(self, *[answer(204)] * 3)
        client = make_client(reactor)
        buckets = [S3Bucket(client, "bucket", endpoint_url=server.url) for _ in range(2)]
        for bucket in buckets:
            bucket.startService()
        await buckets[0].delete(keys=["k"])
        await buckets[0].stopService()
        await buckets[1].delete(keys=["k"])
        await buckets[1].stopService()
        # Trial complains of a connection that is left.
        buckets[0].startService()
        await buckets[0].delete(keys=["k"])
        await buckets[0].stopService()


class SettingsTests(TestCase):
    def test_from_settings(self) -> None:
        """The settings say where a bucket is; buckets with the same threads share a client."""
        from fxprofile.config import Settings

        settings = Settings(
            storage=Storage(driver="s3", endpoint_url="http://127.0.0.1:9", addressing="path"),
            images={"max_age": 7},
        )
        threads = InlineThreads()
        private, public = (
            s3_bucket(settings, name, reactor=reactor, threads=threads)
            for name in ("fxprofile-private", "fxprofile-public")
        )
        self.assertIs(private._client, public._client)
        self.assertEqual(private._put_settings, {"CacheControl": "no-store"})
        self.assertEqual(public._put_settings, {"CacheControl": "public, max-age=7"})
        self.assertNotEqual(
            s3_bucket(settings, "b", reactor=reactor, threads=InlineThreads())._client,
            private._client,
        )
