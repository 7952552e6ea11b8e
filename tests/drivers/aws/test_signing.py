"""
Tests of signatures with the examples of AWS's documentation:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from botocore import auth
from botocore.awsrequest import AWSRequest
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.signing import AccessKey, sign
from fxprofile.drivers.aws.client.wire import AwsRequest

KEY = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
MOMENT = datetime(2013, 5, 24, tzinfo=UTC).timestamp()
HOST = "https://examplebucket.s3.amazonaws.com"


class SignTests(SynchronousTestCase):
    def signature(self, request: AwsRequest, **options: object) -> str:
        options = {
            "key": KEY,
            "service": "s3",
            "region": "us-east-1",
            "seconds": MOMENT,
        } | options
        sign(request, **options)
        return request.headers["Authorization"].rpartition("Signature=")[2]

    def test_a_get_is_signed(self) -> None:
        """The example of a GET with a range has its documented signature."""
        request = AwsRequest("GET", f"{HOST}/test.txt", headers={"Range": "bytes=0-9"})
        self.assertEqual(
            self.signature(request),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        )

    def test_the_digest_of_a_body_is_signed(self) -> None:
        """A body has the SHA-256 of the documented example, which is signed."""
        request = AwsRequest("PUT", f"{HOST}/test%24file.text", body=b"Welcome to Amazon S3.")
        self.signature(request)
        self.assertEqual(
            request.headers["X-Amz-Content-SHA256"],
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        )
        self.assertIn("x-amz-content-sha256", request.headers["Authorization"])

    def test_a_query_is_signed(self) -> None:
        """The example of a list has its documented signature."""
        request = AwsRequest("GET", f"{HOST}/?max-keys=2&prefix=J")
        self.assertEqual(
            self.signature(request),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        )

    def test_an_unsigned_payload_is_marked(self) -> None:
        """The placeholder for the digest of a body is sent and signed."""
        request = AwsRequest("PUT", f"{HOST}/k", body=b"")
        first = self.signature(request, content_sha256="UNSIGNED-PAYLOAD")
        self.assertEqual(request.headers["X-Amz-Content-SHA256"], "UNSIGNED-PAYLOAD")
        self.assertNotEqual(first, self.signature(AwsRequest("PUT", f"{HOST}/k", body=b"")))

    def test_the_chunks_of_a_payload_are_signed(self) -> None:
        """The chunks of the documented example of a signed stream have their signatures."""
        # https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
        headers = {
            "Content-Encoding": "aws-chunked",
            "Content-Length": "66824",
            "x-amz-decoded-content-length": "66560",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
        }
        url = "https://s3.amazonaws.com/examplebucket/chunkObject.txt"
        sign_chunk = sign(
            AwsRequest("PUT", url, headers=headers),
            key=KEY,
            service="s3",
            region="us-east-1",
            seconds=MOMENT,
            content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        )
        self.assertEqual(
            [sign_chunk(chunk) for chunk in (b"a" * 65536, b"a" * 1024, b"")],
            [
                "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
            ],
        )

    def test_a_session_token_is_signed(self) -> None:
        """A session token is sent and signed."""
        request = AwsRequest("GET", f"{HOST}/k")
        key = AccessKey("AKIA", "secret", "token")
        self.signature(request, key=key)
        self.assertEqual(request.headers["X-Amz-Security-Token"], "token")
        self.assertIn("x-amz-security-token", request.headers["Authorization"])

    def test_a_second_signature_replaces_the_first(self) -> None:
        """Signing a request again replaces its signature."""
        request = AwsRequest("GET", f"{HOST}/k")
        first = self.signature(request)
        second = self.signature(request, seconds=MOMENT + 86400)
        self.assertNotEqual(first, second)
        self.assertEqual(
            second, self.signature(AwsRequest("GET", f"{HOST}/k"), seconds=MOMENT + 86400)
        )

    def test_signatures_equal_those_of_botocore(self) -> None:
        """A request of either service has the signature that botocore's signer gives it."""
        moment = datetime.fromtimestamp(MOMENT, UTC)
        self.patch(auth, "get_current_datetime", lambda: moment)
        base = {"User-Agent": "tests", "X-Amz-Meta-B": " a   b ", "Content-Type": "image/png"}
        for key in (KEY, AccessKey("AKIA", "another", "token")):
            for service, botocore in (("s3", auth.S3SigV4Auth), ("sqs", auth.SigV4Auth)):
                for method, url, body in (
                    ("PUT", "https://b.example:8443/a/%C3%BC%20~-k", b"body"),
                    ("GET", "http://127.0.0.1:5000/b?prefix=b&list-type=2&prefix=a%2F&delete", b""),
                    ("POST", "https://sqs.example/", b"{}"),
                    ("POST", "http://sqs.example:80/a%20b/c", b"{}"),
                ):
                    ours = AwsRequest(method, url, dict(base), body)
                    sign(ours, key=key, service=service, region="eu-west-1", seconds=MOMENT)
                    theirs = AWSRequest(method, url, dict(base), body)
                    signer = botocore(key, service, "eu-west-1")
                    signer.add_auth(theirs)
                    self.assertEqual(ours.headers, dict(theirs.headers.items()))

    def test_signing_logs_nothing(self) -> None:
        """Signing does not write botocore's debug log, which contains tokens."""
        with self.assertNoLogs("botocore", logging.DEBUG):
            self.signature(AwsRequest("GET", f"{HOST}/k"), key=AccessKey("A", "s", "token"))
