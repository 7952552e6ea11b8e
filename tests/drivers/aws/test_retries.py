"""Tests of retries of the AWS client, and of the corrections before them."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

from botocore.credentials import Credentials
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.drivers.aws.client.client import AwsService, is_retryable, is_throttled
from fxprofile.drivers.aws.client.errors import (
    AwsMalformed,
    AwsRefused,
    AwsTimeout,
    AwsUnreachable,
    NoCredentials,
)
from fxprofile.drivers.aws.client.payload import StreamPayload
from tests.drivers.aws.client_case import GET, ClientCase
from tests.drivers.aws.server import (
    RawServer,
    ScriptedServer,
    answer,
    hang,
    json_answer,
    json_error,
    reset,
    xml_error,
)
from tests.drivers.aws.support import chain, make_client
from tests.support.servers.moto import SECRET_KEY


class RetryableTests(SynchronousTestCase):
    def test_the_errors_that_aws_documents_are_retryable(self) -> None:
        """Throttling and transient errors are retryable, and no others."""
        for code, status, retryable, throttled in [
            ("SlowDown", 503, True, True),
            ("ThrottlingException", 400, True, True),
            ("429", 429, True, True),
            ("InternalError", 500, True, False),
            ("502", 502, True, False),
            ("ServiceUnavailable", 503, True, False),
            ("504", 504, True, False),
            ("RequestTimeout", 400, True, False),
            ("501", 501, False, False),
            ("AccessDenied", 403, False, False),
            ("NoSuchKey", 404, False, False),
            ("BadDigest", 400, False, False),
            ("SignatureDoesNotMatch", 403, False, False),
        ]:
            error = AwsRefused("", code=code, status=status)
            self.assertEqual(is_retryable(error), retryable, code)
            self.assertEqual(is_throttled(error), throttled, code)
        self.assertTrue(is_retryable(AwsUnreachable("")))
        self.assertFalse(is_retryable(AwsMalformed("", code="Malformed")))


class RetryTests(ClientCase):
    async def test_all_attempts_end_within_the_budget(self) -> None:
        """A call to a server that hangs ends with its budget, before its attempts are used up."""
        server, s3 = self.serve(hang, hang, hang, hang)
        error = await self.error(
            AwsTimeout, s3.call("DeleteObject", GET, timeout=60, max_attempts=4, budget=0.1)
        )
        self.assertIn("no complete response in 0.", str(error))
        self.assertEqual(len(server.seen), 1)

    async def test_throttling_and_faults_are_retried(self) -> None:
        """Throttling and faults of AWS are retried until the call succeeds."""
        failures = [
            xml_error(503, "SlowDown"),
            answer(500),
            xml_error(400, "RequestTimeout"),
        ]
        server, s3 = self.serve(*failures, answer(204))
        await s3.call("DeleteObject", GET)
        self.assertEqual(len(server.seen), 4)
        self.assertEqual({seen.uri for seen in server.seen}, {"/bucket/key"})

    async def test_throttling_by_sqs_is_retried(self) -> None:
        """The error codes with which SQS throttles are retried."""
        failures = [json_error(400, "RequestThrottled"), json_error(403, "ThrottlingException")]
        server, sqs = self.sqs(*failures, json_answer("{}"))
        await sqs.call("ListQueues", {})
        self.assertEqual(len(server.seen), 3)

    async def test_other_refusals_are_not_retried(self) -> None:
        """A refusal that AWS does not document as retryable is reported after one attempt."""
        for status, code in [(403, "AccessDenied"), (400, "InvalidRequest"), (404, "NoSuchBucket")]:
            server, s3 = self.serve(xml_error(status, code))
            error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
            self.assertEqual((error.code, error.status), (code, status))
            self.assertEqual(len(server.seen), 1)

    async def test_the_last_error_is_reported(self) -> None:
        """After four attempts the last error is raised, with the number of attempts."""
        server, s3 = self.serve(*[xml_error(503, "SlowDown", "Reduce your rate")] * 9)
        error = await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 4)
        self.assertEqual(
            str(error),
            "s3:DeleteObject bucket/key: SlowDown: Reduce your rate"
            " (status 503, request REQ1, attempt 4)",
        )

    async def test_the_quota_ends_retries(self) -> None:
        """While every call fails, the retry quota limits the additional load."""
        server, s3 = self.serve()
        calls = 130
        for _ in range(calls):
            await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertLessEqual(len(server.seen), calls + 100)
        self.assertGreaterEqual(len(server.seen), calls)

    async def test_a_reset_connection_is_retried(self) -> None:
        """A connection that is reset without a response is retried."""
        server, s3 = self.serve(reset, reset, answer(204))
        await s3.call("DeleteObject", GET)
        self.assertGreaterEqual(len(server.seen), 3)

    async def test_a_refused_connection_is_retried(self) -> None:
        """A refused connection is retried, and the error names the cause."""
        server = ScriptedServer(self)
        port = self._cleanups.pop()
        await port[0]()
        error = await self.error(AwsUnreachable, self.s3(server.url).call("DeleteObject", GET))
        self.assertIn("refused", str(error))
        self.assertIn("attempt 4", str(error))

    async def test_a_silent_server_is_retried(self) -> None:
        """A request without a response is abandoned after its timeout, and retried."""
        server, s3 = self.serve(hang, answer(204))
        await s3.call("DeleteObject", GET, timeout=0.1)
        self.assertEqual(len(server.seen), 2)

    async def test_a_second_timeout_is_final(self) -> None:
        """A call is not retried after its second timeout, even if other attempts are left."""
        server, s3 = self.serve(hang, xml_error(503, "SlowDown"), hang, answer(204))
        await self.error(AwsTimeout, s3.call("DeleteObject", GET, timeout=0.1))
        self.assertEqual(len(server.seen), 3)

    async def test_a_cancelled_call_ends_its_connection(self) -> None:
        """A cancelled call closes its connection, and is not retried."""
        server = RawServer(self)
        calling = Deferred.fromCoroutine(self.s3(server.url).call("DeleteObject", GET))
        while not (server.connections and server.connections[0].data):
            await deferLater(reactor, 0.005)
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        await server.connections[0].lost
        self.assertEqual(len(server.connections), 1)

    async def test_a_call_can_be_cancelled_before_it_connects(self) -> None:
        """A call that is cancelled before it has a connection sends nothing."""
        server, s3 = self.serve(answer(204))
        calling = Deferred.fromCoroutine(s3.call("DeleteObject", GET))
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        self.assertEqual(server.seen, [])

    async def test_a_call_can_be_cancelled_between_attempts(self) -> None:
        """A call that is cancelled during a delay is not retried."""
        server, s3 = self.serve(backoff=Backoff(first=60, cap=60, chance=lambda: 1))
        calling = Deferred.fromCoroutine(s3.call("DeleteObject", GET))
        while not any("retrying" in event for event in self.events):
            await deferLater(reactor, 0.005)
        calling.cancel()
        with self.assertRaises(CancelledError):
            await calling
        self.assertEqual(len(server.seen), 1)

    async def test_connections_are_reused(self) -> None:
        """Successive calls share one connection."""
        ports = set()

        def note(request: Any) -> bytes:
            ports.add(request.transport.getPeer().port)
            request.setResponseCode(204)
            return b""

        _, s3 = self.serve(note, note, note)
        for _ in range(3):
            await s3.call("DeleteObject", GET)
        self.assertEqual(len(ports), 1)


class CorrectionTests(ClientCase):
    """Clock, credentials and region are corrected after a refusal, once per call."""

    def skewed(self, seconds: float, code: str = "RequestTimeTooSkewed", status: int = 403) -> Any:
        return xml_error(status, code, Date=formatdate(time.time() + seconds, usegmt=True))

    async def test_a_skewed_clock_is_corrected(self) -> None:
        """
        After a refusal with another date, this and later calls are signed with the time of AWS.
        """
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

    async def test_a_skewed_clock_is_recognized_by_the_date(self) -> None:
        """A skewed clock is recognized by the date of the response, with any error code."""
        late = json_answer(
            '{"__type": "com.amazon.coral.service#InvalidSignatureException"}',
            403,
            Date=formatdate(time.time() - 3600, usegmt=True),
        )
        server, sqs = self.sqs(late, json_answer("{}"))
        await sqs.call("ListQueues", {})
        self.assertEqual(len(server.seen), 2)

    async def test_a_clock_is_corrected_once_per_call(self) -> None:
        """A server whose date differs in every response does not cause endless retries."""
        server, s3 = self.serve(*[self.skewed(n * 7200) for n in range(1, 9)])
        await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 2)

    async def test_a_correct_clock_is_not_corrected(self) -> None:
        """A refusal whose date is invalid, or agrees with the local clock, is not retried."""
        for date in (formatdate(usegmt=True), "yesterday", ""):
            server, s3 = self.serve(xml_error(403, "AccessDenied", Date=date))
            await self.error(AwsRefused, s3.call("DeleteObject", GET))
            self.assertEqual(len(server.seen), 1)
            self.assertEqual(self.client.skew, 0)

    async def test_expired_credentials_are_searched_again(self) -> None:
        """After an expired token, new credentials are searched and used."""
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
            self.addCleanup(client.agent.stopService)
            called = AwsService(client, service, server.url)
            if service == "s3":
                await called.call("DeleteObject", GET)
            else:
                await called.call("ListQueues", {})
            self.assertEqual(
                [seen.headers["x-amz-security-token"] for seen in server.seen], ["old", "new"]
            )

    async def test_a_head_with_an_expired_token_is_retried(self) -> None:
        """A status of 400 to a HEAD, which has no error code, causes a new search."""
        tokens = iter(["old", "new"])
        credentials = chain(reactor, lambda: Credentials("AKIA", SECRET_KEY, next(tokens)))
        server, s3 = self.serve(answer(400), answer(200), credentials=credentials)
        await s3.call("HeadObject", GET)
        self.assertEqual(server.seen[1].headers["x-amz-security-token"], "new")

    async def test_credentials_are_searched_once_per_call(self) -> None:
        """A call whose new credentials are refused too fails."""
        server, s3 = self.serve(*[xml_error(400, "ExpiredToken")] * 5)
        await self.error(AwsRefused, s3.call("DeleteObject", GET))
        self.assertEqual(len(server.seen), 2)

    async def test_nothing_is_sent_without_credentials(self) -> None:
        """A call without credentials fails before it sends anything."""
        server, s3 = self.serve(credentials=chain(reactor, lambda: None))
        await self.error(NoCredentials, s3.call("DeleteObject", GET))
        self.assertEqual(server.seen, [])

    async def test_the_region_of_a_bucket_is_corrected(self) -> None:
        """This and later requests for a bucket in another region are signed for that region."""
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

    async def test_a_stream_corrects_the_region_for_the_next(self) -> None:
        """A started stream fails with the wrong region, and the next one has the right region."""
        server, s3 = self.serve(
            xml_error(301, "PermanentRedirect", x_amz_bucket_region="eu-central-1"), answer(200)
        )
        streams = [StreamPayload(BytesBody(b"x"), 1) for _ in range(2)]
        await self.error(AwsRefused, s3.call("PutObject", GET, payload=streams[0]))
        await s3.call("PutObject", GET, payload=streams[1])
        self.assertIn("/eu-central-1/", server.seen[1].headers["authorization"])
