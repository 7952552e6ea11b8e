"""Tests that the IAM policies in ``etc/aws/`` allow each role all it needs."""

from __future__ import annotations

import json
from typing import Any

import boto3
import treq
from botocore.exceptions import ClientError
from twisted.internet import reactor

from tests.drivers.aws.policy_proxy import PolicyProxy
from tests.drivers.aws.recording import POLICIES
from tests.integration import photos
from tests.integration.client import Client
from tests.integration.test_aws import AwsCase
from tests.support.servers.moto import MotoServer

ROLES = ("web", "worker", "images")


class LeastPrivilegeTests(AwsCase):
    """Three processes, each behind a proxy that enforces its policy."""

    prefix = "fxprofile-"

    def policy_proxy(self, role: str) -> PolicyProxy:
        proxy = PolicyProxy(role, self.server.url)
        port = proxy.listen(reactor)
        self.addCleanup(port.stopListening)
        proxy.url = f"http://127.0.0.1:{port.getHost().port}"
        return proxy

    async def test_the_policies_are_sufficient(self) -> None:
        """An avatar is uploaded, replaced and deleted without a denied action."""
        proxies = {role: self.policy_proxy(role) for role in ROLES}
        daemons = {
            role: await self.scene.daemon(
                role, aws__endpoint_url=proxies[role].url, uploads__wait=30
            )
            for role in proxies
        }
        client = Client(daemons["web"])
        _, first = await client.upload(photos.jpeg())
        self.assertEqual(first["status"], "ready")
        await self.scene.assert_sizes(client, first["url"], (200, 150), (100, 75), (600, 450))
        _, second = await client.upload(photos.jpeg(300, 300))
        self.assertEqual(second["status"], "ready")
        await client.until_picture(first["url"], 404)
        status, _ = await client.upload(photos.jpeg()[:5000])
        self.assertEqual(status, 422)
        await client.ask("DELETE", "/v1/avatar")
        await client.until_picture(second["url"], 404)
        await self.until_quiet()
        self.assertEqual({r: k.refused for r, k in proxies.items()}, {r: set() for r in proxies})
        self.assertEqual(proxies["images"].used, {"s3:GetObject"})
        self.assertNotIn("s3:GetObject", proxies["web"].used)
        self.assertNotIn("s3:DeleteObject", proxies["web"].used)

    async def test_the_heartbeat_needs_no_other_action(self) -> None:
        """The heartbeat of each role is green and names its dependencies."""
        for role, needs in (
            ("web", {"private bucket", "jobs queue", "results queue", "events queue", "database"}),
            (
                "worker",
                {"cruncher", "private bucket", "public bucket", "jobs queue", "results queue"},
            ),
            ("images", {"public bucket"}),
        ):
            proxy = self.policy_proxy(role)
            daemon = await self.scene.daemon(role, aws__endpoint_url=proxy.url)
            response = await treq.get(f"{daemon.admin_url}/__heartbeat__", persistent=False)
            answer = await response.json()
            self.assertEqual((response.code, answer["status"]), (200, "ok"), answer)
            named = {name for name in answer["checks"] if not name.endswith(" poller")}
            self.assertEqual(named, needs, role)


class EnforcedTests(AwsCase):
    """Three processes, each with the access key of a user who has only its policy."""

    prefix = "fxprofile-"

    def setUp(self) -> None:
        # From the next call on, the server asks for these access keys.
        self.server = MotoServer()
        self.addCleanup(self.server.stop)
        super().setUp()
        iam = boto3.client(
            "iam", region_name="us-east-1", endpoint_url=self.server.url, **self.keys
        )
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        operator = {"Version": "2012-10-17", "Statement": [everything]}
        policies = {role: (POLICIES / f"{role}.json").read_text() for role in ROLES}
        policies["operator"] = json.dumps(operator)
        self.users = {}
        for name, policy in policies.items():
            iam.create_user(UserName=name)
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
            key = iam.create_access_key(UserName=name)["AccessKey"]
            self.users[name] = (key["AccessKeyId"], key["SecretAccessKey"])
        self.server.post("/moto-api/reset-auth", b"0")
        self.s3, self.sqs = self.clients("operator")

    def clients(self, user: str) -> tuple[Any, Any]:
        key, secret = self.users[user]
        session = boto3.Session(
            region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
        )
        return (
            session.client("s3", endpoint_url=self.server.url),
            session.client("sqs", endpoint_url=self.server.url),
        )

    async def test_the_policies_are_sufficient(self) -> None:
        """An avatar is uploaded, replaced and deleted while the server enforces the policies."""
        daemons = {}
        for role in ROLES:
            key, secret = self.users[role]
            keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
            self.scene.environ = {**self.scene.environ, **keys}
            daemons[role] = await self.scene.daemon(role, uploads__wait=30)
        client = Client(daemons["web"])
        _, first = await client.upload(photos.jpeg())
        self.assertEqual(first["status"], "ready")
        await self.scene.assert_sizes(client, first["url"], (200, 150), (100, 75), (600, 450))
        _, second = await client.upload(photos.jpeg(300, 300))
        self.assertEqual(second["status"], "ready")
        await client.until_picture(first["url"], 404)
        for daemon in daemons.values():
            answer = await treq.get(f"{daemon.admin_url}/__heartbeat__", persistent=False)
            self.assertEqual(answer.code, 200, await answer.text())
        await client.ask("DELETE", "/v1/avatar")
        await client.until_picture(second["url"], 404)
        # The heartbeat of the web role puts a probe object.
        self.s3.delete_object(Bucket="fxprofile-private", Key="probe")
        await self.until_quiet()

    def test_the_policies_are_enforced(self) -> None:
        """The server refuses actions that the policy of a role does not allow."""
        s3, sqs = self.clients("images")
        with self.assertRaises(ClientError):
            s3.put_object(Bucket="fxprofile-public", Key="k", Body=b"")
        with self.assertRaises(ClientError):
            sqs.receive_message(QueueUrl=self.urls["jobs"])
