"""
Queues of SQS: made, and set up so that what nobody can handle ends in a queue of dead
letters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from fxprofile.admin.provision.plan import Plan
from fxprofile.app.services import RESULTS_MAX_RECEIVES, RESULTS_VISIBILITY
from fxprofile.drivers.aws.client.client import AwsClient, AwsService
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.drivers.aws.sqs import MAX_WAIT, endpoint_of
from fxprofile.model.errors import ConfigError
from fxprofile.settings.model import Settings

_DAY: Final = 86400

#: Seconds that jobs, and everything else, are kept; SQS allows no more than the latter.
JOBS_KEPT: Final = 4 * _DAY
KEPT: Final = 14 * _DAY

#: What queues are called whose URLs are not set.
PREFIX: Final = "fxprofile"


@dataclass(frozen=True)
class WantedQueue:
    """
    A queue as it should be.

    :ivar setting: that holds its URL, if there is one.
    :ivar url: what the setting says.
    :ivar dead: the name of the queue of its dead letters.
    """

    name: str
    setting: str | None
    url: str | None
    kept: int
    visibility: int
    wait: int = MAX_WAIT
    dead: str | None = None
    max_receives: int = 0


def wanted_queues(settings: Settings) -> Sequence[WantedQueue]:
    """
    The queues of the service, those of dead letters before those that they are for.

    :raises ConfigError: if one is of the wrong kind.
    """
    queue = settings.queue
    for key in ("jobs_url", "results_url", "dead_url", "results_dead_url"):
        if str(getattr(queue, key)).endswith(".fifo"):
            raise ConfigError(f"queue.{key}: is a FIFO queue, and has to be a standard one")
    jobs = _name(queue.jobs_url, f"{PREFIX}-jobs")
    results = _name(queue.results_url, f"{PREFIX}-results")
    jobs_dead = _name(queue.dead_url, f"{jobs}-dead")
    results_dead = _name(queue.results_dead_url, f"{results}-dead")
    wanted = [
        WantedQueue(
            name=jobs_dead,
            setting="queue.dead_url",
            url=queue.dead_url,
            kept=KEPT,
            visibility=queue.visibility_timeout,
        ),
        WantedQueue(
            name=jobs,
            setting="queue.jobs_url",
            url=queue.jobs_url,
            kept=JOBS_KEPT,
            visibility=queue.visibility_timeout,
            dead=jobs_dead,
            max_receives=queue.max_receives,
        ),
        WantedQueue(
            name=results_dead,
            setting="queue.results_dead_url",
            url=queue.results_dead_url,
            kept=KEPT,
            visibility=RESULTS_VISIBILITY,
        ),
        WantedQueue(
            name=results,
            setting="queue.results_url",
            url=queue.results_url,
            kept=KEPT,
            visibility=RESULTS_VISIBILITY,
            dead=results_dead,
            max_receives=RESULTS_MAX_RECEIVES,
        ),
    ]
    if queue.updates_url is not None:
        wanted.append(
            WantedQueue(
                name=_name(queue.updates_url, ""),
                setting="queue.updates_url",
                url=queue.updates_url,
                kept=JOBS_KEPT,
                visibility=RESULTS_VISIBILITY,
            )
        )
    return wanted


def _name(url: str | None, otherwise: str) -> str:
    return otherwise if url is None else urlsplit(url).path.rstrip("/").rpartition("/")[2]


class Queues:
    """Plans queues."""

    def __init__(self, client: AwsClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._urls: dict[str, str] = {}

    async def plan(self, plan: Plan) -> None:
        """
        Plan all queues.

        :raises AwsError: if they cannot be looked at.
        """
        for wanted in wanted_queues(self._settings):
            await self._plan(plan, wanted)
        events = self._settings.queue.events_url
        if events is not None:
            await self._look_at_events(plan, events)

    async def dead_url(self, url: str) -> str | None:
        """
        The URL of the queue of dead letters of the one with this URL.

        :raises AwsError: if it cannot be found out.
        """
        sqs = self._service(url)
        policy = _comparable((await self._attributes(sqs, url)).get("RedrivePolicy")) or {}
        name = policy.get("deadLetterTargetArn", "").rpartition(":")[2]
        return await self._find(sqs, name) if name else None

    async def shortcomings(self, wanted: WantedQueue) -> list[str]:
        """
        What a queue with a URL is set up for less than it should be; this takes no more
        rights than a role has.

        :raises AwsError: if it cannot be looked at.
        """
        url = str(wanted.url)
        attributes = await self._attributes(self._service(url), url)
        found = []
        kept = attributes.get("MessageRetentionPeriod", "0")
        if int(kept) < wanted.kept:
            found.append(f"MessageRetentionPeriod is {kept} and should be {wanted.kept}")
        if wanted.dead is not None:
            policy = _comparable(attributes.get("RedrivePolicy")) or {}
            dead = policy.get("deadLetterTargetArn", "").rpartition(":")[2]
            times = policy.get("maxReceiveCount")
            if (dead, times) != (wanted.dead, str(wanted.max_receives)):
                found.append(
                    f"RedrivePolicy is {_short(attributes.get('RedrivePolicy'))}"
                    f" and should be {wanted.dead} after {wanted.max_receives}"
                )
        return found

    async def _plan(self, plan: Plan, wanted: WantedQueue) -> None:
        what = f"queue {wanted.name}"
        sqs = self._service(wanted.url)
        url = await self._find(sqs, wanted.name)
        if url is None:
            plan.create(what, _described(wanted), partial(self._create, sqs, plan, wanted))
            return
        self._urls[wanted.name] = url
        self._note(plan, wanted, url)
        attributes = await self._attributes(sqs, url)
        differs = await self._differences(sqs, wanted, attributes)
        if not differs:
            plan.fine(what, _described(wanted))
            return
        detail = ", ".join(
            f"{name} {_short(attributes.get(name))} to {_short(value)}"
            for name, value in differs.items()
        )
        plan.change(what, detail, partial(self._set, sqs, wanted))

    def _service(self, url: str | None) -> AwsService:
        config = self._settings
        endpoint, region = endpoint_of(url) if url is not None else (None, None)
        return self._client.service(
            "sqs",
            endpoint_url=config.queue.endpoint_url or config.aws.endpoint_url or endpoint,
            region=region,
        )

    async def _find(self, sqs: AwsService, name: str) -> str | None:
        try:
            answer = await sqs.call("GetQueueUrl", {"QueueName": name})
        except AwsError as error:
            if error.code.endswith(("NonExistentQueue", "QueueDoesNotExist")):
                return None
            raise
        return str(answer.members["QueueUrl"])

    async def _attributes(self, sqs: AwsService, url: str) -> Mapping[str, str]:
        answer = await sqs.call("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["All"]})
        attributes: Mapping[str, str] = answer.members.get("Attributes", {})
        return attributes

    async def _differences(
        self, sqs: AwsService, wanted: WantedQueue, attributes: Mapping[str, str]
    ) -> dict[str, str]:
        aims = _aims(wanted)
        if wanted.dead is not None:
            aims["RedrivePolicy"] = await self._redrive(sqs, wanted)
        return {
            name: value
            for name, value in aims.items()
            if _comparable(attributes.get(name)) != _comparable(value)
        }

    async def _redrive(self, sqs: AwsService, wanted: WantedQueue) -> str:
        """The redrive policy; the queue of dead letters may not be there yet."""
        arn = None
        url = self._urls.get(wanted.dead or "")
        if url is not None:
            arn = (await self._attributes(sqs, url)).get("QueueArn")
        return json.dumps(
            {"deadLetterTargetArn": arn or wanted.dead, "maxReceiveCount": wanted.max_receives}
        )

    async def _create(self, sqs: AwsService, plan: Plan, wanted: WantedQueue) -> None:
        aims = _aims(wanted)
        if wanted.dead is not None:
            aims["RedrivePolicy"] = await self._redrive(sqs, wanted)
        answer = await sqs.call("CreateQueue", {"QueueName": wanted.name, "Attributes": aims})
        url = str(answer.members["QueueUrl"])
        self._urls[wanted.name] = url
        self._note(plan, wanted, url)

    async def _set(self, sqs: AwsService, wanted: WantedQueue) -> None:
        url = self._urls[wanted.name]
        differs = await self._differences(sqs, wanted, await self._attributes(sqs, url))
        await sqs.call("SetQueueAttributes", {"QueueUrl": url, "Attributes": differs})

    def _note(self, plan: Plan, wanted: WantedQueue, url: str) -> None:
        if wanted.setting is None or wanted.url == url:
            return
        if wanted.url is None:
            plan.settings[wanted.setting] = url
        elif urlsplit(wanted.url).path != urlsplit(url).path:
            plan.settings[wanted.setting] = url
            plan.attention(
                f"queue {wanted.name}", f"is {url}, and {wanted.setting} says {wanted.url}"
            )

    async def _look_at_events(self, plan: Plan, url: str) -> None:
        what = f"queue {_name(url, '')}"
        try:
            await self._attributes(self._service(url), url)
        except AwsError as error:
            plan.attention(what, f"belongs to the accounts, and cannot be used: {error}")
        else:
            plan.fine(what, "belongs to the accounts, and can be looked at")


def _aims(wanted: WantedQueue) -> dict[str, str]:
    return {
        "MessageRetentionPeriod": str(wanted.kept),
        "VisibilityTimeout": str(wanted.visibility),
        "ReceiveMessageWaitTimeSeconds": str(wanted.wait),
    }


def _described(wanted: WantedQueue) -> str:
    text = f"messages kept for {wanted.kept // _DAY} days"
    if wanted.dead is None:
        return text
    return f"{text}, received {wanted.max_receives} times go to {wanted.dead}"


def _comparable(value: str | None) -> Any:
    """What an attribute says; numbers in policies may come as texts."""
    if not value or not value.startswith("{"):
        return value
    return {name: str(member) for name, member in json.loads(value).items()}


def _short(value: str | None) -> str:
    if not value:
        return "unset"
    members = _comparable(value)
    if isinstance(members, str):
        return members
    arn = members.get("deadLetterTargetArn", "")
    return f"{arn.rpartition(':')[2]} after {members.get('maxReceiveCount')}"
