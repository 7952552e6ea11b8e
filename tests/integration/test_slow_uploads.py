"""Uploads that take their time, during which much may happen to an account."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from fxprofile.web.upload import SLOW
from tests.integration import photos
from tests.integration.accounts import AccountsCase, event
from tests.serving.sockets import Client
from tests.support.fakes.oauth import FakeAccount

_UPLOAD = (
    "POST /v1/avatar/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    "Content-Type: image/jpeg\r\nContent-Length: {length}\r\nAuthorization: Bearer {token}\r\n\r\n"
)


class SlowUploadTests(AccountsCase):
    """A daemon that has half of a picture when something happens."""

    async def upload(self, who: FakeAccount, meanwhile: Callable[[], Awaitable[object]]) -> int:
        """Upload a picture, and give the status of the answer."""
        picture = photos.jpeg(300, 200)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.daemon.ports.web)
        client: Client = await connectProtocol(endpoint, Client())
        head = _UPLOAD.format(length=len(picture), token=who.token)
        client.transport.write(head.encode() + picture[:500])
        await deferLater(reactor, SLOW)
        await meanwhile()
        await deferLater(reactor, SLOW)
        client.transport.write(picture[500:])
        return int((await client.end()).split(b" ")[1])

    async def avatar(self, who: FakeAccount) -> Any:
        """What a user has, of whom the servers know again."""
        self.accounts[who.token] = who
        return (await self.ask("GET", "/v1/avatar", who)).json

    def files(self) -> set[Path]:
        """What is in the buckets."""
        found = self.daemon.directory.glob("var/buckets/**/*")
        return {path for path in found if path.is_file()}

    async def test_deleted_account(self) -> None:
        """Whose account is deleted in the meantime has no avatar afterwards."""
        alice, events = self.account(), self.queue("events")
        # The daemon may have the pictures of another test.
        before = self.files()

        async def delete() -> None:
            del self.accounts[alice.token]
            await events.send(body=event("delete", alice.uid))

            async def handled() -> bool:
                depth = await events.depth()
                return depth.visible + depth.in_flight == 0

            await self.until(handled, "the event is still there")

        self.assertEqual(await self.upload(alice, delete), 401)
        avatar = await self.avatar(alice)
        self.assertTrue(avatar["avatarDefault"])
        self.assertNotIn("pending", avatar)

        async def gone() -> bool:
            return not self.files() - before

        await self.until(gone, "the picture stays")

    async def test_nobody_can_tell(self) -> None:
        """An upload that is accepted stands, though the OAuth server is away by then."""
        alice = self.account()

        async def close() -> None:
            await self.close(self.place.oauth_port)

        self.assertEqual(await self.upload(alice, close), 201)
        self.serve(self.place.oauth_port, self.oauth)
        self.assertFalse((await self.avatar(alice))["avatarDefault"])
