"""
Buckets of S3: made, closed to the public, and cleaned by lifecycle rules.

What others have set up for a bucket (further rules, further statements of its policy)
stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from fxprofile.admin.provision.plan import Plan
from fxprofile.app.services import ORIGINALS_EXPIRE
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError

#: Nobody outside of the account gets in, whatever policies and ACLs say.
CLOSED: Final[Mapping[str, bool]] = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}
#: A policy may let everybody in.
OPEN: Final[Mapping[str, bool]] = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": False,
    "RestrictPublicBuckets": False,
}

_ABORT: Final[Mapping[str, Any]] = {
    "ID": "fxprofile-abort-unfinished-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}
_EXPIRE: Final[Mapping[str, Any]] = {
    "ID": "fxprofile-expire-originals",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "Expiration": {"Days": ORIGINALS_EXPIRE // 86400},
    # If somebody keeps versions of the bucket, originals are not to outlive this in them.
    "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
}

_STATEMENT: Final = "FxprofilePublicReadOfPictures"


class Buckets:
    """
    Plans buckets.

    :param s3: the service.
    """

    def __init__(self, s3: AwsService) -> None:
        self._s3 = s3

    async def plan(self, plan: Plan, name: str, *, private: bool, public_read: bool | None) -> None:
        """
        Plan one bucket.

        :param private: whether it is the bucket of the originals.
        :param public_read: whether everybody may read the pictures in it; None for
            nobody in a new bucket, and as it is in an old one.
        :raises AwsError: if it cannot be looked at.
        """
        what = f"bucket {name}"
        there = await self._is_there(name)
        if there:
            plan.fine(what, "is there")
        else:
            plan.create(what, f"in {self._s3.region}", partial(self._create, name))
        if public_read is None and not there:
            public_read = False
        if private or public_read is not None:
            await self._plan_access(plan, name, there, CLOSED if not public_read else OPEN)
        if public_read:
            await self._plan_policy(plan, name, there)
        rules = [_EXPIRE, _ABORT] if private else [_ABORT]
        await self._plan_lifecycle(plan, name, there, rules)

    async def _is_there(self, name: str) -> bool:
        try:
            await self._s3.call("HeadBucket", {"Bucket": name})
        except AwsError as error:
            if error.status == 404:
                return False
            if error.status == 403:
                raise AwsError(
                    f"{error}: bucket {name} is somebody else's, or these keys may not look at it",
                    code=error.code,
                    status=error.status,
                ) from None
            raise
        return True

    async def _create(self, name: str) -> None:
        parameters: dict[str, Any] = {"Bucket": name}
        # The one region that must not be named.
        if self._s3.region != "us-east-1":
            parameters["CreateBucketConfiguration"] = {"LocationConstraint": self._s3.region}
        try:
            await self._s3.call("CreateBucket", parameters)
        except AwsError as error:
            if error.code != "BucketAlreadyOwnedByYou":
                raise

    async def _plan_access(
        self, plan: Plan, name: str, there: bool, wanted: Mapping[str, bool]
    ) -> None:
        what = f"public access to {name}"
        detail = "blocked" if wanted is CLOSED else "only by a policy"
        if there:
            answer = await self._get("GetPublicAccessBlock", name)
            if answer.get("PublicAccessBlockConfiguration", {}) == wanted:
                plan.fine(what, detail)
                return
        parameters = {"Bucket": name, "PublicAccessBlockConfiguration": dict(wanted)}
        add = plan.change if there else plan.create
        add(what, detail, partial(self._s3.call, "PutPublicAccessBlock", parameters))

    async def _plan_policy(self, plan: Plan, name: str, there: bool) -> None:
        what = f"policy of {name}"
        detail = "everybody may get the pictures, and nothing else"
        wanted = _public_read(name)
        policy: dict[str, Any] = {"Version": "2012-10-17", "Statement": []}
        if there:
            text = (await self._get("GetBucketPolicy", name)).get("Policy")
            policy = json.loads(text) if text else policy
        others = [s for s in policy["Statement"] if s.get("Sid") != _STATEMENT]
        if wanted in policy["Statement"]:
            plan.fine(what, detail)
            return
        policy["Statement"] = [*others, wanted]
        parameters = {"Bucket": name, "Policy": json.dumps(policy)}
        add = plan.change if there else plan.create
        add(what, detail, partial(self._s3.call, "PutBucketPolicy", parameters))

    async def _plan_lifecycle(
        self, plan: Plan, name: str, there: bool, wanted: list[Mapping[str, Any]]
    ) -> None:
        what = f"lifecycle of {name}"
        detail = "unfinished uploads go after a day"
        if _EXPIRE in wanted:
            detail = f"originals go after {ORIGINALS_EXPIRE // 86400} days, " + detail
        rules: list[Any] = []
        if there:
            rules = list(
                (await self._get("GetBucketLifecycleConfiguration", name)).get("Rules", [])
            )
        if all(any(_agrees(rule, one) for rule in rules) for one in wanted):
            plan.fine(what, detail)
            return
        ids = [one["ID"] for one in wanted]
        parameters = {
            "Bucket": name,
            "LifecycleConfiguration": {
                "Rules": [*(rule for rule in rules if rule.get("ID") not in ids), *wanted]
            },
        }
        add = plan.change if there else plan.create
        add(what, detail, partial(self._s3.call, "PutBucketLifecycleConfiguration", parameters))

    async def _get(self, operation: str, name: str) -> Mapping[str, Any]:
        try:
            return (await self._s3.call(operation, {"Bucket": name})).members
        except AwsError as error:
            # NoSuchLifecycleConfiguration, NoSuchBucketPolicy, …
            if error.code.startswith("NoSuch") and error.code != "NoSuchBucket":
                return {}
            raise


def _agrees(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """
    Whether a rule is what is wanted; S3 may say more of it than was said to it, and leaves
    out what is empty.
    """
    return all(
        _agrees(rule[key], value)
        if isinstance(value, Mapping) and isinstance(rule.get(key), Mapping)
        else rule.get(key, "" if value == "" else None) == value
        for key, value in wanted.items()
    )


def _public_read(name: str) -> dict[str, Any]:
    return {
        "Sid": _STATEMENT,
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{name}/a/*",
    }
