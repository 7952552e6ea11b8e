"""
Tests of :mod:`fxprofile.drivers.aws.client.wire`.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client.errors import AwsError, AwsMalformed
from fxprofile.drivers.aws.client.wire import Endpoint, load_protocol

ELSEWHERE = "http://storage.example:9000"


class LoadTests(SynchronousTestCase):
    def test_a_description_is_loaded_once(self) -> None:
        """The description of a service is loaded once per process."""
        self.assertIs(load_protocol("sqs"), load_protocol("sqs"))


class EndpointTests(SynchronousTestCase):
    def endpoint(self, service: str = "s3", **options: Any) -> Endpoint:
        options = {
            "region": "eu-west-1",
            "url": None,
            "bucket": "bucket" if service == "s3" else None,
            "path_style": False,
        } | options
        return load_protocol(service).endpoint(**options)

    def test_a_bucket_is_in_the_host_or_the_path(self) -> None:
        """The bucket is in the host, or in the path if path style is chosen."""
        self.assertEqual(self.endpoint().url, "https://bucket.s3.eu-west-1.amazonaws.com")
        self.assertEqual(
            self.endpoint(path_style=True).url, "https://s3.eu-west-1.amazonaws.com/bucket"
        )
        self.assertEqual(self.endpoint(url=ELSEWHERE).url, "http://bucket.storage.example:9000")
        self.assertEqual(self.endpoint(url=ELSEWHERE, path_style=True).url, f"{ELSEWHERE}/bucket")

    def test_a_bucket_with_a_dot_is_in_the_path(self) -> None:
        """A bucket with a dot, which no wildcard certificate matches, is in the path."""
        self.assertEqual(
            self.endpoint(bucket="my.bucket").url, "https://s3.eu-west-1.amazonaws.com/my.bucket"
        )

    def test_requests_are_signed_for_service_and_region(self) -> None:
        """The endpoint gives the service and the region of the signature."""
        for service in ("s3", "sqs"):
            endpoint = self.endpoint(service)
            self.assertEqual(
                (endpoint.signing_name, endpoint.signing_region), (service, "eu-west-1")
            )

    def test_sqs_has_an_endpoint_per_partition(self) -> None:
        """The endpoint of SQS depends on the region and its partition, or is configured."""
        self.assertEqual(self.endpoint("sqs").url, "https://sqs.eu-west-1.amazonaws.com")
        self.assertEqual(
            self.endpoint("sqs", region="cn-north-1").url, "https://sqs.cn-north-1.amazonaws.com.cn"
        )
        self.assertEqual(self.endpoint("sqs", url=ELSEWHERE).url, ELSEWHERE)

    def test_an_invalid_region_is_an_error(self) -> None:
        """An invalid region raises AwsError."""
        with self.assertRaises(AwsError):
            self.endpoint(region="no such region")


class RequestTests(SynchronousTestCase):
    def request(self, operation: str, parameters: dict[str, Any], path_style: bool = False) -> Any:
        wire = load_protocol("s3")
        endpoint = wire.endpoint(region="us-east-1", url=None, bucket="b-1", path_style=path_style)
        return wire.request(operation, {"Bucket": "b-1", **parameters}, endpoint, "tests")

    def test_urls_contain_the_bucket_once(self) -> None:
        """URLs contain the bucket once, and keys and queries are quoted."""
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

    def test_a_required_digest_is_sent(self) -> None:
        """Operations that require a digest of their body have a Content-MD5."""
        request = self.request("DeleteObjects", {"Delete": {"Objects": [{"Key": "k"}]}})
        self.assertEqual(len(request.headers["Content-MD5"]), 24)
        self.assertNotIn("Content-MD5", self.request("GetObject", {"Key": "k"}).headers)


class ParseTests(SynchronousTestCase):
    def test_a_missing_member_is_valid(self) -> None:
        """A response without an optional member is valid."""
        wire = load_protocol("sqs")
        for body in (b"{}", b""):
            _, members = wire.parse("ReceiveMessage", 200, {}, body)
            self.assertNotIn("Messages", members)

    def test_unknown_members_are_ignored(self) -> None:
        """A JSON result has only the members that its operation has, and none that are null."""
        attributes = {"ApproximateReceiveCount": "1"}
        message = {"Body": "b", "Attributes": attributes, "Size": 3, "MessageId": None}
        body = json.dumps({"Messages": [message], "More": {}}).encode()
        _, members = load_protocol("sqs").parse("ReceiveMessage", 200, {}, body)
        self.assertEqual(members, {"Messages": [{"Body": "b", "Attributes": attributes}]})

    def test_sqs_errors_have_their_query_names(self) -> None:
        """An SQS error has the code of the query protocol if the response contains it."""
        headers = {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"}
        body = b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "no"}'
        _, members = load_protocol("sqs").parse("SendMessage", 400, headers, body)
        self.assertEqual(members["Error"]["Code"], "AWS.SimpleQueueService.NonExistentQueue")

    def test_a_success_without_a_body_is_not_parsed(self) -> None:
        """A success without a body has an empty result; one with a body is parsed."""
        wire = load_protocol("s3")
        for operation in ("PutObject", "GetObject", "HeadObject", "DeleteObject"):
            self.assertEqual(wire.parse(operation, 200, {"etag": "e"}, b""), (200, {}))
        with self.assertRaises(AwsMalformed):
            wire.parse("PutObject", 200, {}, b"<html>Log in")
        error = b"<Error><Code>InternalError</Code></Error>"
        status, members = wire.parse("PutObject", 200, {}, error)
        self.assertEqual((status, members["Error"]["Code"]), (500, "InternalError"))

    def test_an_invalid_response_is_malformed(self) -> None:
        """A body that is not a response of the operation raises AwsMalformed."""
        wire = load_protocol("sqs")
        for body in (
            b"\xff\xfe",
            b"<a></a>",
            b"{",
            b"[1]",
            b'{"Messages": 3}',
            b'{"Messages": [{"Body": 3}]}',
        ):
            with self.assertRaises(AwsMalformed):
                wire.parse("ReceiveMessage", 200, {}, body)
        wire = load_protocol("s3")
        for body in (b"\xff\xfe", b"<", b"{}", b"<a><b></a>", b"<ListBucketResult>"):
            with self.assertRaises(AwsMalformed):
                wire.parse("ListObjectsV2", 200, {}, body)
