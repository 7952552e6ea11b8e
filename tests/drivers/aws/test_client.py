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
from fxprofile.drivers.aws.client.errors import AwsError, AwsMalformed, AwsRefused, AwsUnreachable
from fxprofile.drivers.aws.client.payload import StreamPayload
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
    """A stream is sent once."""

    def stream(self, data: bytes) -> StreamPayload:
        return StreamPayload(BytesBody(data), len(data))

    async def test_not_sent_again(self) -> None:
        """A call some of whose stream is gone is not tried again."""
        server, s3 = self.serve(xml_error(503, "SlowDown"), answer(200))
        await self.error(AwsRefused, s3.call("PutObject", GET, payload=self.stream(b"x" * 1000)))
        self.assertEqual(len(server.seen), 1)

    async def test_sent_again_if_untouched(self) -> None:
        """One whose connection was refused is, because nothing of the stream is gone."""
        good = ScriptedServer(self, answer(200))
        error = await self.error(
            AwsUnreachable,
            self.s3("http://127.0.0.1:1").call("PutObject", GET, payload=self.stream(b"x" * 1000)),
        )
        self.assertIn("attempt 4", str(error))
        await self.s3(good.url).call("PutObject", GET, payload=self.stream(b"x" * 1000))
        self.assertEqual(good.seen[0].body, b"x" * 1000)
        self.assertEqual(good.seen[0].headers["x-amz-content-sha256"], StreamPayload.content_sha256)


class AnswerTests(ClientCase):
    async def test_truncated_xml(self) -> None:
        """Half an XML document is an error, and not an empty list."""
        _, s3 = self.serve(answer(200, b"<ListBucketResult><Contents>", x_amz_request_id="R7"))
        error = await self.error(AwsMalformed, s3.call("ListObjectsV2", {"Bucket": "bucket"}))
        self.assertIn("request R7", str(error))

    async def test_truncated_json(self) -> None:
        """Half a JSON document is an error, and not an empty receive."""
        _, sqs = self.sqs(json_answer('{"Messages": [{"Body": "x"'))
        await self.error(AwsMalformed, sqs.call("ReceiveMessage", {"QueueUrl": "u"}))

    async def test_cut_answer(self) -> None:
        """An answer that ends before its announced length is tried again."""
        server, sqs = self.sqs(cut(100, b'{"QueueUrls": []}'), json_answer('{"QueueUrls": ["u"]}'))
        result = await sqs.call("ListQueues", {})
        self.assertEqual(result.members["QueueUrls"], ["u"])
        self.assertEqual(len(server.seen), 2)

    async def test_cut_error(self) -> None:
        """Of an error that is cut the status is enough."""
        _, s3 = self.serve(answer(404, b"<Error><Code>NoSu"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual((error.code, error.status), ("404", 404))

    async def test_error_in_success(self) -> None:
        """S3 may say 200 and then that it failed: that is a fault, and tried again."""
        late = answer(200, b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code></Error>")
        server, s3 = self.serve(late, answer(200, b"<DeleteResult></DeleteResult>"))
        await s3.call("DeleteObjects", {"Bucket": "bucket", "Delete": {"Objects": [{"Key": "k"}]}})
        self.assertEqual(len(server.seen), 2)

    async def test_html(self) -> None:
        """A page of a proxy is an error with its status."""
        _, s3 = self.serve(answer(403, b"<html><body>Forbidden</body></html>"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(error.status, 403)

    async def test_redirect_is_not_followed(self) -> None:
        """A redirect leads nowhere: signed requests go where we say."""
        elsewhere = ScriptedServer(self, answer(204))
        server, s3 = self.serve(answer(307, b"", Location=elsewhere.url))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(error.status, 307)
        self.assertEqual(elsewhere.seen, [])
        self.assertEqual(len(server.seen), 1)

    async def test_answer_without_end(self) -> None:
        """An answer that is too long for its kind is given up."""

        def endless(request: Any) -> Any:
            request.setHeader("content-length", str(1 << 40))
            request.registerProducer(_Endless(request), True)
            return 1

        _, s3 = self.serve(endless)
        error = await self.error(AwsMalformed, s3.call("ListObjectsV2", {"Bucket": "bucket"}))
        self.assertEqual(error.code, "TooLong")

    async def test_answer_in_drops(self) -> None:
        """One that goes on and on, but hardly, is given up as well."""

        def dripping(request: Any) -> Any:
            request.setHeader("content-length", "100000")
            drip = LoopingCall(request.write, b" ")
            drip.start(0.01)
            request.notifyFinish().addErrback(lambda _: drip.stop())
            return NOT_DONE_YET

        _, s3 = self.serve(dripping)
        work = s3.call("ListObjectsV2", {"Bucket": "bucket"}, timeout=0.2, max_attempts=1)
        await self.error(AwsUnreachable, work)

    async def test_one_line(self) -> None:
        """Whatever the other side says, the error is one line."""
        _, s3 = self.serve(xml_error(403, "AccessDenied", "you\r\n  there"))
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertIn("AccessDenied: you there (status 403", str(error))

    async def test_wrong_parameters(self) -> None:
        """A mistake of ours is an AwsError as well, before anything is sent."""
        server, s3 = self.serve()
        await self.error(AwsError, s3.call("DeleteObject", {"Bucket": "bucket"}))
        self.assertEqual(server.seen, [])


class _Endless:
    """Writes for ever, as fast as the other side reads."""

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
    async def test_secrets(self) -> None:
        """No secret is in a log line, an error or a representation."""
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

    async def test_secrets_that_are_sent_back(self) -> None:
        """An answer that quotes what was signed is not repeated with the token in it."""
        credentials = chain(reactor, lambda: Credentials("AKIA", SECRET_KEY, TOKEN))
        quoted = f"should have been x-amz-security-token:{TOKEN} of {SECRET_KEY}"
        _, s3 = self.serve(
            xml_error(403, "SignatureDoesNotMatch", message=quoted), credentials=credentials
        )
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertIn("should have been x-amz-security-token:********", str(error))
        for secret in (SECRET_KEY, TOKEN):
            self.assertNotIn(secret, str(error))

    async def test_request_id(self) -> None:
        """Each line of the log about a request has its id."""
        _, s3 = self.serve(
            xml_error(503, "SlowDown", x_amz_id_2="HOST1"), answer(204, x_amz_request_id="REQ9")
        )
        await s3.call("DeleteObject", GET)
        lines = [event for event in self.events if event.startswith("s3:DeleteObject")]
        self.assertEqual(len(lines), 3, lines)
        for line, request in zip(lines, ("REQ1 HOST1", "REQ1 HOST1", "REQ9"), strict=True):
            self.assertIn(f"request {request}", line)


class DownloadTests(ClientCase):
    """An answer that is a stream."""

    async def get(self, s3: Any, **options: Any) -> Any:
        return (await s3.call("GetObject", GET, stream_response=True, **options)).body

    async def test_cut(self) -> None:
        """A stream that ends early ends in an error."""
        _, s3 = self.serve(cut(100_000, b"x" * 1000))
        with self.assertRaises(AwsUnreachable):
            await read_all(await self.get(s3), 1 << 20)

    async def test_stalls(self) -> None:
        """So does one of which no more comes."""

        def stall(request: Any) -> int:
            request.setHeader("content-length", "100")
            request.write(b"x" * 50)
            return 1

        _, s3 = self.serve(stall)
        body = await self.get(s3, timeout=0.1)
        self.assertEqual(await body.__anext__(), b"x" * 50)
        with self.assertRaises(AwsUnreachable):
            await body.__anext__()
        self.assertEqual([piece async for piece in body], [])

    async def test_back_pressure(self) -> None:
        """Nobody reads what nobody asks for: the server has to wait."""
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

    async def test_given_up(self) -> None:
        """A stream that is given up ends its connection."""
        server = RawServer(self)

        def received(connection: Any) -> None:
            connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n1234")

        server.received = received
        body = await self.get(self.s3(server.url))
        await body.aclose()
        await server.connections[0].lost
        await body.aclose()
