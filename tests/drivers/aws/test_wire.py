"""
Tests of :mod:`fxprofile.drivers.aws.client.wire`.
"""

from __future__ import annotations

from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.errors import AwsError, AwsMalformed
from fxprofile.drivers.aws.client.wire import Endpoint, WireProtocol, load_protocol

ELSEWHERE = "http://storage.example:9000"


class LoadTests(SynchronousTestCase):
    def test_once(self) -> None:
        """The description of a service is read once, also if many threads want it."""
        found: list[WireProtocol] = []
        threads = [Thread(target=lambda: found.append(load_protocol("sqs"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len({id(wire) for wire in found}), 1)


class EndpointTests(SynchronousTestCase):
    def endpoint(self, service: str = "s3", **options: Any) -> Endpoint:
        options = {
            "region": "eu-west-1",
            "url": None,
            "bucket": "bucket" if service == "s3" else None,
            "path_style": False,
        } | options
        return load_protocol(service).endpoint(**options)

    def test_s3(self) -> None:
        """A bucket is in the host, or in the path."""
        self.assertEqual(self.endpoint().url, "https://bucket.s3.eu-west-1.amazonaws.com")
        self.assertEqual(
            self.endpoint(path_style=True).url, "https://s3.eu-west-1.amazonaws.com/bucket"
        )
        self.assertEqual(self.endpoint(url=ELSEWHERE).url, "http://bucket.storage.example:9000")
        self.assertEqual(self.endpoint(url=ELSEWHERE, path_style=True).url, f"{ELSEWHERE}/bucket")

    def test_certificates(self) -> None:
        """A bucket with a dot, whose host no certificate fits, is in the path."""
        self.assertEqual(
            self.endpoint(bucket="my.bucket").url, "https://s3.eu-west-1.amazonaws.com/my.bucket"
        )

    def test_signing(self) -> None:
        """Requests are signed for the service and the region."""
        for service in ("s3", "sqs"):
            endpoint = self.endpoint(service)
            self.assertEqual(
                (endpoint.signing_name, endpoint.signing_region), (service, "eu-west-1")
            )

    def test_sqs(self) -> None:
        """SQS is where AWS has it, in China too, or where we say."""
        self.assertEqual(self.endpoint("sqs").url, "https://sqs.eu-west-1.amazonaws.com")
        self.assertEqual(
            self.endpoint("sqs", region="cn-north-1").url, "https://sqs.cn-north-1.amazonaws.com.cn"
        )
        self.assertEqual(self.endpoint("sqs", url=ELSEWHERE).url, ELSEWHERE)

    def test_no_such_place(self) -> None:
        """A region that cannot be is an error."""
        with self.assertRaises(AwsError):
            self.endpoint(region="no such region")


class RequestTests(SynchronousTestCase):
    def request(self, operation: str, parameters: dict[str, Any], path_style: bool = False) -> Any:
        wire = load_protocol("s3")
        endpoint = wire.endpoint(region="us-east-1", url=None, bucket="b-1", path_style=path_style)
        return wire.request(operation, {"Bucket": "b-1", **parameters}, endpoint, "tests")

    def test_urls(self) -> None:
        """The bucket is in the URL once, and keys and queries are quoted."""
        for path_style, base in (
            (False, "https://b-1.s3.us-east-1.amazonaws.com"),
            (True, "https://s3.us-east-1.amazonaws.com/b-1"),
        ):
            get = self.request("GetObject", {"Key": "a/b-1/c"}, path_style)
            self.assertEqual((get.method, get.url), ("GET", f"{base}/a/b-1/c"))
            listing = self.request("ListObjectsV2", {"Prefix": "a/&", "MaxKeys": 3}, path_style)
            self.assertIn(
                listing.url.removeprefix(base),
                (
                    "?list-type=2&prefix=a%2F%26&max-keys=3",
                    "/?list-type=2&prefix=a%2F%26&max-keys=3",
                ),
            )
            head = self.request("HeadBucket", {}, path_style)
            self.assertEqual(head.url.removesuffix("/"), base)

    def test_digest(self) -> None:
        """Operations that want a digest of their body get one."""
        request = self.request("DeleteObjects", {"Delete": {"Objects": [{"Key": "k"}]}})
        self.assertEqual(len(request.headers["Content-MD5"]), 24)
        self.assertNotIn("Content-MD5", self.request("GetObject", {"Key": "k"}).headers)


class ParseTests(SynchronousTestCase):
    def test_no_messages(self) -> None:
        """An answer that leaves something out is an answer."""
        wire = load_protocol("sqs")
        for body in (b"{}", b""):
            _, members = wire.parse("ReceiveMessage", 200, {}, body)
            self.assertNotIn("Messages", members)

    def test_old_names(self) -> None:
        """SQS's errors have the names that they had before it spoke JSON, if it says them."""
        headers = {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}
        body = b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"}'
        _, members = load_protocol("sqs").parse("SendMessage", 400, headers, body)
        self.assertEqual(members["Error"]["Code"], "AWS.SimpleQueueService.NonExistentQueue")

    def test_garbage(self) -> None:
        """What is no answer raises one kind of error, whatever it is."""
        wire = load_protocol("sqs")
        for body in (b"\xff\xfe", b"<a></a>", b"{", b"[1]", b'{"Messages": 3}'):
            with self.assertRaises(AwsMalformed):
                wire.parse("ReceiveMessage", 200, {}, body)
        wire = load_protocol("s3")
        for body in (b"\xff\xfe", b"<", b"{}", b"<a><b></a>", b"<ListBucketResult>"):
            with self.assertRaises(AwsMalformed):
                wire.parse("ListObjectsV2", 200, {}, body)
