"""
Records AWS calls, and evaluates IAM policies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fxprofile.drivers.aws.client.client import AwsResponse, AwsService

POLICIES = Path(__file__).parents[3] / "etc" / "aws"

#: The IAM action that each operation needs:
#: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html and
#: list_amazonsqs.html there.
RIGHTS = {
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "SendMessageBatch": "sqs:SendMessage",
    "ReceiveMessage": "sqs:ReceiveMessage",
    "DeleteMessageBatch": "sqs:DeleteMessage",
    "ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "GetQueueAttributes": "sqs:GetQueueAttributes",
}

#: Actions that some servers require for batches, in place of the single actions.
BATCHES = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}


class RecordingService(AwsService):
    """
    A service that records its calls.

    :ivar needs: the IAM actions that the calls needed, with their resources.
    """

    needs: set[tuple[str, str]]

    async def call(self, operation: str, parameters: Mapping[str, Any], **rest: Any) -> AwsResponse:
        self.needs |= {(RIGHTS[operation], resource) for resource in resources(parameters)}
        return await super().call(operation, parameters, **rest)


def resources(parameters: Mapping[str, Any]) -> list[str]:
    """Return the ARNs of the resources of a call."""
    if "QueueUrl" in parameters:
        account, name = urlsplit(parameters["QueueUrl"]).path.strip("/").split("/")
        return [f"arn:aws:sqs:us-east-1:{account}:{name}"]
    bucket = f"arn:aws:s3:::{parameters['Bucket']}"
    keys = [entry["Key"] for entry in parameters.get("Delete", {}).get("Objects", [])]
    if "Key" in parameters:
        keys = [parameters["Key"]]
    return [f"{bucket}/{key}" for key in keys] or [bucket]


def allows(role: str, right: str, resource: str) -> bool:
    """Whether the policy of a role allows an action on a resource."""
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
