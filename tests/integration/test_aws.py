"""Tests of the roles as separate processes that share S3 and SQS."""

from __future__ import annotations

import json

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.integration import photos
from tests.integration.client import PATIENCE, Client
from tests.integration.cloud import BUCKETS, ENVIRON, Cloud
from tests.integration.scene import PipelineCase
from tests.support.servers import moto


class AwsCase(PipelineCase):
    """A test with its own S3 and SQS."""

    max_receives = 5
    prefix = ""
    server = moto.shared

    def setUp(self) -> None:
        super().setUp()
        cloud = Cloud(self.server.reset(), prefix=self.prefix, max_receives=self.max_receives)
        self.keys, self.s3, self.sqs, self.urls = cloud.keys, cloud.s3, cloud.sqs, cloud.urls
        self.scene.settings = cloud.settings
        self.scene.environ = ENVIRON

    def objects_in_thread(self) -> list[str]:
        return sorted(
            f"{bucket}/{item['Key']}"
            for bucket in BUCKETS
            for item in self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        )

    def messages_in_thread(self, name: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.urls[name], AttributeNames=names)
        return sum(int(found["Attributes"][n]) for n in names)

    async def until_in_thread(self, look, wanted, what: str) -> None:
        deadline = reactor.seconds() + PATIENCE
        while (found := await deferToThread(look)) != wanted:
            if reactor.seconds() > deadline:
                self.fail(f"{what}: {found}, not {wanted}")
            await deferLater(reactor, 0.2)

    async def until_quiet(self, *avatars: str) -> None:
        """Wait until only the images of these avatars and no messages are left."""
        kept = sorted(
            f"fxprofile-public/a/{i}{s}" for i in avatars for s in ("", "_large", "_small")
        )
        await self.until_in_thread(self.objects_in_thread, kept, "objects")
        for name in ("jobs", "results"):
            await self.until_in_thread(lambda n=name: self.messages_in_thread(n), 0, name)


class ThreeRolesTests(AwsCase):
    """The web, worker and images roles in three processes."""

    async def test_an_avatar_leaves_only_its_selected_images(self) -> None:
        """
        After an upload, a replacement and a delete, only the objects of selected avatars
        remain.
        """
        web = await self.scene.daemon("web", uploads__wait=30)
        await self.scene.daemon("worker")
        await self.scene.daemon("images")
        client = Client(web)

        status, first = await client.upload(photos.jpeg())
        self.assertEqual((status, first["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, first["url"], (200, 150), (100, 75), (600, 450))
        await self.until_quiet(first["id"])

        status, second = await client.upload(photos.phone_photo())
        self.assertEqual((status, second["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, second["url"], (150, 200), (75, 100), (450, 600))
        await client.until_picture(first["url"], 404)
        await self.until_quiet(second["id"])

        status, answer = await client.upload(photos.jpeg()[:5000])
        self.assertEqual((status, answer["reason"]), (422, "corrupt"))
        await self.until_quiet(second["id"])

        self.assertEqual((await client.ask("DELETE", "/v1/avatar"))[0], 200)
        await client.until_picture(second["url"], 404)
        await self.until_quiet()

    async def test_malformed_messages_become_dead_letters(self) -> None:
        """Malformed messages do not stop the roles, and end as dead letters."""
        junk = ["", "{", "[]", '{"v": 2}', '{"v":1,"op":"rm -rf","id":"/"}', "x" * 5000]
        for text in junk:
            body = text or " "
            self.sqs.send_message(QueueUrl=self.urls["jobs"], MessageBody=body)
        self.sqs.send_message(QueueUrl=self.urls["results"], MessageBody='{"v":1,"id":"no"}')
        web = await self.scene.daemon("web", uploads__wait=30)
        await self.scene.daemon("worker")
        client = Client(web)
        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"))
        await self.until_in_thread(lambda: self.messages_in_thread("dead"), len(junk), "dead")

    async def test_an_upload_waits_for_a_worker(self) -> None:
        """
        An upload that is accepted while no worker runs is processed later; the endpoint of
        SQS is that of the queue URLs.
        """
        settings = dict(self.scene.settings)
        settings["storage.endpoint_url"] = settings.pop("aws.endpoint_url")
        self.scene.settings = settings
        web = await self.scene.daemon("web", uploads__wait=0)
        client = Client(web)
        _, answer = await client.upload(photos.jpeg())
        await web.kill()
        await self.scene.daemon("worker")
        await web.start()
        await client.until(answer["id"], "ready")
        await self.until_quiet(answer["id"])

    async def test_account_events_are_handled(self) -> None:
        """A deleted account loses its avatar, and other services receive an update."""
        web = await self.scene.daemon("web", uploads__wait=30)
        await self.scene.daemon("worker")
        client = Client(web)
        _, uid = await client.ask("GET", "/v1/uid")
        await client.upload(photos.jpeg())
        event = {"event": "delete", "uid": f"{uid['uid']}@accounts.example.com"}
        self.sqs.send_message(
            QueueUrl=self.urls["events"],
            MessageBody=json.dumps({"Message": json.dumps(event)}),
        )
        await self.until_quiet()
        # Updates are sent in the background.
        await self.until_in_thread(lambda: self.messages_in_thread("updates") > 0, True, "updates")
        update = self.sqs.receive_message(QueueUrl=self.urls["updates"])["Messages"][0]
        self.assertEqual(json.loads(json.loads(update["Body"])["Message"]), uid)


class DeadLetterTests(AwsCase):
    """Jobs that are received too often."""

    max_receives = 1

    async def test_a_dead_job_fails_its_avatar(self) -> None:
        """
        The avatar of a dead-lettered job fails, and its message stays in the dead-letter queue.
        """
        web = await self.scene.daemon("web", uploads__wait=0)
        client = Client(web)
        _, answer = await client.upload(photos.jpeg())
        (message,) = self.sqs.receive_message(QueueUrl=self.urls["jobs"])["Messages"]
        self.sqs.change_message_visibility(
            QueueUrl=self.urls["jobs"],
            ReceiptHandle=message["ReceiptHandle"],
            VisibilityTimeout=0,
        )
        self.sqs.receive_message(QueueUrl=self.urls["jobs"])
        await self.until_in_thread(lambda: self.messages_in_thread("dead"), 1, "dead")
        # The repair loops run at their start, and then once a minute.
        await web.restart()
        await client.until(answer["id"], "failed")
        _, status = await client.ask("GET", f"/v1/avatar/upload/{answer['id']}")
        self.assertEqual(status["error"]["reason"], "dead")
        self.assertEqual(await deferToThread(self.messages_in_thread, "dead"), 1)
