"""
Tests of :mod:`fxprofile.aws.client` and :mod:`fxprofile.aws.call`, over real connections.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase
from twisted.web.server import NOT_DONE_YET

from fxprofile.aio import BytesBody, read_all
from fxprofile.aws.bodies import Digests, PlainStream
from fxprofile.aws.call import Stream
from fxprofile.aws.errors import AwsError, AwsMalformed, AwsRefused, AwsUnreachable, NoCredentials
from fxprofile.aws.signing import UNSIGNED_PAYLOAD
from tests.aws.server import (
    RawServer,
    ScriptedServer,
    answer,
    cut,
    hang,
    json_answer,
    json_error,
    reset,
    xml_error,
)
from tests.aws.support import chain, make_client
from tests.servers.moto import SECRET_KEY

TOKEN = "Session-T0ken-Never-Show"
GET = {"Bucket": "bucket", "Key": "key"}


class ClientCase(TestCase):
    """A client whose log is kept."""

    def setUp(self) -> None:
        self.events: list[str] = []
        globalLogPublisher.addObserver(self._keep)
        self.addCleanup(globalLogPublisher.removeObserver, self._keep)

    def _keep(self, event: Any) -> None:
        try:
            self.events.append(event["log_format"].format(**event))
        except (KeyError, TypeError):
            self.events.append(repr(event))

    def serve(self, *script: Any, **options: Any) -> tuple[ScriptedServer, Any]:
        server = ScriptedServer(self, *script)
        return server, self.s3(server.url, **options)

    def s3(self, url: str, **options: Any) -> Any:
        self.client = make_client(reactor, **options)
        self.addCleanup(self.client.transport.close)
        return self.client.service("s3", endpoint_url=url)

    def sqs(self, *script: Any, **options: Any) -> tuple[ScriptedServer, Any]:
        server = ScriptedServer(self, *script)
        self.client = make_client(reactor, **options)
        self.addCleanup(self.client.transport.close)
        return server, self.client.service("sqs", endpoint_url=server.url)

    async def error(self, kind: type[AwsError], call: Any) -> AwsError:
        with self.assertRaises(AwsError) as caught:
            await call
        self.assertIs(type(caught.exception), kind, str(caught.exception))
        return caught.exception


class RetryTests(ClientCase):
    async def test_documented_errors(self) -> None:
        """Throttling and faults of AWS are tried again, and the call succeeds."""
        failures = [
            xml_error(503, "SlowDown"),
            answer(500),
            xml_error(400, "RequestTimeout"),
        ]
        server, s3 = self.serve(*failures, answer(204))
        await s3.call("DeleteObject", GET)
        self.assertEqual(len(server.seen), 4)
        self.assertEqual({seen.uri for seen in server.seen}, {"/bucket/key"})

    async def test_throttling_of_sqs(self) -> None:
        """SQS says it in other words."""
        failures = [json_error(400, "RequestThrottled"), json_error(403, "ThrottlingException")]
        server, sqs = self.sqs(*failures, json_answer("{}"))
        await sqs.call("ListQueues", {})
        self.assertEqual(len(server.seen), 3)

    async def test_other_errors(self) -> None:
        """Whatever else AWS refuses is not tried again."""
        for status, code in [(403, "AccessDenied"), (400, "InvalidRequest"), (404, "NoSuchBucket")]:
            server, s3 = self.serve(xml_error(status, code))
            error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
            self.assertEqual((error.code, error.status), (code, status))
            self.assertEqual(len(server.seen), 1)

    async def test_attempts(self) -> None:
        """After a few tries the error comes out, and says how many there were."""
        server, s3 = self.serve(*[xml_error(503, "SlowDown", "Reduce your rate")] * 9)
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 4)
        self.assertEqual(
            str(error),
            "s3:DeleteObject bucket/key: SlowDown: Reduce your rate"
            " (status 503, request REQ1, try 4)",
        )

    async def test_budget(self) -> None:
        """When everything fails, retries end before AWS gets several times the load."""
        server, s3 = self.serve()
        calls = 130
        for _ in range(calls):
            await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertLessEqual(len(server.seen), calls + 100)
        self.assertGreaterEqual(len(server.seen), calls)

    async def test_reset(self) -> None:
        """A connection that ends without an answer is tried again."""
        server, s3 = self.serve(reset, reset, answer(204))
        await s3.call("DeleteObject", GET)
        self.assertGreaterEqual(len(server.seen), 3)

    async def test_refused(self) -> None:
        """A server that is not there is tried again, and the error says where it was."""
        server = ScriptedServer(self)
        port = self._cleanups.pop()
        await port[0]()
        error = await self.error(AwsUnreachable, self.s3(server.url).call("DeleteObject", GET))
        self.assertIn("refused", str(error))
        self.assertIn("try 4", str(error))

    async def test_hangs(self) -> None:
        """A server that says nothing is given up, and tried again."""
        server, s3 = self.serve(hang, answer(204))
        await s3.call("DeleteObject", GET, timeout=0.1)
        self.assertEqual(len(server.seen), 2)

    async def test_cancelled(self) -> None:
        """A call that is cancelled ends its connection, and is not tried again."""
        server = RawServer(self)
        calling = Deferred.fromCoroutine(self.s3(server.url).call("DeleteObject", GET))
        while not (server.connections and server.connections[0].data):
            await deferLater(reactor, 0.005)
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        await server.connections[0].lost
        self.assertEqual(len(server.connections), 1)

    async def test_cancelled_at_once(self) -> None:
        """So does one that is cancelled before there is a connection."""
        server, s3 = self.serve(answer(204))
        calling = Deferred.fromCoroutine(s3.call("DeleteObject", GET))
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        self.assertEqual(server.seen, [])

    async def test_cancelled_between_tries(self) -> None:
        """So does one that is cancelled while it waits for its next try."""
        from fxprofile.aws.retries import Backoff

        server, s3 = self.serve(backoff=Backoff(first=60, chance=lambda: 1))
        calling = Deferred.fromCoroutine(s3.call("DeleteObject", GET))
        while not any("next try" in event for event in self.events):
            await deferLater(reactor, 0.005)
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        self.assertEqual(len(server.seen), 1)

    async def test_connections_are_kept(self) -> None:
        """One connection serves many calls."""
        ports = set()

        def note(request: Any) -> bytes:
            ports.add(request.transport.getPeer().port)
            request.setResponseCode(204)
            return b""

        _, s3 = self.serve(note, note, note)
        for _ in range(3):
            await s3.call("DeleteObject", GET)
        self.assertEqual(len(ports), 1)


class StreamTests(ClientCase):
    """A stream is sent once."""

    def stream(self, data: bytes) -> Stream:
        return Stream(PlainStream(Digests(BytesBody(data), len(data)), len(data)), UNSIGNED_PAYLOAD)

    async def test_not_sent_again(self) -> None:
        """A call some of whose stream is gone is not tried again."""
        server, s3 = self.serve(xml_error(503, "SlowDown"), answer(200))
        await self.error(AwsRefused, s3.call("PutObject", GET, stream=self.stream(b"x" * 1000)))
        self.assertEqual(len(server.seen), 1)

    async def test_sent_again_if_untouched(self) -> None:
        """One whose connection was refused is, because nothing of the stream is gone."""
        good = ScriptedServer(self, answer(200))
        error = await self.error(
            AwsUnreachable,
            self.s3("http://127.0.0.1:1").call("PutObject", GET, stream=self.stream(b"x" * 1000)),
        )
        self.assertIn("try 4", str(error))
        await self.s3(good.url).call("PutObject", GET, stream=self.stream(b"x" * 1000))
        self.assertEqual(good.seen[0].body, b"x" * 1000)
        self.assertEqual(good.seen[0].headers["x-amz-content-sha256"], UNSIGNED_PAYLOAD)


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


class CorrectionTests(ClientCase):
    """What AWS finds wrong with us is put right, once."""

    def skewed(self, seconds: float, code: str = "RequestTimeTooSkewed", status: int = 403) -> Any:
        return xml_error(status, code, Date=formatdate(time.time() + seconds, usegmt=True))

    async def test_clock(self) -> None:
        """The time of the next try is the server's, and so is that of later calls."""
        server, s3 = self.serve(self.skewed(7200), answer(204), answer(204))
        await s3.call("DeleteObject", GET)
        await s3.call("DeleteObject", GET)
        times = [seen.headers["x-amz-date"] for seen in server.seen]
        there = time.strftime("%Y%m%dT%H", time.gmtime(time.time() + 7200))
        self.assertFalse(times[0].startswith(there))
        self.assertTrue(times[1].startswith(there), times)
        self.assertTrue(times[2].startswith(there), times)
        signed = [seen.headers["authorization"].split("/")[1] for seen in server.seen[1:]]
        self.assertEqual(signed, [times[1][:8]] * 2)

    async def test_clock_by_any_name(self) -> None:
        """Whatever SQS calls it: the date of the answer tells."""
        late = json_answer(
            '{"__type": "com.amazon.coral.service#InvalidSignatureException"}',
            403,
            Date=formatdate(time.time() - 3600, usegmt=True),
        )
        server, sqs = self.sqs(late, json_answer("{}"))
        await sqs.call("ListQueues", {})
        self.assertEqual(len(server.seen), 2)

    async def test_clock_once(self) -> None:
        """A server whose time runs away is not followed for ever."""
        server, s3 = self.serve(*[self.skewed(n * 7200) for n in range(1, 9)])
        await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 2)

    async def test_right_clock(self) -> None:
        """A refusal from a server with our time changes nothing, nor does a strange date."""
        for date in (formatdate(usegmt=True), "yesterday", ""):
            server, s3 = self.serve(xml_error(403, "AccessDenied", Date=date))
            await self.error(AwsRefused, s3.call("DeleteObject", GET))
            self.assertEqual(len(server.seen), 1)
            self.assertEqual(self.client.skew, 0)

    async def test_expired_token(self) -> None:
        """When AWS says that the token has expired, a new one is found and used."""
        for service, refusal, good in [
            ("s3", xml_error(400, "ExpiredToken"), answer(204)),
            ("sqs", json_error(400, "ExpiredTokenException"), json_answer("{}")),
        ]:
            tokens = iter(["old", "new"])
            credentials = chain(
                reactor, lambda tokens=tokens: Credentials("AKIA", SECRET_KEY, next(tokens))
            )
            server = ScriptedServer(self, refusal, good)
            client = make_client(reactor, credentials=credentials)
            self.addCleanup(client.transport.close)
            called = client.service(service, endpoint_url=server.url)
            if service == "s3":
                await called.call("DeleteObject", GET)
            else:
                await called.call("ListQueues", {})
            self.assertEqual(
                [seen.headers["x-amz-security-token"] for seen in server.seen], ["old", "new"]
            )

    async def test_expired_token_of_a_head(self) -> None:
        """The answer to a HEAD does not say why; its status is enough."""
        tokens = iter(["old", "new"])
        credentials = chain(reactor, lambda: Credentials("AKIA", SECRET_KEY, next(tokens)))
        server, s3 = self.serve(answer(400), answer(200), credentials=credentials)
        await s3.call("HeadObject", GET)
        self.assertEqual(server.seen[1].headers["x-amz-security-token"], "new")

    async def test_still_expired(self) -> None:
        """If the new token is no better, the call fails."""
        server, s3 = self.serve(*[xml_error(400, "ExpiredToken")] * 5)
        await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 2)

    async def test_no_credentials(self) -> None:
        """Without credentials nothing is sent."""
        server, s3 = self.serve(credentials=chain(reactor, lambda: None))
        await self.error(NoCredentials, s3.call("DeleteObject", GET))
        self.assertEqual(server.seen, [])

    async def test_region(self) -> None:
        """A bucket of another region is asked there, from then on."""
        moved = [
            xml_error(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1"),
            xml_error(400, "AuthorizationHeaderMalformed", x_amz_bucket_region="eu-central-1"),
            answer(301, b"", x_amz_bucket_region="eu-central-1"),
        ]
        for refusal in moved:
            server, s3 = self.serve(refusal, answer(204), answer(204))
            await s3.call("DeleteObject", GET)
            await s3.call("DeleteObject", GET)
            regions = [seen.headers["authorization"].split("/")[2] for seen in server.seen]
            self.assertEqual(regions, ["us-east-1", "eu-central-1", "eu-central-1"])

    async def test_region_of_a_stream(self) -> None:
        """A stream that is gone is not sent there, but the next one is."""
        server, s3 = self.serve(
            xml_error(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1"), answer(200)
        )
        streams = [
            Stream(PlainStream(Digests(BytesBody(b"x"), 1), 1), UNSIGNED_PAYLOAD) for _ in range(2)
        ]
        await self.error(AwsRefused, s3.call("PutObject", GET, stream=streams[0]))
        await s3.call("PutObject", GET, stream=streams[1])
        self.assertIn("/eu-central-1/", server.seen[1].headers["authorization"])


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
        keys = await credentials.keys()
        self.assertEqual(keys.token, TOKEN)
        texts = [*self.events, str(error), repr(error), repr(keys), repr(credentials), repr(s3)]
        self.assertGreater(len(self.events), 2)
        for secret in (SECRET_KEY, TOKEN, "Signature=", "Authorization"):
            self.assertNotIn(secret, "\n".join(texts))

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
        return (await s3.call("GetObject", GET, streamed_answer=True, **options)).body

    async def test_cut(self) -> None:
        """A stream that ends early ends in an error."""
        from fxprofile.aws.transport import Unreachable

        _, s3 = self.serve(cut(100_000, b"x" * 1000))
        with self.assertRaises(Unreachable):
            await read_all(await self.get(s3), 1 << 20)

    async def test_stalls(self) -> None:
        """So does one of which no more comes."""
        from fxprofile.aws.transport import Unreachable

        def stall(request: Any) -> int:
            request.setHeader("content-length", "100")
            request.write(b"x" * 50)
            return 1

        _, s3 = self.serve(stall)
        body = await self.get(s3, timeout=0.1)
        self.assertEqual(await body.__anext__(), b"x" * 50)
        with self.assertRaises(Unreachable):
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
