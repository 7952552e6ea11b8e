"""
Plans S3 buckets: created, closed to the public, and cleaned by lifecycle rules.

Further rules of a bucket and further statements of its policy, made by others, stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from fxprofile.admin.provision.plan import Plan
from fxprofile.app.services import ORIGINALS_EXPIRE
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError

#: No one outside the account has access, even if a policy or ACL grants it.
CLOSED: Final[Mapping[str, bool]] = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
#: A policy may give everyone access.
OPEN: Final[Mapping[str, bool]] = {
    **CLOSED,
    "BlockPublicPolicy": False,
    "RestrictPublicBuckets": False,
}

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

_STATEMENT: Final = "FxprofilePublicReadOfPictures"


class BucketPlanner:
    """
    Plans one bucket.

    :param s3: the service.
    :param name: of the bucket.
    """

    def __init__(self, plan: Plan, s3: AwsService, name: str) -> None:
        self._plan = plan
        self._s3 = s3
        self._name = name
        self._exists = True

    async def plan(self, *, private: bool, public_read: bool | None) -> None:
        """
        Add the steps of the bucket.

        :param private: whether it holds the originals.
        :param public_read: whether anyone may read the pictures in it; None to close a new
            bucket and leave an existing one as it is.
        :raises AwsError: if it cannot be looked at.
        """
        self._exists = await self._is_there()
        if self._exists:
            self._plan.add(f"bucket {self._name}", "exists")
        else:
            self._plan.add(
                f"bucket {self._name}", f"in {self._s3.region}", self._create, exists=False
            )
        if private or public_read is not None or not self._exists:
            await self._plan_access(OPEN if public_read else CLOSED)
        if public_read:
            await self._plan_policy()
        await self._plan_lifecycle([_EXPIRE, _ABORT] if private else [_ABORT])

    async def _is_there(self) -> bool:
        try:
            await self._s3.call("HeadBucket", {"Bucket": self._name})
        except AwsError as error:
            if error.status == 404:
                return False
            if error.status == 403:
                raise AwsError(
                    f"{error}: bucket {self._name} belongs to another account, or these keys may"
                    " not look at it",
                    code=error.code,
                    status=error.status,
                ) from None
            raise
        return True

    async def _create(self) -> None:
        parameters: dict[str, object] = {"Bucket": self._name}
        # S3 refuses the name of this region.
        if self._s3.region != "us-east-1":
            parameters["CreateBucketConfiguration"] = {"LocationConstraint": self._s3.region}
        try:
            await self._s3.call("CreateBucket", parameters)
        except AwsError as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise

    async def _plan_access(self, wanted: Mapping[str, bool]) -> None:
        found = await self._get("PublicAccessBlock")
        self._add(
            f"public access to {self._name}",
            "blocked" if wanted is CLOSED else "only by a policy",
            "PutPublicAccessBlock",
            {"PublicAccessBlockConfiguration": dict(wanted)},
            is_right=found.get("PublicAccessBlockConfiguration") == wanted,
        )

    async def _plan_policy(self) -> None:
        wanted = {
            "Sid": _STATEMENT,
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{self._name}/a/*",
        }
        text = (await self._get("BucketPolicy")).get("Policy")
        policy = json.loads(text or '{"Version": "2012-10-17", "Statement": []}')
        found = policy["Statement"]
        others = [statement for statement in found if statement.get("Sid") != _STATEMENT]
        self._add(
            f"policy of {self._name}",
            "anyone may get the pictures, and nothing else",
            "PutBucketPolicy",
            {"Policy": json.dumps(policy | {"Statement": [*others, wanted]})},
            is_right=wanted in found,
        )

    async def _plan_lifecycle(self, wanted: Sequence[Mapping[str, object]]) -> None:
        detail = "unfinished uploads expire after a day"
        if _EXPIRE in wanted:
            detail = f"originals expire after {ORIGINALS_EXPIRE // 86400} days, {detail}"
        found = (await self._get("BucketLifecycleConfiguration")).get("Rules", [])
        ids = [rule["ID"] for rule in wanted]
        others = [rule for rule in found if rule.get("ID") not in ids]
        self._add(
            f"lifecycle of {self._name}",
            detail,
            "PutBucketLifecycleConfiguration",
            {"LifecycleConfiguration": {"Rules": [*others, *wanted]}},
            is_right=all(any(_agrees(rule, one) for rule in found) for one in wanted),
        )

    async def _get(self, what: str) -> Mapping[str, Any]:
        """Return a configuration of the bucket, empty if there is none."""
        if not self._exists:
            return {}
        try:
            return (await self._s3.call(f"Get{what}", {"Bucket": self._name})).members
        except AwsError as error:
            # NoSuchLifecycleConfiguration, NoSuchBucketPolicy, …
            if error.code.startswith("NoSuch") and error.code != "NoSuchBucket":
                return {}
            raise

    def _add(
        self,
        what: str,
        detail: str,
        operation: str,
        parameters: Mapping[str, object],
        *,
        is_right: bool,
    ) -> None:
        apply = partial(self._s3.call, operation, {"Bucket": self._name, **parameters})
        self._plan.add(what, detail, None if is_right else apply, exists=self._exists)


def _agrees(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a rule is the wanted one; S3 adds members, and leaves out empty ones."""
    return all(
        _agrees(rule[key], value)
        if isinstance(value, Mapping) and isinstance(rule.get(key), Mapping)
        else rule.get(key, "" if value == "" else None) == value
        for key, value in wanted.items()
    )
