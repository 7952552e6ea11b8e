"""Commands on S3 and SQS."""

from __future__ import annotations

import os
import time

from twisted.internet.task import Clock

from fxprofile.admin.shared.tools import Tools
from fxprofile.admin.sweep import sweep_of
from fxprofile.drivers.aws.s3 import PROBE
from fxprofile.model.keys import VARIANTS, new_id, private_key, public_key
from fxprofile.model.messages import Job, Op
from tests.admin.original import Original, png, uids
from tests.admin.test_avatar import UID, put, ready_avatar
from tests.admin.test_provision import KEYS, AwsCase
from tests.support.servers.moto import shared


class AwsCommandTests(AwsCase):
    """What they say and do there."""

    def setUp(self) -> None:
        super().setUp()
        for name, value in KEYS.items():
            self.patch_environment(name, value)

    def patch_environment(self, name: str, value: str) -> None:
        """Give the drivers in this process their keys."""
        before = os.environ.get(name)
        os.environ[name] = value
        self.addCleanup(
            lambda: (
                os.environ.pop(name, None) if before is None else os.environ.update({name: before})
            )
        )

    async def bodies(self, tools: Tools, name: str) -> list[str]:
        """What is on a queue."""
        messages = await tools.needed_queue(name).receive(max_messages=10, wait=1)
        return [message.body for message in messages]

    async def test_queues(self) -> None:
        """Each queue has its depth; the age is not known there."""
        await self.provisioned()
        async with self.service() as tools:
            for _ in range(3):
                await tools.needed_queue("jobs").send(body="x")
            await tools.needed_queue("jobs").receive(max_messages=1, wait=0)
        rows = {row["name"]: row for row in (await self.admin("queues", "--json")).json["queues"]}
        self.assertEqual((rows["jobs"]["waiting"], rows["jobs"]["in_flight"]), (2, 1))
        self.assertIsNone(rows["jobs"]["oldest_seconds"])
        self.assertEqual(rows["results"]["waiting"], 0)

    async def test_missing_queue(self) -> None:
        """A queue that is not there is said, and the others are shown."""
        await self.provisioned()
        await self.call("sqs", "DeleteQueue", QueueUrl=self.settings["queue.results_url"])
        ran = await self.admin("queues", status=1)
        self.assertEqual(ran.output.splitlines()[1].split()[:2], ["jobs", "0"])
        self.assertEqual(len(ran.errors.splitlines()), 1)
        self.assertIn("fxprofile-results", ran.errors)

    async def test_dead_letters(self) -> None:
        """Letters are listed and left, redriven, and dropped."""
        await self.provisioned()
        async with self.service() as tools:
            dead = tools.needed_queue("dead")
            ids = [new_id() for _ in range(12)]
            for avatar_id in ids:
                await dead.send(body=Job(op=Op.DELETE, id=avatar_id).encode(time.time()))
            await dead.send(body="garbage")
            for _ in range(2):
                ran = await self.admin("dead", "list", "--json")
                self.assertEqual({about["avatar"] for about in ran.json["letters"]}, {*ids, None})
            self.assertEqual((await dead.depth()).in_flight, 0)
            ran = await self.admin("dead", "redrive", ids[3], "--json")
            self.assertEqual([about["outcome"] for about in ran.json["letters"]], ["redriven"])
            (body,) = await self.bodies(tools, "jobs")
            self.assertEqual(Job.decode(body).id, ids[3])
            await self.admin("dead", "drop", ids[4], "--yes")
            await self.admin("dead", "redrive", "--all")
            depth = await dead.depth()
            self.assertEqual((depth.visible, depth.in_flight), (1, 0))
            self.assertEqual((await tools.needed_queue("jobs").depth()).visible, 10)
            line = await self.error("dead", "show", ids[3])
            self.assertIn("no dead letter", line)

    async def test_dead_results(self) -> None:
        """The dead letters of another queue are where its redrive policy says."""
        await self.provisioned()
        await self.call(
            "sqs",
            "SendMessage",
            QueueUrl=f"{shared.url}/123456789012/fxprofile-results-dead",
            MessageBody="garbage",
        )
        ran = await self.admin("dead", "list", "--queue=results", "--json")
        self.assertEqual([about["body"] for about in ran.json["letters"]], ["garbage"])
        await self.admin("dead", "drop", "--queue=results", "--all", "--yes")
        ran = await self.admin("dead", "list", "--queue=results")
        self.assertIn("no dead letters", ran.output)

    async def test_avatar_and_user(self) -> None:
        """Avatars are found in their buckets; a deleted user is told to who follows profiles."""
        url = f"{shared.url}/123456789012/updates"
        self.settings = {**self.settings, "queue.updates_url": url}
        await self.provisioned()
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await put(tools, "private", private_key(avatar_id))
            about = (await self.admin("avatar", "show", avatar_id, "--json")).json
            self.assertEqual(about["original"]["bytes"], 7)
            self.assertEqual(about["problems"], [])
            await self.admin("user", "delete", UID, "--yes")
            (job,) = await self.bodies(tools, "jobs")
            self.assertEqual(Job.decode(job), Job(op=Op.DELETE, id=avatar_id))
            (update,) = await self.bodies(tools, "updates")
            self.assertIn(UID, update)

    async def test_orphans(self) -> None:
        """Pictures that are gone are found there, and what no row needs, when it is old."""
        await self.provisioned()
        async with self.service() as tools:
            _, broken = [await ready_avatar(tools, uid) for uid in uids(2)]
            await tools.bucket("public").delete(keys=[public_key(broken, "small")])
            orphan = new_id()
            await put(tools, "public", public_key(orphan))
            await put(tools, "private", private_key(orphan))
            about = (await self.admin("orphans", "--json", status=1)).json
            self.assertEqual([found["avatar"] for found in about["broken"]], [broken])
            self.assertEqual(about["orphans"], [])
            self.assertEqual(about["looked_at"], {"rows": 2, "pictures": 3, "originals": 1})
            # Objects there are as old as they are, so the clock has to be ahead.
            later = Clock()
            later.advance(time.time() + 3 * 86400)
            for page in (1, 2, 1000):
                sweep = sweep_of(tools, grace=48 * 3600, clock=later, page=page)
                findings = await sweep.find()
                self.assertEqual([found.id for found in findings.orphans], [orphan])
                self.assertEqual(len(findings.orphans[0].objects), 2)
            self.assertEqual(await sweep.remove(findings), 1)
            (job,) = await self.bodies(tools, "jobs")
            self.assertEqual(Job.decode(job), Job(op=Op.DELETE, id=orphan))

    async def test_doctor_of_a_role(self) -> None:
        """A role's doctor does no more than the role may: the web role only puts."""
        await self.provisioned()
        ran = await self.admin("doctor", "--json", "--role=web")
        self.assertTrue(ran.json["ok"])
        objects = (await self.call("s3", "ListObjectsV2", Bucket="fxprofile-private"))["Contents"]
        self.assertEqual([entry["Key"] for entry in objects], [PROBE])
        for role in ("worker", "images"):
            await self.admin("doctor", f"--role={role}")
        answer = await self.call("s3", "ListObjectsV2", Bucket="fxprofile-public")
        self.assertNotIn("Contents", answer)

    async def test_doctor_of_queues(self) -> None:
        """Queues that lose messages, or keep them too long, are found out."""
        await self.provisioned()
        for name, attributes in {
            "jobs": {"RedrivePolicy": ""},
            "results": {"MessageRetentionPeriod": "60"},
        }.items():
            await self.call(
                "sqs",
                "SetQueueAttributes",
                QueueUrl=self.settings[f"queue.{name}_url"],
                Attributes=attributes,
            )
        ran = await self.admin("doctor", "--json", "--role=web")
        found = {finding["name"]: finding for finding in ran.json["findings"]}
        for name, text in (("jobs", "RedrivePolicy"), ("results", "MessageRetentionPeriod")):
            self.assertEqual(found[f"{name} queue"]["level"], "warning")
            self.assertIn(text, found[f"{name} queue"]["text"])
            self.assertIn("provision", found[f"{name} queue"]["advice"])

    async def test_doctor_of_missing_buckets(self) -> None:
        """A bucket that is not there is a problem, and it says what makes it."""
        ran = await self.admin("doctor", "--json", "--role=images", status=1)
        (finding,) = (f for f in ran.json["findings"] if f["name"] == "public bucket")
        self.assertEqual(finding["level"], "problem")
        self.assertIn("provision", finding["advice"])

    async def test_names_of_findings(self) -> None:
        """What was looked at has the same name, whether it is well or not."""
        await self.provisioned()
        well = await self.admin("doctor", "--json", "--role=web")
        await self.call("sqs", "DeleteQueue", QueueUrl=self.settings["queue.results_dead_url"])
        ill = await self.admin("doctor", "--json", "--role=web", status=1)
        before, after = ([f["name"] for f in ran.json["findings"]] for ran in (well, ill))
        self.assertEqual(before, after)
        self.assertIn("results-dead queue", after)

    async def test_import_from_a_bucket(self) -> None:
        """The pictures of an import may come from the original's bucket."""
        await self.provisioned()
        await self.call("s3", "CreateBucket", Bucket="original-pictures")
        original = Original(f"sqlite:///{self.directory}/original.db")
        (user,) = uids(1)
        avatar_id = new_id()
        original.avatar(user, avatar_id)
        await self.call(
            "s3",
            "PutObject",
            Bucket="original-pictures",
            Key=f"{avatar_id}_large",
            Body=png(300, 300),
        )
        async with self.service() as tools:
            ran = await self.admin(
                *("import-fxa", "--json", f"--source={original.url}"),
                "--pictures-from=s3://original-pictures/{id}",
            )
            self.assertEqual(ran.json["avatars"], {"imported": 1})
            for name in VARIANTS:
                await tools.bucket("public").head(key=public_key(avatar_id, name))
