"""
Tests of calls of the AWS client over real connections.
"""

from __future__ import annotations

from typing import Any

from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.web.server import NOT_DONE_YET

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.drivers.aws.client.errors import (
    AwsError,
    AwsMalformed,
    AwsRefused,
    AwsTimeout,
    AwsUnreachable,
)
from fxprofile.drivers.aws.client.payload import StreamPayload
from fxprofile.http_client.errors import HttpError
from tests.drivers.aws.client_case import GET, TOKEN, ClientCase
from tests.drivers.aws.server import (
    RawServer,
    ScriptedServer,
    answer,
    cut,
    json_answer,
    reset,
    xml_error,
)
from tests.drivers.aws.support import chain
from tests.support.servers.moto import SECRET_KEY


class StreamTests(ClientCase):
    """Streamed payloads are sent once."""

    def stream(self, data: bytes) -> StreamPayload:
        return StreamPayload(BytesBody(data), len(data))

    async def test_a_started_stream_is_not_retried(self) -> None:
        """A call is not retried once a part of its stream has been read."""
        server, s3 = self.serve(xml_error(503, "SlowDown"), answer(200))
        await self.error(AwsRefused, s3.call("PutObject", GET, payload=self.stream(b"x" * 1000)))
        self.assertEqual(len(server.seen), 1)

    async def test_an_unread_stream_is_retried(self) -> None:
        """A call whose connection is refused is retried, because nothing of its stream was read."""
        good = ScriptedServer(self, answer(200))
        error = await self.error(
            AwsUnreachable,
            self.s3("http://127.0.0.1:1").call("PutObject", GET, payload=self.stream(b"x" * 1000)),
        )
        self.assertIn("attempt 4", str(error))
        await self.s3(good.url).call("PutObject", GET, payload=self.stream(b"x" * 1000))
        self.assertEqual(good.seen[0].body, b"x" * 1000)
        self.assertEqual(good.seen[0].headers["x-amz-content-sha256"], StreamPayload.content_sha256)


class ResponseTests(ClientCase):
    async def test_truncated_xml_is_an_error(self) -> None:
        """A truncated XML document is an error, and not an empty list."""
        _, s3 = self.serve(answer(200, b"<ListBucketResult><Contents>", x_amz_request_id="R7"))
        error = await self.error(AwsMalformed, s3.call("ListObjectsV2", {"Bucket": "bucket"}))
        self.assertIn("request R7", str(error))

    async def test_truncated_json_is_an_error(self) -> None:
        """A truncated JSON document is an error, and not an empty receive."""
        _, sqs = self.sqs(json_answer('{"Messages": [{"Body": "x"'))
        await self.error(AwsMalformed, sqs.call("ReceiveMessage", {"QueueUrl": "u"}))

    async def test_a_truncated_response_is_retried(self) -> None:
        """A response that ends before its announced length is retried."""
        server, sqs = self.sqs(cut(100, b'{"QueueUrls": []}'), json_answer('{"QueueUrls": ["u"]}'))
        result = await sqs.call("ListQueues", {})
        self.assertEqual(result.members["QueueUrls"], ["u"])
        self.assertEqual(len(server.seen), 2)

    async def test_a_truncated_error_keeps_its_status(self) -> None:
        """A truncated error response is reported by its status."""
        _, s3 = self.serve(answer(404, b"<Error><Code>NoSu"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual((error.code, error.status), ("404", 404))

    async def test_an_error_with_status_200_is_retried(self) -> None:
        """An error in the body of an S3 response with status 200 is retried as a fault of S3."""
        late = answer(200, b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code></Error>")
        server, s3 = self.serve(late, answer(200, b"<DeleteResult></DeleteResult>"))
        await s3.call("DeleteObjects", {"Bucket": "bucket", "Delete": {"Objects": [{"Key": "k"}]}})
        self.assertEqual(len(server.seen), 2)

    async def test_a_page_of_a_proxy_is_an_error(self) -> None:
        """An HTML page of a proxy is reported by its status."""
        _, s3 = self.serve(answer(403, b"<html><body>Forbidden</body></html>"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(error.status, 403)

    async def test_redirects_are_not_followed(self) -> None:
        """A redirect is an error, and its target receives no request."""
        elsewhere = ScriptedServer(self, answer(204))
        server, s3 = self.serve(answer(307, b"", Location=elsewhere.url))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(error.status, 307)
        self.assertEqual(elsewhere.seen, [])
        self.assertEqual(len(server.seen), 1)

    async def test_an_endless_response_is_abandoned(self) -> None:
        """A response that exceeds the limit of its length is abandoned."""

        def endless(request: Any) -> Any:
            request.setHeader("content-length", str(1 << 40))
            request.registerProducer(_Endless(request), True)
            return 1

        _, s3 = self.serve(endless)
        error = await self.error(AwsMalformed, s3.call("ListObjectsV2", {"Bucket": "bucket"}))
        self.assertEqual(error.code, "TooLong")

    async def test_a_dripping_response_is_abandoned(self) -> None:
        """A response that arrives byte by byte is abandoned after its total timeout."""

        def dripping(request: Any) -> Any:
            request.setHeader("content-length", "100000")
            drip = LoopingCall(request.write, b" ")
            drip.start(0.01)
            request.notifyFinish().addErrback(lambda _: drip.stop())
            return NOT_DONE_YET

        _, s3 = self.serve(dripping)
        work = s3.call("ListObjectsV2", {"Bucket": "bucket"}, timeout=0.2, max_attempts=1)
        await self.error(AwsTimeout, work)

    async def test_an_error_is_one_line(self) -> None:
        """The text of an error is one line, even if the message of AWS has several."""
        _, s3 = self.serve(xml_error(403, "AccessDenied", "you\r\n  there"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertIn("AccessDenied: you there (status 403", str(error))

    async def test_wrong_parameters_send_nothing(self) -> None:
        """Parameters that do not fit the operation raise AwsError before anything is sent."""
        server, s3 = self.serve()
        await self.error(AwsError, s3.call("DeleteObject", {"Bucket": "bucket"}))
        self.assertEqual(server.seen, [])


class _Endless:
    """A producer that writes without end, as fast as the client reads."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._paused = False
        self._call = reactor.callLater(0, self._write)

    def _write(self) -> None:
        if not self._paused:
            self._request.write(b"<a>" * 100_000)
            self._call = reactor.callLater(0, self._write)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if not self._call.active():
            self._call = reactor.callLater(0, self._write)

    def stopProducing(self) -> None:
        self._paused = True
        if self._call.active():
            self._call.cancel()


class SecrecyTests(ClientCase):
    async def test_secrets_are_not_logged(self) -> None:
        """No log line, error or representation contains a secret."""
        credentials = chain(reactor, lambda: Credentials("AKIA", SECRET_KEY, TOKEN))
        _, s3 = self.serve(
            xml_error(503, "SlowDown"),
            reset,
            xml_error(403, "AccessDenied"),
            credentials=credentials,
        )
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        keys = await credentials.get()
        self.assertEqual(keys.token, TOKEN)
        texts = [*self.events, str(error), repr(error), repr(keys), repr(credentials), repr(s3)]
        self.assertGreater(len(self.events), 2)
        for secret in (SECRET_KEY, TOKEN, "Signature=", "Authorization"):
            self.assertNotIn(secret, "\n".join(texts))

    async def test_quoted_secrets_are_masked(self) -> None:
        """Secrets that a response quotes are masked in the error."""
        credentials = chain(reactor, lambda: Credentials("AKIA", SECRET_KEY, TOKEN))
        quoted = f"should have been x-amz-security-token:{TOKEN} of {SECRET_KEY}"
        _, s3 = self.serve(
            xml_error(403, "SignatureDoesNotMatch", message=quoted), credentials=credentials
        )
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertIn("should have been x-amz-security-token:********", str(error))
        for secret in (SECRET_KEY, TOKEN):
            self.assertNotIn(secret, str(error))

    async def test_log_lines_have_request_ids(self) -> None:
        """Every log line about a request contains its request ids."""
        _, s3 = self.serve(
            xml_error(503, "SlowDown", x_amz_id_2="HOST1"), answer(204, x_amz_request_id="REQ9")
        )
        await s3.call("DeleteObject", GET)
        lines = [event for event in self.events if event.startswith("s3:DeleteObject")]
        self.assertEqual(len(lines), 3, lines)
        for line, request in zip(lines, ("REQ1 HOST1", "REQ1 HOST1", "REQ9"), strict=True):
            self.assertIn(f"request {request}", line)


class DownloadTests(ClientCase):
    """Streamed responses."""

    async def get(self, s3: Any, **options: Any) -> Any:
        return (await s3.call("GetObject", GET, stream_response=True, **options)).body

    async def test_a_truncated_stream_is_an_error(self) -> None:
        """A streamed response that ends early is an error."""
        _, s3 = self.serve(cut(100_000, b"x" * 1000))
        with self.assertRaises(HttpError):
            await read_all(await self.get(s3), 1 << 20)

    async def test_a_stalled_stream_is_an_error(self) -> None:
        """A streamed response that stalls is an error, and then ends."""

        def stall(request: Any) -> int:
            request.setHeader("content-length", "100")
            request.write(b"x" * 50)
            return 1

        _, s3 = self.serve(stall)
        body = await self.get(s3, timeout=0.1)
        self.assertEqual(await body.__anext__(), b"x" * 50)
        with self.assertRaises(HttpError):
            await body.__anext__()
        self.assertEqual([piece async for piece in body], [])

    async def test_an_unread_stream_stops_the_server(self) -> None:
        """A server cannot send more than the buffers hold while its response is not read."""
        total = 64 << 20
        written = 0
        server = RawServer(self)
        done: Deferred[None] = Deferred()

        class Producer:
            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def resumeProducing(self) -> None:
                nonlocal written
                if written < total:
                    written += 1 << 18
                    self.transport.write(b"x" * (1 << 18))
                elif not done.called:
                    self.transport.unregisterProducer()
                    done.callback(None)

            def stopProducing(self) -> None:
                pass

        def received(connection: Any) -> None:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"
            connection.transport.write(head.encode())
            connection.transport.registerProducer(Producer(connection.transport), False)

        server.received = received
        body = await self.get(self.s3(server.url))
        await body.__anext__()
        quiet = written
        while True:
            await deferLater(reactor, 0.05)
            if written == quiet:
                break
            quiet = written
        self.assertLess(written, total // 2)
        length = len(await read_all(body, total))
        self.assertGreater(length, total - (1 << 17))
        await done

    async def test_a_closed_stream_ends_its_connection(self) -> None:
        """Closing a streamed response early closes its connection."""
        server = RawServer(self)

        def received(connection: Any) -> None:
            connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n1234")

        server.received = received
        body = await self.get(self.s3(server.url))
        await body.aclose()
        await server.connections[0].lost
        await body.aclose()
