"""Tests of puts into S3."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.errors import BodyMismatch
from tests.contracts.bucket import ScriptedBody
from tests.drivers.aws.s3_case import CRC32, DATA, MD5, BucketCase
from tests.drivers.aws.server import RawServer, ScriptedServer, answer, xml_error
from tests.drivers.aws.test_payload import decoded
from tests.drivers.aws.tls import make_certificate, trusting_agent


class PutTests(BucketCase):
    async def test_a_stream_encrypted_by_kms_has_a_trailing_checksum(self) -> None:
        """A stream whose ETag will be no digest, because of KMS, is followed by its checksum."""
        encryption = {"ServerSideEncryption": "aws:kms"}
        server, bucket = self.serve(answer(200, ETag='"no digest"'), put_settings=encryption)
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

    async def test_a_stream_is_unsigned(self) -> None:
        """A stream is sent unsigned, and the digest in the response is compared."""
        certificate = make_certificate()
        server = ScriptedServer(
            self,
            answer(200, ETag=f'"{MD5}"'),
            answer(200, ETag=f'"{"0" * 32}"'),
            answer(204),
            context=certificate.options(),
        )
        url = f"https://localhost:{server.host.partition(':')[2]}"
        bucket = self.bucket(url, agent=trusting_agent(self, certificate))
        await self.put(bucket)
        self.assertEqual(server.seen[0].body, DATA)
        self.assertEqual(server.seen[0].headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD")
        self.assertIn("a different digest", await self.fails(self.put(bucket)))

    async def test_an_untrusted_server_receives_nothing(self) -> None:
        """A server with an untrusted certificate receives no request."""
        server = ScriptedServer(self, answer(200), context=make_certificate().options())
        url = f"https://localhost:{server.host.partition(':')[2]}"
        body = ScriptedBody(DATA)
        await self.fails(self.put(self.bucket(url), body))
        self.assertEqual(server.seen, [])

    async def test_a_small_body_is_signed_and_retried(self) -> None:
        """A body that fits into one buffer is signed, and sent again if necessary."""
        data = DATA[:1000]
        server, bucket = self.serve(
            xml_error(503, "SlowDown"), answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')
        )
        await self.put(bucket, ScriptedBody(data[:1], data[1:]), 1000)
        self.assertEqual([seen.body for seen in server.seen], [data] * 2)
        self.assertEqual(
            server.seen[1].headers["x-amz-content-sha256"], hashlib.sha256(data).hexdigest()
        )

    async def test_a_body_in_memory_is_retried(self) -> None:
        """A body in memory of any length is sent again if necessary."""
        server, bucket = self.serve(xml_error(503, "SlowDown"), answer(200, ETag=f'"{MD5}"'))
        await self.put(bucket, BytesBody(DATA))
        self.assertEqual([seen.body for seen in server.seen], [DATA] * 2)

    async def test_settings_become_headers(self) -> None:
        """Cache control and encryption are sent as signed headers."""
        server, bucket = self.serve(
            answer(200),
            put_settings={
                "CacheControl": "public, max-age=60",
                "ServerSideEncryption": "aws:kms",
                "SSEKMSKeyId": "key-1",
            },
        )
        await self.put(bucket, BytesBody(b"x"), 1)
        headers = server.seen[0].headers
        self.assertEqual(headers["cache-control"], "public, max-age=60")
        self.assertEqual(headers["x-amz-server-side-encryption"], "aws:kms")
        self.assertEqual(headers["x-amz-server-side-encryption-aws-kms-key-id"], "key-1")
        for name in ("cache-control", "x-amz-server-side-encryption"):
            self.assertIn(name, headers["authorization"])

    async def test_a_wrong_digest_removes_the_object(self) -> None:
        """A put fails if S3 reports another digest, and the object is removed."""
        for headers in ({"ETag": f'"{"0" * 32}"'}, {"x_amz_checksum_crc32": "AAAAAA=="}):
            server, bucket = self.serve(answer(200, **headers), answer(204))
            self.assertIn("a different digest", await self.fails(self.put(bucket)))
            self.assertEqual([seen.method for seen in server.seen], ["PUT", "DELETE"])

    async def test_a_wrong_digest_fails_without_delete_permission(self) -> None:
        """A put with a wrong digest fails even if the object cannot be removed."""
        _, bucket = self.serve(answer(200, ETag=f'"{"0" * 32}"'), xml_error(403, "AccessDenied"))
        self.assertIn("a different digest", await self.fails(self.put(bucket)))

    async def test_an_etag_that_is_no_digest_is_ignored(self) -> None:
        """The ETag of an object that is encrypted by KMS or in parts is not compared."""
        for headers in (
            {"ETag": f'"{"0" * 32}"', "x_amz_server_side_encryption": "aws:kms"},
            {"ETag": f'"{"0" * 32}-1"'},
            {},
        ):
            _, bucket = self.serve(answer(200, **headers))
            await self.put(bucket)

    async def test_a_failing_body_ends_the_connection(self) -> None:
        """If the body fails, the connection is closed before S3 has a whole object."""
        server = RawServer(self)
        bucket = self.bucket(server.url)
        body = ScriptedBody(DATA[:70_000], ZeroDivisionError())
        await self.fails(self.put(bucket, body), ZeroDivisionError)
        await server.connections[0].lost
        head, _, sent = server.connections[0].data.partition(b"\r\n\r\n")
        self.assertIn(b"PUT /bucket/a/k ", head)
        self.assertLess(len(sent), len(DATA))
        self.assertEqual(len(server.connections), 1)

    async def test_a_long_body_is_never_complete(self) -> None:
        """S3 never receives the last byte of a body that is too long."""
        server = RawServer(self)
        body = ScriptedBody(DATA[:70_000], DATA)
        await self.fails(self.put(self.bucket(server.url), body), BodyMismatch)
        await server.connections[0].lost
        self.assertLess(len(server.connections[0].data.partition(b"\r\n\r\n")[2]), len(DATA))

    async def test_a_cancelled_put_ends_the_connection(self) -> None:
        """A put that is cancelled closes its connection."""
        server = RawServer(self)
        body = ScriptedBody(DATA[:70_000], Deferred())
        putting = Deferred.fromCoroutine(self.put(self.bucket(server.url), body))
        while not server.connections or len(server.connections[0].data) < 70_000:
            await deferLater(reactor, 0.005)
        putting.cancel()
        await self.fails(putting, CancelledError)
        await server.connections[0].lost

    async def test_a_slow_server_stops_the_body(self) -> None:
        """A body is not read faster than the server accepts it."""
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

    async def test_an_early_refusal_stops_the_body(self) -> None:
        """A refusal before the end of the body is reported at once, and the rest is not sent."""
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

    async def test_an_early_success_is_an_error(self) -> None:
        """A success before the end of the body is an error."""

        def received(connection: Any) -> None:
            if len(connection.data) > 70_000:
                connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        server = RawServer(self, received)
        body = ScriptedBody(DATA[:80_000], Deferred())
        await self.fails(self.put(self.bucket(server.url), body))
        await server.connections[0].lost

    async def test_a_reset_fails_the_put(self) -> None:
        """A connection that is reset during the body fails the put without a retry."""

        def received(connection: Any) -> None:
            if len(connection.data) > 70_000:
                connection.transport.abortConnection()

        server = RawServer(self, received)
        body = ScriptedBody(*[DATA[:50_000]] * 4)
        self.assertIn("Unreachable", await self.fails(self.put(self.bucket(server.url), body)))
        self.assertEqual(len(server.connections), 1)
