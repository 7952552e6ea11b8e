"""An S3 bucket on a scripted server."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.s3 import S3Bucket
from fxprofile.model.errors import StorageError
from tests.contracts.bucket import ScriptedBody
from tests.drivers.aws.server import ScriptedServer
from tests.drivers.aws.support import make_client

DATA = hashlib.shake_128(b"data").digest(200_000)
MD5 = hashlib.md5(DATA).hexdigest()
CRC32 = base64.b64encode(zlib.crc32(DATA).to_bytes(4, "big")).decode()


class BucketCase(TestCase):
    def serve(self, *script: Any, **options: Any) -> tuple[ScriptedServer, S3Bucket]:
        server = ScriptedServer(self, *script)
        return server, self.bucket(server.url, **options)

    def bucket(
        self,
        url: str,
        agent: Any = None,
        put_settings: dict[str, str] | None = None,
        **options: Any,
    ) -> S3Bucket:
        client = make_client(reactor, agent=agent)
        self.addCleanup(client.agent.stopService)
        return S3Bucket(AwsService(client, "s3", url, **options), "bucket", put_settings or {})

    async def put(self, bucket: S3Bucket, body: Any = None, length: int = len(DATA)) -> None:
        body = body or ScriptedBody(DATA[:70_000], DATA[70_000:])
        await bucket.put(key="a/k", body=body, length=length, content_type="image/png")

    async def fails(self, work: Any, kind: type[Exception] = StorageError) -> str:
        with self.assertRaises(kind) as caught:
            await work
        self.assertIs(type(caught.exception), kind)
        return str(caught.exception)
