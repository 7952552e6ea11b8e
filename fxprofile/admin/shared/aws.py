"""The SQS queues of the service as they should be, and as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fxprofile.admin.shared.tools import Tools
from fxprofile.app.services import RESULTS_MAX_RECEIVES, RESULTS_VISIBILITY
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.sqs import MAX_WAIT, endpoint_of
from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import Settings

_DAY: Final = 86400

#: Seconds that SQS keeps jobs and updates, and everything else; 14 days are its maximum.
JOBS_KEPT: Final = 4 * _DAY
KEPT: Final = 14 * _DAY


@dataclass(frozen=True)
class WantedQueue:
    """
    A queue as it should be.

    :ivar setting: the setting that holds its URL.
    :ivar url: the value of that setting.
    :ivar kept: seconds that SQS keeps a message.
    :ivar visibility: seconds that a received message is hidden.
    :ivar dead: the name of its dead-letter queue.
    :ivar max_receives: receives before a message is moved there.
    """

    name: str
    setting: str
    url: str | None
    kept: int
    visibility: int
    dead: str | None = None
    max_receives: int = 0

    def attributes(self, dead_arn: str | None = None) -> dict[str, str]:
        """
        Return its attributes as SQS names them.

        :param dead_arn: the ARN of the dead-letter queue; its name stands in if unknown.
        """
        attributes = {
            "MessageRetentionPeriod": str(self.kept),
            "VisibilityTimeout": str(self.visibility),
            "ReceiveMessageWaitTimeSeconds": str(MAX_WAIT),
        }
        if self.dead is not None:
            target = dead_arn or self.dead
            policy = {"deadLetterTargetArn": target, "maxReceiveCount": self.max_receives}
            attributes["RedrivePolicy"] = json.dumps(policy)
        return attributes

    def shortcomings(self, attributes: Mapping[str, str]) -> list[str]:
        """Return what these attributes of the queue lack; no more rights than a role's needed."""
        found = []
        kept = attributes.get("MessageRetentionPeriod", "0")
        if int(kept) < self.kept:
            found.append(f"MessageRetentionPeriod is {kept}, should be {self.kept}")
        policy = short(attributes.get("RedrivePolicy"))
        wanted = f"{self.dead} after {self.max_receives}"
        if self.dead is not None and policy != wanted:
            found.append(f"RedrivePolicy is {policy}, should be {wanted}")
        return found


def wanted_queues(settings: Settings) -> Sequence[WantedQueue]:
    """
    Return the queues of the service, each dead-letter queue before the queue that it serves.

    :raises ConfigError: if one is a FIFO queue.
    """
    urls = settings.queue
    for key in ("jobs_url", "results_url", "dead_url", "results_dead_url"):
        if str(getattr(urls, key)).endswith(".fifo"):
            raise ConfigError(f"queue.{key}: is a FIFO queue; use a standard queue")
    wanted = []
    for name, dead, kept, visibility, receives in (
        ("jobs", "dead", JOBS_KEPT, urls.visibility_timeout, urls.max_receives),
        ("results", "results_dead", KEPT, RESULTS_VISIBILITY, RESULTS_MAX_RECEIVES),
    ):
        url, dead_url = getattr(urls, f"{name}_url"), getattr(urls, f"{dead}_url")
        named = name_of(url) or f"fxprofile-{name}"
        dead_named = name_of(dead_url) or f"{named}-dead"
        wanted += [
            WantedQueue(dead_named, f"queue.{dead}_url", dead_url, KEPT, visibility),
            WantedQueue(named, f"queue.{name}_url", url, kept, visibility, dead_named, receives),
        ]
    if url := urls.updates_url:
        named = name_of(url)
        wanted.append(WantedQueue(named, "queue.updates_url", url, JOBS_KEPT, RESULTS_VISIBILITY))
    return wanted


def name_of(url: str | None) -> str:
    """Return the name of the queue with this URL, empty if there is none."""
    return urlsplit(url or "").path.rstrip("/").rpartition("/")[2]


class SqsQueues:
    """Finds queues and reads their attributes."""

    def __init__(self, tools: Tools) -> None:
        self._client = tools.aws
        self._settings = tools.settings

    def service(self, url: str | None) -> AwsService:
        """Return SQS at the endpoint of the settings, or else the one that a URL names."""
        settings = self._settings
        endpoint, region = endpoint_of(url) if url is not None else (None, None)
        return self._client.service(
            "sqs",
            endpoint_url=settings.queue.endpoint_url or settings.aws.endpoint_url or endpoint,
            region=region,
        )

    async def attributes(self, url: str) -> Mapping[str, str]:
        """
        Return all attributes of a queue.

        :raises AwsError: if it cannot be reached, or does not allow that.
        """
        parameters = {"QueueUrl": url, "AttributeNames": ["All"]}
        answer = await self.service(url).call("GetQueueAttributes", parameters)
        attributes: Mapping[str, str] = answer.members.get("Attributes", {})
        return attributes

    async def find(self, near: str | None, name: str) -> str | None:
        """
        Return the URL of the queue of this name, or None.

        :param near: the URL of a queue of the same service.
        :raises AwsError: if it cannot be found out.
        """
        try:
            answer = await self.service(near).call("GetQueueUrl", {"QueueName": name})
        except AwsError as error:
            if error.code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
                return None
            raise
        return str(answer.members["QueueUrl"])

    async def dead_url(self, url: str) -> str | None:
        """
        Return the URL of the dead-letter queue in a queue's redrive policy, or None.

        :raises AwsError: if it cannot be found out.
        """
        policy = comparable((await self.attributes(url)).get("RedrivePolicy"))
        name = policy.get("deadLetterTargetArn", "").rpartition(":")[2]
        return await self.find(url, name) if name else None


def comparable(value: str | None) -> dict[str, str]:
    """Return the value of an attribute so that equal ones compare equal; a policy by member."""
    if not value or not value.startswith("{"):
        return {"": value} if value else {}
    # SQS gives numbers in policies as text.
    return {name: str(member) for name, member in json.loads(value).items()}


def short(value: str | None) -> str:
    """Return the value of an attribute for people."""
    members = comparable(value)
    if "deadLetterTargetArn" not in members:
        return value or "unset"
    name = members["deadLetterTargetArn"].rpartition(":")[2]
    return f"{name} after {members.get('maxReceiveCount')}"
