"""
Which calls of AWS are made, and whether a policy allows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fxprofile.drivers.aws.client.client import AwsClient, AwsResponse, AwsService

POLICIES = Path(__file__).parents[3] / "etc" / "aws"

#: The right that each operation needs:
#: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html and
#: list_amazonsqs.html there.
RIGHTS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "SendMessage": "sqs:SendMessage",
    "ReceiveMessage": "sqs:ReceiveMessage",
    "DeleteMessageBatch": "sqs:DeleteMessage",
    "ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "GetQueueAttributes": "sqs:GetQueueAttributes",
}

#: What some servers want in place of a right for the calls that do many things at once.
BATCHES = {
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}


class RecordingClient(AwsClient):
    """
    A client that keeps what it is asked.

    :ivar needs: each right that a call needed, with the resource.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.needs: set[tuple[str, str]] = set()

    def service(self, name: str, **options: Any) -> AwsService:
        made = super().service(name, **options)
        plain_call = made.call

        async def call(operation: str, parameters: Mapping[str, Any], **rest: Any) -> AwsResponse:
            self.needs |= {(RIGHTS[operation], resource) for resource in resources(parameters)}
            return await plain_call(operation, parameters, **rest)

        made.call = call
        return made


def resources(parameters: Mapping[str, Any]) -> list[str]:
    """The ARNs of what a call is about."""
    if "QueueUrl" in parameters:
        account, name = urlsplit(parameters["QueueUrl"]).path.strip("/").split("/")
        return [f"arn:aws:sqs:us-east-1:{account}:{name}"]
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    keys = [entry["Key"] for entry in parameters.get("Delete", {}).get("Objects", [])]
    if "Key" in parameters:
        keys = [parameters["Key"]]
    return [f"{bucket}/{key}" for key in keys] or [bucket]


def allows(role: str, right: str, resource: str) -> bool:
    """Whether the policy of a role has a statement for this."""
    policy = json.loads((POLICIES / f"{role}.json").read_text())
    return any(
        right in statement["Action"]
        and any(
            re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), resource)
            for pattern in statement["Resource"]
        )
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
    )
