"""
A daemon that has too much to do, or no room.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from tests.integration import photos
from tests.integration.client import Client
from tests.integration.scene import PipelineCase

#: More than any disk has.
EVERYTHING = 1 << 60


class OverloadTests(PipelineCase):
    """Refused uploads, and what becomes of the accepted ones."""

    async def test_backlog_drains_without_room_for_uploads(self) -> None:
        """
        While only the reserve of the disk is left, uploads are refused, and accepted ones become
        ready.
        """
        web = await self.scene.daemon("web")
        _, accepted = await Client(web).upload(photos.jpeg(), Prefer="respond-async")
        await web.stop()
        daemon = await self.scene.daemon(storage__reserve=EVERYTHING)
        client = Client(daemon)
        await client.until(accepted["id"], "ready")
        status, answer = await client.upload(photos.jpeg())
        self.assertEqual((status, answer["errno"]), (503, 106))
        status, beat = await client.ask("GET", "/__heartbeat__")
        self.assertEqual((status, beat["checks"]["storage"]), (503, "low"))

    async def test_flood_ends_with_the_newest_avatars(self) -> None:
        """
        After a flood the newest accepted upload of each user is selected; the others are deleted.
        """
        daemon = await self.scene.daemon(
            uploads__per_hour=0, limits__writes_per_minute=0, crunch__processes=1
        )
        clients = [Client(daemon, token) for token in ("alice", "bob")]
        newest = ["", ""]
        image = photos.jpeg(1600, 1200)

        async def flood(number: int) -> None:
            for _ in range(30):
                status, answer = await clients[number].upload(image, Prefer="respond-async")
                if status == 201:
                    newest[number] = answer["id"]
                else:
                    self.assertEqual((status, answer["errno"]), (429, 114))

        await gatherResults([Deferred.fromCoroutine(flood(number)) for number in (0, 1)])
        for client, avatar_id in zip(clients, newest, strict=True):
            await client.until(avatar_id, "ready")
            _, avatar = await client.ask("GET", "/v1/avatar")
            self.assertEqual(avatar["id"], avatar_id)
        await self.scene.until(lambda: len(self.scene.files()) == 6, "the others are deleted")
