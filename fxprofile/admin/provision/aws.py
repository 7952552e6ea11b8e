"""
Plans S3 buckets and SQS queues.

Buckets are closed to the public and cleaned by lifecycle rules; further rules of a bucket and
further statements of its policy, made by others, stay.  Queues have a retention, a visibility
timeout and a dead-letter queue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from fxprofile.admin.provision.plan import Plan
from fxprofile.admin.shared import aws
from fxprofile.admin.shared.tools import Tools
from fxprofile.app.services import ORIGINALS_EXPIRE
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError

#: No one outside the account has access, even if a policy or ACL grants it.
CLOSED: Final = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
#: A policy may give everyone access.
OPEN: Final = CLOSED | {"BlockPublicPolicy": False, "RestrictPublicBuckets": False}

_RULE: Final[Mapping[str, object]] = {"Status": "Enabled", "Filter": {"Prefix": ""}}
_ABORT: Final[Mapping[str, object]] = {
    **_RULE,
    "ID": "fxprofile-abort-unfinished-uploads",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}
_EXPIRE: Final[Mapping[str, object]] = {
    **_RULE,
    "ID": "fxprofile-expire-originals",
    "Expiration": {"Days": ORIGINALS_EXPIRE // 86400},
    # In a versioned bucket, originals must not outlive this as old versions.
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
}

#: Codes of errors by which servers other than AWS say what they lack.
_LACKING: Final = frozenset({"NotImplemented", "BucketAlreadyExists"})

_STATEMENT: Final = "FxprofilePublicReadOfPictures"


async def plan_buckets(plan: Plan, tools: Tools, public_read: bool | None) -> None:
    """
    Add the steps of both buckets.

    :param public_read: whether anyone may read the pictures in the public bucket; None to close
        a new bucket and leave an existing one as it is.
    :raises AwsError: if a bucket cannot be looked at.
    """
    storage = tools.settings.storage
    endpoint_url = storage.endpoint_url or tools.settings.aws.endpoint_url
    s3 = AwsService(tools.aws, "s3", endpoint_url, addressing=storage.addressing)
    await BucketPlanner(plan, s3, storage.private_bucket).run([_EXPIRE, _ABORT], public_read=False)
    await BucketPlanner(plan, s3, storage.public_bucket).run([_ABORT], public_read=public_read)


@dataclass
class BucketPlanner:
    """
    Plans one bucket.

    :param s3: the service.
    :param name: of the bucket.
    :ivar exists: whether the bucket exists.
    """

    plan: Plan
    s3: AwsService
    name: str
    exists: bool = True

    async def run(self, rules: Sequence[Mapping[str, object]], *, public_read: bool | None) -> None:
        """
        Add the steps of the bucket.

        :param rules: its lifecycle.
        :param public_read: see :func:`plan_buckets`.
        """
        self.exists = await self._is_there()
        detail, create = ("exists", None) if self.exists else (f"in {self.s3.region}", self._create)
        self.plan.add(f"bucket {self.name}", detail, create, exists=self.exists)
        if public_read is not None or not self.exists:
            wanted = OPEN if public_read else CLOSED
            what = f"public access to {self.name}"
            found = await self._get(what, "PublicAccessBlock")
            if found is not None:
                self._put(
                    what,
                    "only by a policy" if public_read else "blocked",
                    "PublicAccessBlock",
                    {"PublicAccessBlockConfiguration": dict(wanted)},
                    is_right=found.get("PublicAccessBlockConfiguration") == wanted,
                )
        if public_read:
            await self._plan_policy()
        await self._plan_lifecycle(rules)

    async def _is_there(self) -> bool:
        try:
            await self.s3.call("HeadBucket", {"Bucket": self.name})
        except AwsError as error:
            if error.status == 404:
                return False
            if error.status == 403:
                why = "belongs to another account, or these credentials may not access it"
                raise AwsError(f"{error}: bucket {self.name} {why}") from None
            raise
        return True

    async def _create(self) -> None:
        parameters: dict[str, object] = {"Bucket": self.name}
        # S3 refuses the name of this region.
        if self.s3.region != "us-east-1":
            parameters["CreateBucketConfiguration"] = {"LocationConstraint": self.s3.region}
        try:
            await self.s3.call("CreateBucket", parameters)
        except AwsError as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise

    async def _plan_policy(self) -> None:
        wanted = {
            "Sid": _STATEMENT,
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self.name}/a/*",
        }
        what = f"policy of {self.name}"
        present = await self._get(what, "BucketPolicy")
        if present is None:
            return
        policy = json.loads(present.get("Policy") or '{"Version": "2012-10-17", "Statement": []}')
        found = policy["Statement"]
        others = [statement for statement in found if statement.get("Sid") != _STATEMENT]
        self._put(
            what,
            "anyone may get the pictures, and nothing else",
            "BucketPolicy",
            {"Policy": json.dumps(policy | {"Statement": [*others, wanted]})},
            is_right=wanted in found,
        )

    async def _plan_lifecycle(self, wanted: Sequence[Mapping[str, object]]) -> None:
        detail = "unfinished uploads expire after a day"
        if _EXPIRE in wanted:
            detail = f"originals expire after {ORIGINALS_EXPIRE // 86400} days, {detail}"
        what = f"lifecycle of {self.name}"
        present = await self._get(what, "BucketLifecycleConfiguration")
        if present is None:
            return
        found = present.get("Rules", [])
        ids = [rule["ID"] for rule in wanted]
        others = [rule for rule in found if rule.get("ID") not in ids]
        self._put(
            what,
            detail,
            "BucketLifecycleConfiguration",
            {"LifecycleConfiguration": {"Rules": [*others, *wanted]}},
            is_right=all(any(_agrees(rule, one) for rule in found) for one in wanted),
        )

    async def _get(self, what: str, name: str) -> Mapping[str, Any] | None:
        """
        Return a configuration of the bucket, empty if there is none.

        :returns: None, after a warning, if the server has no such configurations.
        """
        if not self.exists:
            return {}
        try:
            return (await self.s3.call(f"Get{name}", {"Bucket": self.name})).members
        except AwsError as error:
            # NoSuchLifecycleConfiguration, NoSuchBucketPolicy, …
            if error.code.startswith("NoSuch") and error.code != "NoSuchBucket":
                return {}
            self._warn(what, error)
            return None

    def _put(
        self, what: str, detail: str, name: str, value: Mapping[str, object], *, is_right: bool
    ) -> None:
        """Add the step that puts a configuration of the bucket."""

        async def apply() -> None:
            try:
                await self.s3.call(f"Put{name}", {"Bucket": self.name, **value})
            except AwsError as error:
                self._warn(what, error)

        self.plan.add(what, detail, None if is_right else apply, exists=self.exists)

    def _warn(self, what: str, error: AwsError) -> None:
        """Warn of what the server lacks, or raise any other error."""
        # rclone takes every PUT to a bucket for its creation.
        if error.status not in (405, 501) and error.code not in _LACKING:
            raise error
        self.plan.note("warning", what, f"this server does not support it: {error.code}")


def _agrees(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a rule is the wanted one; S3 adds members, and leaves out empty ones."""
    return all(
        _agrees(rule.get(key, {}), value) if isinstance(value, dict) else rule.get(key, "") == value
        for key, value in wanted.items()
    )


@dataclass
class QueuePlanner:
    """
    Plans all queues of the settings.

    :ivar urls: the URLs of the queues that exist, by their names.
    """

    plan: Plan
    tools: Tools
    urls: dict[str, str] = field(default_factory=dict)

    async def plan_all(self) -> None:
        """
        Add the steps of all queues.

        :raises AwsError: if one cannot be looked at.
        """
        for wanted in aws.wanted_queues(self.tools.settings):
            await self._plan_queue(wanted)
        if events := self.tools.settings.queue.events_url:
            await self._look_at_events(events)

    async def _plan_queue(self, wanted: aws.WantedQueue) -> None:
        what = f"queue {wanted.name}"
        detail = f"messages kept for {wanted.kept // 86400} days"
        if wanted.dead is not None:
            detail += f", moved to {wanted.dead} after {wanted.max_receives} receives"
        url = await aws.find(self.tools, wanted.url, wanted.name)
        if url is None:
            self.plan.add(what, detail, partial(self._create, wanted), exists=False)
            return
        self._note(wanted, url)
        attributes = await aws.attributes(self.tools, url)
        changes = [
            f"{name} {aws.short(attributes.get(name))} to {aws.short(value)}"
            for name, value in wanted.attributes().items()
            if aws.short(attributes.get(name)) != aws.short(value)
        ]
        apply = partial(self._set, wanted, url) if changes else None
        self.plan.add(what, ", ".join(changes) or detail, apply)

    async def _wanted(self, wanted: aws.WantedQueue) -> dict[str, str]:
        """Return the attributes of a queue; its dead-letter queue may not exist yet."""
        url = self.urls.get(wanted.dead or "")
        arn = None if url is None else (await aws.attributes(self.tools, url)).get("QueueArn")
        return wanted.attributes(arn)

    async def _create(self, wanted: aws.WantedQueue) -> None:
        parameters = {"QueueName": wanted.name, "Attributes": await self._wanted(wanted)}
        answer = await aws.service(self.tools, wanted.url).call("CreateQueue", parameters)
        self._note(wanted, str(answer.members["QueueUrl"]))

    async def _set(self, wanted: aws.WantedQueue, url: str) -> None:
        parameters = {"QueueUrl": url, "Attributes": await self._wanted(wanted)}
        await aws.service(self.tools, wanted.url).call("SetQueueAttributes", parameters)

    def _note(self, wanted: aws.WantedQueue, url: str) -> None:
        """Remember the URL of a queue, and the setting that must change for it."""
        self.urls[wanted.name] = url
        if urlsplit(wanted.url or "").path != urlsplit(url).path:
            self.plan.settings[wanted.setting] = url
            if wanted.url is not None:
                detail = f"is {url}, but {wanted.setting} is {wanted.url}"
                self.plan.note("attention", f"queue {wanted.name}", detail)

    async def _look_at_events(self, url: str) -> None:
        what = f"queue {aws.name_of(url)}"
        try:
            await aws.attributes(self.tools, url)
        except AwsError as error:
            detail = f"belongs to the accounts and is not usable: {error}"
            self.plan.note("attention", what, detail)
        else:
            self.plan.add(what, "belongs to the accounts and is usable", None)
