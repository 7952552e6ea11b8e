"""Commands on S3 and SQS."""

from __future__ import annotations

import os
import time

from twisted.internet.task import Clock

from fxprofile.admin.orphans import sweep_of
from fxprofile.admin.shared.tools import Tools
from fxprofile.model.keys import PROBE, VARIANTS, new_id, private_key, public_key
from fxprofile.model.messages import Job, Op
from tests.admin.original import Original, png, uids
from tests.admin.test_avatar import UID, put, ready_avatar
from tests.admin.test_provision import KEYS, AwsCase
from tests.support.servers.moto import shared


class AwsCommandTests(AwsCase):
    """Commands other than ``provision`` against a server that emulates S3 and SQS."""

    def setUp(self) -> None:
        super().setUp()
        for name, value in KEYS.items():
            self.patch_environment(name, value)

    def patch_environment(self, name: str, value: str) -> None:
        """Set an environment variable for the drivers in this process."""
        before = os.environ.get(name)
        os.environ[name] = value
        self.addCleanup(
            lambda: (
                os.environ.pop(name, None) if before is None else os.environ.update({name: before})
            )
        )

    async def bodies(self, tools: Tools, name: str) -> list[str]:
        """Receive the bodies of the messages on a queue."""
        messages = await tools.needed_queue(name).receive(max_messages=10, wait=1)
        return [message.body for message in messages]

    async def test_queues_shows_depths_without_ages(self) -> None:
        """The depth of each SQS queue is shown; the age of its oldest message is null."""
        await self.provisioned()
        async with self.service() as tools:
            for _ in range(3):
                await tools.jobs_queue.send(body="x")
            await tools.jobs_queue.receive(max_messages=1, wait=0)
        rows = {row["name"]: row for row in (await self.admin("queues", "--json")).json["queues"]}
        self.assertEqual((rows["jobs"]["waiting"], rows["jobs"]["in_flight"]), (2, 1))
        self.assertIsNone(rows["jobs"]["oldest_seconds"])
        self.assertEqual(rows["results"]["waiting"], 0)

    async def test_a_missing_queue_is_an_error_and_the_others_are_shown(self) -> None:
        """
        A queue that does not exist is one line on the standard error; the other queues are
        shown.
        """
        await self.provisioned()
        await self.call("sqs", "DeleteQueue", QueueUrl=self.settings["queue.results_url"])
        ran = await self.admin("queues", status=1)
        self.assertEqual(ran.output.splitlines()[1].split()[:2], ["jobs", "0"])
        self.assertEqual(len(ran.errors.splitlines()), 1)
        self.assertIn("fxprofile-results", ran.errors)

    async def test_dead_letters_are_listed_redriven_and_dropped(self) -> None:
        """Listing releases the dead letters on SQS; redriving and dropping remove them."""
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
            self.assertEqual((await tools.jobs_queue.depth()).visible, 10)
            line = await self.error("dead", "show", ids[3])
            self.assertIn("no dead letter", line)

    async def test_dead_results_are_found_by_the_redrive_policy(self) -> None:
        """The dead-letter queue of the results is the one that their redrive policy names."""
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

    async def test_avatar_show_and_user_delete(self) -> None:
        """Avatars are shown from S3; deleting a user sends a delete job and an update to SQS."""
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

    async def test_orphans_and_broken_avatars_are_found(self) -> None:
        """Missing pictures are found on S3, and so are old objects that no row needs."""
        await self.provisioned()
        async with self.service() as tools:
            _, broken = [await ready_avatar(tools, uid) for uid in uids(2)]
            await tools.public_bucket.delete(keys=[public_key(broken, "small")])
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
                sweep = sweep_of(tools, grace=48 * 3600)
                sweep.clock, sweep.page = later, page
                findings = await sweep.find()
                self.assertEqual([found.id for found in findings.orphans], [orphan])
                self.assertEqual(len(findings.orphans[0].objects), 2)
            self.assertEqual(await sweep.remove(findings), 1)
            (job,) = await self.bodies(tools, "jobs")
            self.assertEqual(Job.decode(job), Job(op=Op.DELETE, id=orphan))

    async def test_the_doctor_uses_only_the_rights_of_its_role(self) -> None:
        """The doctor of the web role only puts the probe object; other roles leave no object."""
        await self.provisioned()
        ran = await self.admin("doctor", "--json", "--role=web")
        self.assertTrue(ran.json["ok"])
        objects = (await self.call("s3", "ListObjectsV2", Bucket="fxprofile-private"))["Contents"]
        self.assertEqual([entry["Key"] for entry in objects], [PROBE])
        for role in ("worker", "images"):
            await self.admin("doctor", f"--role={role}")
        answer = await self.call("s3", "ListObjectsV2", Bucket="fxprofile-public")
        self.assertNotIn("Contents", answer)

    async def test_misconfigured_queues_are_warnings(self) -> None:
        """A queue without redrive policy or with a short retention is a warning with advice."""
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

    async def test_a_missing_bucket_is_a_problem(self) -> None:
        """A bucket that does not exist is a problem whose advice names provision."""
        ran = await self.admin("doctor", "--json", "--role=images", status=1)
        (finding,) = (f for f in ran.json["findings"] if f["name"] == "public bucket")
        self.assertEqual(finding["level"], "problem")
        self.assertIn("provision", finding["advice"])

    async def test_a_finding_keeps_its_name_when_it_fails(self) -> None:
        """A queue has the same name in the report whether it works or not."""
        await self.provisioned()
        well = await self.admin("doctor", "--json", "--role=web")
        await self.call("sqs", "DeleteQueue", QueueUrl=self.settings["queue.results_dead_url"])
        ill = await self.admin("doctor", "--json", "--role=web", status=1)
        before, after = ([f["name"] for f in ran.json["findings"]] for ran in (well, ill))
        self.assertEqual(before, after)
        self.assertIn("results-dead queue", after)

    async def test_an_import_reads_pictures_from_a_bucket(self) -> None:
        """Old pictures of an import are read from the bucket of an s3 URL."""
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
                await tools.public_bucket.head(key=public_key(avatar_id, name))
