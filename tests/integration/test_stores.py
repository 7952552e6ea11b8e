"""Tests of the whole pipeline on S3 servers other than AWS, without TLS."""

from __future__ import annotations

import boto3
from botocore.config import Config
from twisted.internet.threads import deferToThread

from tests.integration import photos
from tests.integration.client import Client
from tests.integration.scene import PipelineCase
from tests.support.servers import moto, s3rver, stores
from tests.support.servers.child import ChildServer

BUCKETS = ("fxprofile-private", "fxprofile-public")


class StorePipelineTests(PipelineCase):
    """A daemon with all roles, on each server."""

    async def use(self, server: ChildServer, access_key: str, secret_key: str) -> None:
        """Have the daemon and a client of our own use a server, and create its buckets."""
        self.scene.environ = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
        self.scene.settings = {"storage.driver": "s3", "storage.endpoint_url": server.url}
        self.s3 = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(s3={"addressing_style": "path"}),
        )
        names = {bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]}
        for bucket in BUCKETS:
            if bucket not in names:
                await deferToThread(self.s3.create_bucket, Bucket=bucket)

    async def assert_an_avatar_is_processed(self) -> None:
        """Upload a photo of more than 64 KiB, look at its pictures, and delete it."""
        daemon = await self.scene.daemon(uploads__wait=30)
        client = Client(daemon)
        photo = photos.jpeg(1600, 1200)
        self.assertGreater(len(photo), 1 << 16)
        status, avatar = await client.upload(photo)
        self.assertEqual((status, avatar["status"]), (201, "ready"))
        await self.scene.assert_sizes(client, avatar["url"], (200, 150), (100, 75), (600, 450))
        self.assertEqual((await client.ask("GET", "/__heartbeat__"))[0], 200)
        self.assertEqual((await client.ask("DELETE", "/v1/avatar"))[0], 200)
        await client.until_picture(avatar["url"], 404)

    async def test_an_upload_is_processed_on_rclone(self) -> None:
        """An upload of more than 64 KiB is processed, served and deleted on rclone."""
        await self.use(stores.rclone, moto.ACCESS_KEY, moto.SECRET_KEY)
        await self.assert_an_avatar_is_processed()

    async def test_an_upload_is_processed_on_juicefs(self) -> None:
        """An upload of more than 64 KiB is processed, served and deleted on JuiceFS."""
        await self.use(stores.juicefs, moto.ACCESS_KEY, moto.SECRET_KEY)
        await self.assert_an_avatar_is_processed()

    async def test_an_upload_is_processed_on_s3rver(self) -> None:
        """An upload of more than 64 KiB is processed, served and deleted on s3rver."""
        await self.use(s3rver.without_tls, s3rver.ACCESS_KEY, s3rver.SECRET_KEY)
        await self.assert_an_avatar_is_processed()
