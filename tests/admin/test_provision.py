"""``fxprofile-admin provision``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from twisted.internet import reactor

from fxprofile.admin.provision.aws import CLOSED, OPEN
from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.sql.migrate import current
from fxprofile.drivers.sql.schema import REVISION
from fxprofile.settings.load import load
from tests.admin.support import AdminCase
from tests.drivers.aws.support import make_client
from tests.support.servers.local import free_port
from tests.support.servers.moto import ACCESS_KEY, SECRET_KEY, shared

KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


class LocalProvisionTests(AdminCase):
    """``provision`` on the embedded drivers."""

    async def test_folders_and_schema_are_created_after_confirmation(self) -> None:
        """Folders and schema are created after the plan is confirmed, and only once."""
        ran = await self.admin("provision", "--plan", status=1)
        self.assertEqual([line.split()[0] for line in ran.output.splitlines()[1:]], ["create"] * 3)
        self.assertEqual(list(self.directory.iterdir()), [])
        await self.admin("provision", answers="n\n", status=1)
        self.assertEqual(list(self.directory.iterdir()), [])
        ran = await self.admin("provision", answers="y\n")
        self.assertIn("Done.", ran.output)
        self.assertEqual(current(f"sqlite:///{self.directory}/var/profile.db"), REVISION)
        for which in ("private", "public"):
            self.assertTrue((self.directory / f"var/buckets/fxprofile-{which}").is_dir())
        ran = await self.admin("provision")
        self.assertIn("nothing to do", ran.output)
        ran = await self.admin("provision", "--plan", "--json")
        self.assertEqual({step["action"] for step in ran.json["steps"]}, {"ok"})
        await self.admin("doctor", "--role=web")

    async def test_only_limits_what_is_provisioned(self) -> None:
        """With --only=storage the database is not created."""
        await self.admin("provision", "--only=storage", "--yes")
        self.assertFalse((self.directory / "var/profile.db").exists())
        self.assertTrue((self.directory / "var/buckets").exists())

    async def test_json_needs_yes(self) -> None:
        """--json needs --yes, and the answer says whether the plan was applied."""
        await self.admin("provision", "--json", status=2)
        ran = await self.admin("provision", "--json", "--yes")
        self.assertTrue(ran.json["applied"])
        ran = await self.admin("provision", "--json", "--yes")
        self.assertFalse(ran.json["applied"])

    async def test_a_folder_that_cannot_be_created_is_an_error(self) -> None:
        """If a folder cannot be created, the error says why."""
        (self.directory / "var").mkdir()
        (self.directory / "var/buckets").write_text("not a directory")
        line = await self.admin("provision", "--only=storage", "--yes", status=1)
        self.assertIn("Not a directory", line.errors)


class AwsCase(AdminCase):
    """Tests against a server that emulates AWS."""

    def setUp(self) -> None:
        super().setUp()
        shared.reset()
        self.settings: Mapping[str, object] = {
            "storage.driver": "s3",
            "queue.driver": "sqs",
            "aws.endpoint_url": shared.url,
        }
        self.client = make_client(reactor)
        self.addCleanup(self.client.stopService)

    def service(self, name: str = "") -> Any:  # type: ignore[override]
        """Return a service of AWS, or without a name the services of the settings."""
        if not name:
            return super().service()
        return AwsService(self.client, name, shared.url)

    async def call(self, service: str, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Call an operation of the server."""
        aws: AwsService = self.service(service)
        return (await aws.call(operation, parameters)).members

    async def provisioned(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """Provision, and use the settings of the answer from then on."""
        ran = await self.admin("provision", "--json", "--yes", *arguments, status=status, **KEYS)
        answer: dict[str, Any] = ran.json
        self.settings = {**self.settings, **answer["settings"]}
        return answer

    def actions(self, answer: Mapping[str, Any]) -> dict[str, str]:
        """Return the action of each step by its subject."""
        return {step["what"]: step["action"] for step in answer["steps"]}


class AwsProvisionTests(AwsCase):
    """``provision`` on AWS."""

    async def queue(self, name: str) -> dict[str, str]:
        """Return the attributes of a queue."""
        url = (await self.call("sqs", "GetQueueUrl", QueueName=name))["QueueUrl"]
        answer = await self.call("sqs", "GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])
        return dict(answer["Attributes"])

    async def access(self, bucket: str) -> Mapping[str, bool]:
        """Return the public access block of a bucket."""
        answer = await self.call("s3", "GetPublicAccessBlock", Bucket=bucket)
        blocked: Mapping[str, bool] = answer["PublicAccessBlockConfiguration"]
        return blocked

    async def test_everything_is_created_and_the_doctor_finds_it_ok(self) -> None:
        """
        Buckets and queues are created as the doctor expects them, and a second run changes
        nothing.
        """
        ran = await self.admin("provision", "--plan", "--json", status=1, **KEYS)
        self.assertEqual({step["action"] for step in ran.json["steps"]}, {"create"})
        self.assertEqual((await self.call("s3", "ListBuckets"))["Buckets"], [])
        answer = await self.provisioned()
        self.assertTrue(answer["applied"])
        self.assertEqual(
            set(answer["settings"]),
            {f"queue.{name}_url" for name in ("jobs", "results", "dead", "results_dead")},
        )
        for bucket in ("fxprofile-private", "fxprofile-public"):
            self.assertEqual(await self.access(bucket), CLOSED)
        rules = (
            await self.call("s3", "GetBucketLifecycleConfiguration", Bucket="fxprofile-private")
        )["Rules"]
        self.assertEqual(
            sorted(rule["ID"] for rule in rules),
            ["fxprofile-abort-unfinished-uploads", "fxprofile-expire-originals"],
        )
        jobs = await self.queue("fxprofile-jobs")
        policy = json.loads(jobs["RedrivePolicy"])
        self.assertEqual(int(policy["maxReceiveCount"]), 5)
        self.assertTrue(policy["deadLetterTargetArn"].endswith(":fxprofile-jobs-dead"))
        self.assertEqual(
            (jobs["VisibilityTimeout"], jobs["MessageRetentionPeriod"]), ("60", "345600")
        )
        dead = await self.queue("fxprofile-jobs-dead")
        self.assertEqual(dead["MessageRetentionPeriod"], "1209600")
        results = json.loads((await self.queue("fxprofile-results"))["RedrivePolicy"])
        self.assertEqual(int(results["maxReceiveCount"]), 10)
        again = await self.provisioned()
        self.assertEqual(set(self.actions(again).values()), {"ok"})
        self.assertFalse(again["applied"])
        self.assertEqual(again["settings"], {})
        findings = (await self.admin("doctor", "--json", **KEYS)).json["findings"]
        self.assertEqual(
            {f["level"] for f in findings if "queue" in f["name"] or "bucket" in f["name"]},
            {"ok"},
        )
        load(overrides=self.overrides(), environ={})

    async def test_the_plan_is_shown_and_confirmed(self) -> None:
        """The text output shows the plan, asks for confirmation, and prints the settings to use."""
        ran = await self.admin("provision", "--only=queues", answers="y\n", **KEYS)
        self.assertIn("create  queue fxprofile-jobs", ran.output)
        lines = tomllib.loads(ran.output.partition("Settings to use:\n")[2])
        self.assertEqual(
            set(lines["queue"]), {"jobs_url", "results_url", "dead_url", "results_dead_url"}
        )
        self.assertIn("Apply this plan?", ran.errors)

    async def test_what_has_drifted_is_corrected(self) -> None:
        """Changed rules and attributes are corrected, and additional rules stay."""
        await self.provisioned("--only=storage", "--only=queues")
        other = {
            "ID": "other",
            "Status": "Enabled",
            "Filter": {"Prefix": "x/"},
            "Expiration": {"Days": 3},
        }
        await self.call(
            "s3",
            "PutBucketLifecycleConfiguration",
            Bucket="fxprofile-private",
            LifecycleConfiguration={"Rules": [other]},
        )
        await self.call("s3", "DeletePublicAccessBlock", Bucket="fxprofile-private")
        url = str(self.settings["queue.jobs_url"])
        await self.call(
            "sqs", "SetQueueAttributes", QueueUrl=url, Attributes={"VisibilityTimeout": "7"}
        )
        self.settings = {**self.settings, "queue.max_receives": 3}
        answer = await self.provisioned("--only=storage", "--only=queues")
        changed = {what for what, action in self.actions(answer).items() if action == "change"}
        self.assertEqual(
            changed,
            {
                "lifecycle of fxprofile-private",
                "public access to fxprofile-private",
                "queue fxprofile-jobs",
            },
        )
        (step,) = (s for s in answer["steps"] if s["what"] == "queue fxprofile-jobs")
        self.assertIn("VisibilityTimeout 7 to 60", step["detail"])
        self.assertIn("fxprofile-jobs-dead after 5 to fxprofile-jobs-dead after 3", step["detail"])
        rules = (
            await self.call("s3", "GetBucketLifecycleConfiguration", Bucket="fxprofile-private")
        )["Rules"]
        self.assertIn("other", [rule["ID"] for rule in rules])
        self.assertEqual(len(rules), 3)
        self.assertEqual(await self.access("fxprofile-private"), CLOSED)
        again = await self.provisioned("--only=storage", "--only=queues")
        self.assertEqual(set(self.actions(again).values()), {"ok"})

    async def test_public_read_opens_and_closes_the_public_bucket(self) -> None:
        """--public-read opens the bucket, --no-public-read closes it, and neither changes it."""
        await self.provisioned("--only=storage", "--public-read")
        self.assertEqual(await self.access("fxprofile-public"), OPEN)
        self.assertEqual(await self.access("fxprofile-private"), CLOSED)

        async def policy() -> Any:
            text = (await self.call("s3", "GetBucketPolicy", Bucket="fxprofile-public"))["Policy"]
            return json.loads(text)

        (statement,) = (await policy())["Statement"]
        self.assertEqual(
            (statement["Action"], statement["Resource"]),
            ("s3:GetObject", "arn:aws:s3:::fxprofile-public/a/*"),
        )
        other = {**statement, "Sid": "Other", "Resource": "arn:aws:s3:::fxprofile-public/b/*"}
        await self.call(
            "s3",
            "PutBucketPolicy",
            Bucket="fxprofile-public",
            Policy=json.dumps({"Version": "2012-10-17", "Statement": [other]}),
        )
        again = await self.provisioned("--only=storage")
        self.assertFalse(again["applied"])
        self.assertEqual(await self.access("fxprofile-public"), OPEN)
        await self.provisioned("--only=storage", "--public-read")
        self.assertEqual(
            [statement["Sid"] for statement in (await policy())["Statement"]],
            ["Other", "FxprofilePublicReadOfPictures"],
        )
        await self.provisioned("--only=storage", "--no-public-read")
        self.assertEqual(await self.access("fxprofile-public"), CLOSED)

    async def test_a_bucket_is_created_in_the_region_of_the_settings(self) -> None:
        """A bucket is created in aws.region."""
        self.settings = {**self.settings, "aws.region": "eu-central-1"}
        await self.provisioned("--only=storage")
        answer = await self.service("s3").call("HeadBucket", {"Bucket": "fxprofile-private"})
        self.assertEqual(answer.headers["x-amz-bucket-region"], "eu-central-1")

    async def test_queues_are_named_by_their_urls(self) -> None:
        """Queues and dead-letter queues get the names in the URLs of the settings."""
        base = f"{shared.url}/123456789012/"
        self.settings = {
            **self.settings,
            "queue.jobs_url": base + "one",
            "queue.results_url": base + "two",
            "queue.dead_url": base + "three",
            "queue.results_dead_url": base + "two-dead",
            "queue.updates_url": base + "four",
        }
        answer = await self.provisioned("--only=queues")
        self.assertEqual(
            list(self.actions(answer)),
            ["queue three", "queue one", "queue two-dead", "queue two", "queue four"],
        )
        self.assertEqual(answer["settings"], {})
        policy = json.loads((await self.queue("one"))["RedrivePolicy"])
        self.assertTrue(policy["deadLetterTargetArn"].endswith(":three"))

    async def test_queues_of_other_accounts_need_attention(self) -> None:
        """A queue of another account and the accounts' events queue are left to the operator."""
        base = f"{shared.url}/123456789012/"
        self.settings = {
            **self.settings,
            "queue.results_url": f"{shared.url}/999999999999/results",
            "queue.events_url": base + "events",
        }
        answer = await self.provisioned("--only=queues", status=1)
        details = {
            step["what"]: step["detail"]
            for step in answer["steps"]
            if step["action"] == "attention"
        }
        self.assertIn("999999999999", details["queue results"])
        self.assertIn("belongs to the accounts", details["queue events"])

    async def test_a_fifo_queue_is_a_wrong_setting(self) -> None:
        """The URL of a FIFO queue is a wrong setting."""
        url = f"{shared.url}/123456789012/jobs.fifo"
        line = await self.error(
            "provision", "--yes", f"--set=queue.jobs_url={url}", status=2, **KEYS
        )
        self.assertIn("queue.jobs_url: is a FIFO queue", line)

    async def test_an_unreachable_server_is_one_line_without_keys(self) -> None:
        """An unreachable endpoint is one line that names the operation and no key."""
        self.settings = {
            **self.settings,
            "aws.endpoint_url": f"http://127.0.0.1:{free_port()}",
        }
        line = await self.error("provision", "--yes", **KEYS)
        self.assertIn("s3:HeadBucket", line)
        self.assertNotIn(SECRET_KEY, line)

    async def test_missing_credentials_are_reported(self) -> None:
        """Without credentials the error says so."""
        line = await self.error(
            "provision",
            "--yes",
            AWS_EC2_METADATA_DISABLED="true",
            AWS_CONFIG_FILE="/nonexistent",
            AWS_SHARED_CREDENTIALS_FILE="/nonexistent",
        )
        self.assertIn("credentials", line.lower())
