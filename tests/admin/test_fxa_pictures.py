"""The pictures of ``fxprofile-admin import-fxa``."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from fxprofile.admin.fxa_pictures import TIMEOUT, TRIES, HttpPictures, OldPicturesUnavailable
from fxprofile.compute.result import check_png
from fxprofile.keys import new_id, public_key, public_keys
from tests.admin.original import ImportCase, png, uids
from tests.servers.sql import free_port


class PicturesTests(ImportCase):
    """Where they come from, and what they become."""

    async def test_unfit_pictures(self) -> None:
        """Objects that are no pictures of the right size do not count as pictures."""
        original = await self.original()
        users = uids(3)
        ids = [new_id() for _ in users]
        for user, avatar_id in zip(users, ids, strict=True):
            original.avatar(user, avatar_id)
        async with self.service() as tools:
            await self.put_pictures(tools, ids[0], data=b"<html>")
            await self.put_pictures(tools, ids[1], data=png(601, 1))
            await self.put_pictures(tools, ids[2])
            await tools.bucket("public").delete(keys=[public_key(ids[2], "small")])
            said = await self.run_import(original, status=1)
            self.assertEqual(said["avatars"], {"pictures missing": 3})

    async def test_pictures_from_a_folder(self) -> None:
        """Old pictures are crunched anew, the largest that there is."""
        original = await self.original()
        users = uids(4)
        ids = [new_id() for _ in users]
        old = self.directory / "old"
        old.mkdir()
        for user, avatar_id in zip(users, ids, strict=True):
            original.avatar(user, avatar_id)
        (old / f"{ids[0]}_large").write_bytes(png(600, 300))
        (old / ids[0]).write_bytes(png(200, 100))
        (old / ids[1]).write_bytes(png(150, 150))
        (old / f"{ids[2]}_large").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        async with self.service() as tools:
            template = f"--pictures-from={old}/{{id}}"
            dry = await self.run_import(original, template, "--dry-run")
            self.assertEqual(dry["avatars"], {"imported": 4})
            said = await self.run_import(original, template, status=1)
            self.assertEqual(said["avatars"], {"imported": 2, "pictures missing": 1, "refused": 1})
            sides = {}
            for key in (*public_keys(ids[0]), *public_keys(ids[1])):
                _, body = await tools.bucket("public").get(key=key)
                data = b"".join([piece async for piece in body])
                sides[key.partition("/")[2]] = check_png(data)
            self.assertEqual(
                sides,
                {
                    ids[0]: (200, 100),
                    f"{ids[0]}_small": (100, 50),
                    f"{ids[0]}_large": (600, 300),
                    ids[1]: (150, 150),
                    f"{ids[1]}_small": (100, 100),
                    f"{ids[1]}_large": (150, 150),
                },
            )
            self.assertEqual((await tools.store.profile(uid=users[0])).avatar_id, ids[0])
            self.assertIsNone((await tools.store.profile(uid=users[2])).avatar_id)

    async def test_pictures_from_a_server(self) -> None:
        """Old pictures may come from a web server, which may say 403 of what it has not."""
        picture = png(600, 600)
        avatar_id, missing = new_id(), new_id()

        class Images(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                if request.path == f"/a/{avatar_id}_large".encode():
                    return picture
                request.setResponseCode(403)
                return b"AccessDenied"

        port: Any = reactor.listenTCP(0, Site(Images()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        original = await self.original()
        user, other = uids(2)
        original.avatar(user, avatar_id)
        original.avatar(other, missing)
        async with self.service() as tools:
            said = await self.run_import(
                original,
                f"--pictures-from=http://127.0.0.1:{port.getHost().port}/a/{{id}}",
                status=1,
            )
            self.assertEqual(said["avatars"], {"imported": 1, "pictures missing": 1})
            self.assertEqual((await tools.store.profile(uid=user)).avatar_id, avatar_id)

    async def test_breaks_off(self) -> None:
        """If the pictures' server is gone, it ends with one line, and keeps its place."""
        original = await self.original()
        users = uids(3)
        for user in users:
            original.name(user, "Alice")
            original.avatar(user, new_id())
        checkpoint = self.directory / "checkpoint"
        await self.admin("migrate")
        line = await self.error(
            *("import-fxa", f"--checkpoint={checkpoint}", f"--source={original.url}"),
            f"--pictures-from=http://127.0.0.1:{free_port()}/a/{{id}}",
        )
        self.assertIn("Connection was refused", line)
        self.assertIn("run this again to go on", line)
        self.assertEqual(
            json.loads(checkpoint.read_text()),
            {"source": original.name_of_source, "step": "names", "after": users[2]},
        )


class _Hangs:
    """A client whose requests are never answered."""

    def __init__(self) -> None:
        self.asked = 0

    def get(self, url: str, **_: Any) -> Deferred[Any]:
        self.asked += 1
        return Deferred()


class HttpPicturesTests(SynchronousTestCase):
    """Pictures on a web server."""

    def test_hanging(self) -> None:
        """A server that does not answer is asked a few times, and that ends."""
        clock, client = Clock(), _Hangs()
        fetching = Deferred.fromCoroutine(HttpPictures("http://h/{id}", client, clock).fetch("abc"))
        for _ in range(TRIES * 2):
            self.assertNoResult(fetching)
            clock.advance(TIMEOUT)
            if fetching.called:
                break
        failure = self.failureResultOf(fetching, OldPicturesUnavailable)
        self.assertIn("http://h/abc: no answer", str(failure.value))
        self.assertEqual(client.asked, TRIES)
