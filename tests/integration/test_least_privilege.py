"""Each role has the rights of its policy in ``etc/aws/``, and needs no others."""

from __future__ import annotations

from twisted.internet import reactor

from tests.aws.gatekeeper import Gatekeeper
from tests.integration import photos
from tests.integration.client import Client
from tests.integration.test_aws import AwsCase


class LeastPrivilegeTests(AwsCase):
    """Three processes, each behind a gatekeeper that knows its policy."""

    prefix = "fxprofile-"

    def gatekeeper(self, role: str) -> Gatekeeper:
        keeper = Gatekeeper(role, self.server.url)
        port = keeper.listen(reactor)
        self.addCleanup(port.stopListening)
        keeper.url = f"http://127.0.0.1:{port.getHost().port}"
        return keeper

    async def test_enough(self) -> None:
        """An avatar comes, is replaced and goes, and no role asks for more than it may."""
        keepers = {role: self.gatekeeper(role) for role in ("web", "worker", "images")}
        daemons = {
            role: await self.scene.daemon(
                role, aws__endpoint_url=keepers[role].url, uploads__wait=30
            )
            for role in keepers
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
        self.assertEqual({r: k.refused for r, k in keepers.items()}, {r: set() for r in keepers})
        self.assertEqual(keepers["images"].used, {"s3:GetObject"})
        self.assertNotIn("s3:GetObject", keepers["web"].used)
        self.assertNotIn("s3:DeleteObject", keepers["web"].used)

    async def test_heartbeat(self) -> None:
        """A process that may only put says that it is well all the same."""
        keeper = self.gatekeeper("web")
        web = await self.scene.daemon("web", aws__endpoint_url=keeper.url)
        client = Client(web)
        status, answer = await client.ask("GET", "/__heartbeat__")
        self.assertEqual((status, answer["status"]), (200, "ok"))
