"""Helpers for tests of the AWS client."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from fxprofile.drivers.aws.client.client import AwsService
from fxprofile.drivers.aws.client.errors import AwsError
from tests.drivers.aws.server import ScriptedServer
from tests.drivers.aws.support import make_client

TOKEN = "Session-T0ken-Never-Show"
GET = {"Bucket": "bucket", "Key": "key"}


class ClientCase(TestCase):
    """A client whose log is recorded."""

    def setUp(self) -> None:
        self.events: list[str] = []
        globalLogPublisher.addObserver(self._keep)
        self.addCleanup(globalLogPublisher.removeObserver, self._keep)

    def _keep(self, event: Any) -> None:
        try:
            self.events.append(event["log_format"].format(**event))
        except (KeyError, TypeError):
            self.events.append(repr(event))

    def serve(self, *script: Any, **options: Any) -> tuple[ScriptedServer, Any]:
        server = ScriptedServer(self, *script)
        return server, self.s3(server.url, **options)

    def s3(self, url: str, **options: Any) -> Any:
        self.client = make_client(reactor, **options)
        self.addCleanup(self.client.agent.stopService)
        return AwsService(self.client, "s3", url)

    def sqs(self, *script: Any, **options: Any) -> tuple[ScriptedServer, Any]:
        server = ScriptedServer(self, *script)
        self.client = make_client(reactor, **options)
        self.addCleanup(self.client.agent.stopService)
        return server, AwsService(self.client, "sqs", server.url)

    async def error(self, kind: type[AwsError], call: Any) -> AwsError:
        with self.assertRaises(AwsError) as caught:
            await call
        self.assertIs(type(caught.exception), kind, str(caught.exception))
        return caught.exception
