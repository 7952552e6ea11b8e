"""Plans SQS queues: each with retention, visibility, and a dead-letter queue."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

from fxprofile.admin.provision.plan import Plan
from fxprofile.admin.shared import aws
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.aws.client.errors import AwsError


class QueuePlanner:
    """Plans all queues of the settings."""

    def __init__(self, plan: Plan, tools: Tools) -> None:
        self._plan = plan
        self._settings = tools.settings
        self._queues = aws.SqsQueues(tools)
        #: By name, the URLs of queues that exist.
        self._urls: dict[str, str] = {}

    async def plan_all(self) -> None:
        """
        Add the steps of all queues.

        :raises AwsError: if one cannot be looked at.
        """
        for wanted in aws.wanted_queues(self._settings):
            await self._plan_queue(wanted)
        if events := self._settings.queue.events_url:
            await self._look_at_events(events)

    async def _plan_queue(self, wanted: aws.WantedQueue) -> None:
        what = f"queue {wanted.name}"
        detail = f"messages kept for {wanted.kept // 86400} days"
        if wanted.dead is not None:
            detail += f", moved to {wanted.dead} after {wanted.max_receives} receives"
        url = await self._queues.find(wanted.url, wanted.name)
        if url is None:
            self._plan.add(what, detail, partial(self._create, wanted), exists=False)
            return
        self._note(wanted, url)
        attributes = await self._queues.attributes(url)
        changes = [
            f"{name} {aws.short(attributes.get(name))} to {aws.short(value)}"
            for name, value in (await self._wanted(wanted)).items()
            if aws.comparable(attributes.get(name)) != aws.comparable(value)
        ]
        if changes:
            self._plan.add(what, ", ".join(changes), partial(self._set, wanted, url))
        else:
            self._plan.add(what, detail)

    async def _wanted(self, wanted: aws.WantedQueue) -> dict[str, str]:
        """Return the attributes of a queue; its dead-letter queue may not exist yet."""
        url = self._urls.get(wanted.dead or "")
        arn = None if url is None else (await self._queues.attributes(url)).get("QueueArn")
        return wanted.attributes(arn)

    async def _create(self, wanted: aws.WantedQueue) -> None:
        parameters = {"QueueName": wanted.name, "Attributes": await self._wanted(wanted)}
        answer = await self._queues.service(wanted.url).call("CreateQueue", parameters)
        self._note(wanted, str(answer.members["QueueUrl"]))

    async def _set(self, wanted: aws.WantedQueue, url: str) -> None:
        parameters = {"QueueUrl": url, "Attributes": await self._wanted(wanted)}
        await self._queues.service(wanted.url).call("SetQueueAttributes", parameters)

    def _note(self, wanted: aws.WantedQueue, url: str) -> None:
        """Remember the URL of a queue, and the setting that must change for it."""
        self._urls[wanted.name] = url
        if wanted.url is None:
            self._plan.settings[wanted.setting] = url
        elif urlsplit(wanted.url).path != urlsplit(url).path:
            self._plan.settings[wanted.setting] = url
            self._plan.attention(
                f"queue {wanted.name}", f"is {url}, but {wanted.setting} is {wanted.url}"
            )

    async def _look_at_events(self, url: str) -> None:
        what = f"queue {aws.name_of(url)}"
        try:
            await self._queues.attributes(url)
        except AwsError as error:
            self._plan.attention(what, f"belongs to the accounts and is not usable: {error}")
        else:
            self._plan.add(what, "belongs to the accounts and is usable")
