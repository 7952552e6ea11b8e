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
        wanted = self.attributes()
        found = []
        for name in ("MessageRetentionPeriod", "RedrivePolicy"):
            now, then = short(attributes.get(name)), short(wanted.get(name))
            if name in wanted and now != then and not (now.isdigit() and int(now) > self.kept):
                found.append(f"{name} is {now}, should be {then}")
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


def service(tools: Tools, url: str | None) -> AwsService:
    """Return SQS at the endpoint of the settings, or else the one that a URL names."""
    settings = tools.settings
    endpoint, region = endpoint_of(url) if url is not None else (None, None)
    endpoint = settings.queue.endpoint_url or settings.aws.endpoint_url or endpoint
    return AwsService(tools.aws, "sqs", endpoint, region)


async def attributes(tools: Tools, url: str) -> Mapping[str, str]:
    """
    Return all attributes of a queue.

    :raises AwsError: if it cannot be reached, or does not allow that.
    """
    parameters = {"QueueUrl": url, "AttributeNames": ["All"]}
    answer = await service(tools, url).call("GetQueueAttributes", parameters)
    found: Mapping[str, str] = answer.members.get("Attributes", {})
    return found


async def find(tools: Tools, near: str | None, name: str) -> str | None:
    """
    Return the URL of the queue of this name, or None.

    :param near: the URL of a queue of the same service.
    :raises AwsError: if it cannot be found out.
    """
    try:
        answer = await service(tools, near).call("GetQueueUrl", {"QueueName": name})
    except AwsError as error:
        if error.code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
            return None
        raise
    return str(answer.members["QueueUrl"])


async def dead_url(tools: Tools, url: str) -> str | None:
    """
    Return the URL of the dead-letter queue in a queue's redrive policy, or None.

    :raises AwsError: if it cannot be found out.
    """
    policy = json.loads((await attributes(tools, url)).get("RedrivePolicy") or "{}")
    name = policy.get("deadLetterTargetArn", "").rpartition(":")[2]
    return await find(tools, url, name) if name else None


def short(value: str | None) -> str:
    """Return the value of an attribute for people, so that equal ones compare equal."""
    if not value or not value.startswith("{"):
        return value or "unset"
    # The ARN of a dead-letter queue differs only by its name: it has the account and the region
    # of its queue.
    policy = json.loads(value)
    name = str(policy.get("deadLetterTargetArn")).rpartition(":")[2]
    return f"{name} after {policy.get('maxReceiveCount')}"
