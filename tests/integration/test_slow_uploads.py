"""
Slow uploads, during which the account changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import deferLater

from fxprofile.model.keys import DEFAULT_AVATAR_ID
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
    """A daemon that has received half of a picture."""

    async def upload(self, who: FakeAccount, meanwhile: Callable[[], Awaitable[object]]) -> int:
        """Upload a picture and return the status of the response."""
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
        """Return the files in the buckets."""
        found = self.daemon.directory.glob("var/buckets/**/*")
        return {path for path in found if path.is_file()}

    async def test_account_deleted_during_an_upload(self) -> None:
        """A user whose account is deleted during an upload has no avatar afterwards."""
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
        self.assertEqual(avatar["id"], DEFAULT_AVATAR_ID)
        self.assertNotIn("pending", avatar)

        async def gone() -> bool:
            return not self.files() - before

        await self.until(gone, "the picture stays")

    async def test_identity_server_down_at_the_end_of_an_upload(self) -> None:
        """An upload that was admitted is accepted, even if the OAuth server is down at its end."""
        alice = self.account()

        async def close() -> None:
            await self.close(self.place.oauth_port)

        self.assertEqual(await self.upload(alice, close), 201)
        self.serve(self.place.oauth_port, self.oauth)
        self.assertNotEqual((await self.avatar(alice))["id"], DEFAULT_AVATAR_ID)
