"""
Tests of the credential chain with the sources of botocore's standard chain.

The source is a server on the test's reactor, which could not respond if the search blocked the
reactor.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase
from twisted.web.http import Request

from fxprofile.deferreds.threads import Threads
from fxprofile.drivers.aws.client.errors import NoCredentials
from fxprofile.drivers.aws.client.signing import REFRESH_INTERVAL, CredentialChain
from tests.drivers.aws.server import Behaviour, ScriptedServer
from tests.drivers.aws.support import set_environ

ROLE = "arn:aws:iam::123456789012:role/web"


def close(request: Request) -> None:
    """Close the connection after the response."""
    request.setHeader("connection", "close")
    request.channel.persistent = False


def last(body: bytes, status: int = 200) -> Behaviour:
    """Return a behaviour that responds and closes the connection."""

    def behave(request: Request) -> bytes:
        close(request)
        request.setResponseCode(status)
        return body

    return behave


class Source:
    """
    A source of access keys, each different.

    :ivar life: until a key expires.
    """

    def __init__(self) -> None:
        self.life = timedelta(hours=6)
        self._given = 0

    def _members(self) -> dict[str, str]:
        self._given += 1
        return {
            "AccessKeyId": f"AKIA{self._given}",
            "SecretAccessKey": "s",
            "Expiration": (datetime.now(UTC) + self.life).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def metadata(self, request: Request) -> bytes:
        """Respond as the agent of a container and the metadata service do."""
        close(request)
        members = {"Code": "Success", "Token": "t", **self._members()}
        return json.dumps(members).encode()

    def sts(self, request: Request) -> bytes:
        """Respond as STS does."""
        close(request)
        content = request.content.getvalue().decode()
        name = content.partition("Action=")[2].partition("&")[0]
        members = {"SessionToken": "t", **self._members()}
        keys = "".join(f"<{key}>{value}</{key}>" for key, value in members.items())
        return f"""
            <{name}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
              <{name}Result><Credentials>{keys}</Credentials></{name}Result>
              <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
            </{name}Response>
        """.strip().encode()


class SourceTests(TestCase):
    """Every source is found, without blocking the reactor."""

    def setUp(self) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            set_environ(self, name, None)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        set_environ(self, "HOME", str(self.folder))
        set_environ(self, "AWS_EC2_METADATA_DISABLED", "true")
        self.source = Source()
        self.server = ScriptedServer(self)
        self.threads = Threads(reactor, "sources", 2)
        self.threads.startService()
        self.addCleanup(self.threads.stopService)
        self.clock = Clock()
        self.chain = CredentialChain(self.threads, self.clock, "eu-central-1")

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    async def test_a_container_has_its_task_role(self) -> None:
        """A container gets the credentials of its task role with an authorization token."""
        self.server.otherwise = self.source.metadata
        set_environ(self, "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{self.server.url}/creds")
        set_environ(self, "AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me in")
        keys = await self.chain.get()
        self.assertEqual((keys.access_key, keys.token), ("AKIA1", "t"))
        self.assertEqual(self.server.seen[0].headers["authorization"], "let me in")

    async def test_an_instance_has_its_role(self) -> None:
        """An instance gets the credentials of its role from version 2 of the metadata service."""
        set_environ(self, "AWS_EC2_METADATA_DISABLED", None)
        set_environ(self, "AWS_METADATA_SERVICE_TIMEOUT", "60")
        set_environ(self, "AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{self.server.url}/")
        self.server.script = [last(b"TOKEN"), last(b"web"), self.source.metadata]
        self.assertEqual((await self.chain.get()).access_key, "AKIA1")
        token, *rest = self.server.seen
        self.assertEqual(token.method, "PUT")
        self.assertEqual({seen.headers["x-aws-ec2-metadata-token"] for seen in rest}, {"TOKEN"})

    async def test_a_role_is_assumed_with_a_web_identity(self) -> None:
        """A role is assumed with the identity token of a cluster."""
        self.server.otherwise = self.source.sts
        set_environ(self, "AWS_ENDPOINT_URL_STS", self.server.url)
        set_environ(self, "AWS_ROLE_ARN", ROLE)
        set_environ(self, "AWS_WEB_IDENTITY_TOKEN_FILE", self.file("token", "header.payload.sum"))
        self.assertEqual((await self.chain.get()).access_key, "AKIA1")
        self.assertIn(b"WebIdentityToken=header.payload.sum", self.server.seen[0].body)

    async def test_a_profile_assumes_a_role(self) -> None:
        """A profile assumes a role with the credentials of another, at the STS of the region."""
        self.server.otherwise = self.source.sts
        set_environ(self, "AWS_ENDPOINT_URL_STS", self.server.url)
        config = f"""
            [profile web]
            role_arn = {ROLE}
            source_profile = base
            [profile base]
            aws_access_key_id = AKIABASE
            aws_secret_access_key = s
        """
        set_environ(self, "AWS_CONFIG_FILE", self.file("config", config.replace("  ", "")))
        set_environ(self, "AWS_PROFILE", "web")
        self.assertEqual((await self.chain.get()).access_key, "AKIA1")
        # No other setting selects the endpoint of STS.
        signed = self.server.seen[0].headers["authorization"]
        self.assertIn("AKIABASE", signed)
        self.assertIn("/eu-central-1/sts/", signed)

    async def test_a_refused_role_is_an_error(self) -> None:
        """The error of a role that cannot be assumed contains the code of STS."""
        error = "<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error>"
        self.server.otherwise = last(f"<ErrorResponse>{error}</ErrorResponse>".encode(), 403)
        set_environ(self, "AWS_ENDPOINT_URL_STS", self.server.url)
        set_environ(self, "AWS_ROLE_ARN", ROLE)
        set_environ(self, "AWS_WEB_IDENTITY_TOKEN_FILE", self.file("token", "header.payload.sum"))
        failed = await self.assertFailure(Deferred.fromCoroutine(self.chain.get()), NoCredentials)
        self.assertIn("AccessDenied", str(failed))

    async def test_credentials_are_refreshed(self) -> None:
        """Credentials are refreshed before they expire, and used until then."""
        self.source.life = timedelta(minutes=9)
        self.server.otherwise = self.source.metadata
        set_environ(self, "AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{self.server.url}/creds")
        first = await self.chain.get()
        self.clock.advance(REFRESH_INTERVAL)
        self.assertEqual(await self.chain.get(), first)
        while (await self.chain.get()) == first:
            await deferLater(reactor, 0.01)
