"""
Tests of the IAM policies in ``etc/aws``: each allows its role what it needs, and nothing else.
"""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from fxprofile.deferreds.bodies import BytesBody, read_all
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.s3 import S3Bucket
from fxprofile.drivers.aws.sqs import SqsQueue
from fxprofile.model.errors import ObjectNotFound
from fxprofile.model.keys import new_id, private_key, public_key, public_keys
from tests.drivers.aws.recording import BATCHES, POLICIES, RIGHTS, RecordingService, allows
from tests.drivers.aws.support import make_client
from tests.support.servers import moto

ROLES = ("web", "worker", "images")
QUEUES = ("jobs", "jobs-dead", "results", "results-dead", "events", "updates")


class RoleTests(TestCase):
    """The AWS calls of each role, against moto."""

    async def setUp(self) -> None:
        moto.shared.reset()
        self.url = moto.shared.url
        client = make_client(reactor)
        self.addCleanup(client.agent.stopService)
        for name in ("private", "public"):
            await AwsService(client, "s3", self.url).call(
                "CreateBucket", {"Bucket": f"fxprofile-{name}"}
            )
        for name in QUEUES:
            await AwsService(client, "sqs", self.url).call(
                "CreateQueue", {"QueueName": f"fxprofile-{name}"}
            )
        self.use_client()
        self.avatar_id = new_id()

    def use_client(self) -> None:
        self.client = make_client(reactor)
        self.needs: set[tuple[str, str]] = set()
        self.addCleanup(self.client.agent.stopService)

    def service(self, name: str) -> RecordingService:
        service = RecordingService(self.client, name, self.url)
        service.needs = self.needs
        return service

    def bucket(self, name: str) -> S3Bucket:
        return S3Bucket(self.service("s3"), f"fxprofile-{name}")

    def queue(self, name: str) -> SqsQueue:
        url = f"{self.url}/123456789012/fxprofile-{name}"
        return SqsQueue(self.service("sqs"), name=name, url=url, visibility_timeout=30)

    async def put(self, bucket: S3Bucket, key: str, length: int = 100_000) -> None:
        await bucket.put(
            key=key, body=BytesBody(b"x" * length), length=length, content_type="image/png"
        )

    async def consume(self, queue: SqsQueue) -> None:
        """Make every call of a consumer of a queue."""
        await queue.check()
        await queue.depth()
        for _ in range(2):
            for message in await queue.receive(max_messages=10, wait=0):
                await queue.extend(message=message, visibility=30)
                await queue.extend(message=message, visibility=0)
        for message in await queue.receive(max_messages=10, wait=0):
            await queue.delete(message=message)

    async def send(self, queue: SqsQueue) -> None:
        await queue.check()
        await queue.depth()
        await queue.send(body="x")

    def check(self, role: str) -> None:
        """Check that the policy allows exactly the calls that were made."""
        denied = sorted(need for need in self.needs if not allows(role, *need))
        self.assertEqual(denied, [])
        policy = json.loads((POLICIES / f"{role}.json").read_text())
        used = {right for right, _ in self.needs}
        allowed = {action for s in policy["Statement"] for action in s["Action"]}
        batches = {batch for batch, right in BATCHES.items() if right in used}
        self.assertEqual(allowed - used, batches)

    async def fill(self, *queues: str) -> None:
        for name in queues:
            await self.queue(name).send(body="x")
        self.use_client()

    async def test_the_web_role_has_what_it_needs(self) -> None:
        """The web role puts originals, sends jobs and updates, and reads the other queues."""
        await self.fill("results", "jobs-dead", "results-dead", "events")
        private = self.bucket("private")
        await self.put(private, private_key(self.avatar_id))
        for name in ("jobs", "updates"):
            await self.send(self.queue(name))
        for name in ("results", "jobs-dead", "results-dead", "events"):
            await self.consume(self.queue(name))
        self.check("web")

    async def test_the_worker_has_what_it_needs(self) -> None:
        """The worker reads and deletes originals, puts and deletes images, and sends results."""
        await self.put(self.bucket("private"), private_key(self.avatar_id))
        await self.fill("jobs")
        private, public = self.bucket("private"), self.bucket("public")
        await private.check()
        _, body = await private.get(key=private_key(self.avatar_id))
        await read_all(body, 1 << 20)
        for key in public_keys(self.avatar_id):
            await self.put(public, key)
        await private.delete(keys=[private_key(self.avatar_id)])
        with self.assertRaises(ObjectNotFound):
            await private.get(key=private_key(self.avatar_id))
        _, body = await public.get(key=public_key(self.avatar_id))
        await body.aclose()
        await public.delete(keys=public_keys(self.avatar_id))
        await self.consume(self.queue("jobs"))
        await self.send(self.queue("results"))
        self.check("worker")

    async def test_the_images_role_has_what_it_needs(self) -> None:
        """The images role reads images, and learns that an image is missing."""
        await self.put(self.bucket("public"), public_key(self.avatar_id))
        self.use_client()
        public = self.bucket("public")
        await public.check()
        await public.head(key=public_key(self.avatar_id))
        _, body = await public.get(key=public_key(self.avatar_id))
        await body.aclose()
        with self.assertRaises(ObjectNotFound):
            await public.get(key=public_key(new_id()))
        self.check("images")


class PolicyTests(SynchronousTestCase):
    def test_policies_have_no_wildcards(self) -> None:
        """A policy names its actions and resources without wildcards, except for objects."""
        for role in ROLES:
            policy = json.loads((POLICIES / f"{role}.json").read_text())
            self.assertEqual(policy["Version"], "2012-10-17")
            for statement in policy["Statement"]:
                self.assertEqual(statement["Effect"], "Allow")
                self.assertLessEqual(set(statement["Action"]), {*RIGHTS.values(), *BATCHES})
                for resource in statement["Resource"]:
                    self.assertNotIn("*", resource.removesuffix("/*"))

    def test_harmful_actions_are_denied(self) -> None:
        """No role has the permissions that would do the most harm in the hands of an attacker."""
        private, public = "arn:aws:s3:::fxprofile-private", "arn:aws:s3:::fxprofile-public"
        queues = [f"arn:aws:sqs:us-east-1:123456789012:fxprofile-{name}" for name in QUEUES]
        forbidden = {
            "web": [
                *[(right, f"{private}/k") for right in ("s3:GetObject", "s3:DeleteObject")],
                *[(right, f"{public}/k") for right in ("s3:PutObject", "s3:DeleteObject")],
                ("s3:ListBucket", private),
                ("sqs:ReceiveMessage", queues[0]),
                ("sqs:SendMessage", queues[2]),
            ],
            "worker": [
                ("s3:PutObject", f"{private}/k"),
                ("sqs:SendMessage", queues[0]),
                ("sqs:ReceiveMessage", queues[2]),
                *[("sqs:ReceiveMessage", queue) for queue in queues[1:]],
            ],
            "images": [
                *[(right, f"{private}/k") for right in set(RIGHTS.values())],
                *[(right, f"{public}/k") for right in ("s3:PutObject", "s3:DeleteObject")],
                *[(right, queue) for right in set(RIGHTS.values()) for queue in queues],
            ],
        }
        for role, needs in forbidden.items():
            self.assertEqual([need for need in needs if allows(role, *need)], [], role)
