"""The pictures of ``fxprofile-admin import-fxa``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from fxprofile.admin.import_fxa.importer import Checkpoint, Importer, Place
from fxprofile.admin.import_fxa.pictures import (
    TIMEOUT,
    TRIES,
    OldPicturesUnavailable,
    from_server,
)
from fxprofile.admin.import_fxa.rows import Fate
from fxprofile.admin.import_fxa.source import FxaSource
from fxprofile.crunch.result import check_png
from fxprofile.model.avatars import Variant
from fxprofile.model.keys import VARIANTS, new_id, public_key
from tests.admin.original import ImportCase, Original, png, uids
from tests.admin.support import command, environment
from tests.support.servers.local import free_port


class PicturesTests(ImportCase):
    """``import-fxa --pictures-from``."""

    async def test_objects_that_are_not_fitting_pngs_count_as_missing(self) -> None:
        """Objects that are not PNGs of the right size count as missing pictures."""
        original = await self.original()
        users = uids(3)
        ids = [new_id() for _ in users]
        for user, avatar_id in zip(users, ids, strict=True):
            original.avatar(user, avatar_id)
        async with self.service() as tools:
            await self.put_pictures(tools, ids[0], data=b"<html>")
            await self.put_pictures(tools, ids[1], data=png(601, 1))
            await self.put_pictures(tools, ids[2])
            await tools.public_bucket.delete(keys=[public_key(ids[2], "small")])
            said = await self.run_import(original, status=1)
            self.assertEqual(said["avatars"], {"pictures missing": 3})

    async def test_the_largest_old_picture_in_a_folder_is_crunched(self) -> None:
        """The largest old picture of an avatar in a folder is crunched to all sizes."""
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
            dry = await self.run_import(original, template, "--dry-run", status=1)
            self.assertEqual(dry["avatars"], {"imported": 3, "pictures missing": 1})
            said = await self.run_import(original, template, status=1)
            self.assertEqual(said["avatars"], {"imported": 2, "pictures missing": 1, "refused": 1})
            sides = {}
            for key in (public_key(i, name) for i in ids[:2] for name in VARIANTS):
                _, body = await tools.public_bucket.get(key=key)
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

    async def test_a_403_of_a_web_server_is_a_missing_picture(self) -> None:
        """Old pictures are read from a web server, whose 403 means that there is none."""
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

    async def test_an_unreachable_picture_server_ends_the_import_with_its_checkpoint(self) -> None:
        """
        If the picture server is unreachable, the import ends with one line and its
        checkpoint.
        """
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
        self.assertIn("run this again to continue", line)
        self.assertEqual(
            json.loads(checkpoint.read_text()),
            {"source": original.name_of_source, "step": "names", "after": users[2]},
        )


class _Pictures(Resource):
    """
    An image server that stops answering after a number of requests.

    :ivar left: how many it still answers.
    """

    isLeaf = True

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.silent: Deferred[None] = Deferred()

    def render_GET(self, request: Any) -> Any:
        if self.left == 0:
            if not self.silent.called:
                self.silent.callback(None)
            return NOT_DONE_YET
        self.left -= 1
        return png(60, 60)


class KilledImportTests(ImportCase):
    """An import that is killed."""

    async def test_a_second_run_completes_a_killed_import(self) -> None:
        """After a SIGKILL a second run imports the rest, and every avatar is whole."""
        original = await self.original()
        users = uids(7)
        ids = {user: new_id() for user in users}
        for user, avatar_id in ids.items():
            original.name(user, "Alice")
            original.avatar(user, avatar_id)
        pictures = _Pictures(4)
        port: Any = reactor.listenTCP(0, Site(pictures), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        arguments = (
            *(f"--source={original.url}", f"--checkpoint={self.directory}/checkpoint"),
            f"--pictures-from=http://127.0.0.1:{port.getHost().port}/{{id}}",
            *("--batch=3", "--parallel=2"),
        )
        async with self.service() as tools:
            child = await deferToThread(
                subprocess.Popen,
                command(*(f"--set={o}" for o in self.overrides()), "import-fxa", *arguments),
                cwd=self.directory,
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            await pictures.silent
            child.kill()
            await deferToThread(child.wait)
            place = json.loads((self.directory / "checkpoint").read_text())
            self.assertEqual((place["step"], place["after"]), ("avatars", users[2]))
            pictures.left = 100
            ran = await self.admin("import-fxa", "--json", *arguments)
            self.assertEqual(ran.json["names"], {})
            self.assertEqual(sum(ran.json["avatars"].values()), 4)
            for user, avatar_id in ids.items():
                profile = await tools.store.profile(uid=user)
                self.assertEqual((profile.display_name, profile.avatar_id), ("Alice", avatar_id))
                about = (await self.admin("avatar", "show", avatar_id, "--json")).json
                self.assertEqual(about["problems"], [])


class _Slow:
    """Pictures that take so long that the user uploads another avatar meanwhile."""

    copies = True

    def __init__(self, store: Any, uid: str) -> None:
        self._store = store
        self._uid = uid
        self.removed: list[str] = []

    async def present(self, avatar_id: str) -> None:
        return None

    async def copied(self, avatar_id: str) -> Any:
        await self._store.accept(avatar_id=new_id(), uid=self._uid, now=time.time())
        return dict.fromkeys(VARIANTS, Variant(width=1, height=1, bytes=1)), None

    async def remove(self, avatar_id: str) -> None:
        self.removed.append(avatar_id)


class RaceTests(ImportCase):
    """An import while users change their profiles."""

    async def test_copied_pictures_are_removed_if_the_user_uploads_meanwhile(self) -> None:
        """If the user uploads an avatar while an old one is copied, the copy is removed."""
        original = await self.original()
        (user,) = uids(1)
        avatar_id = new_id()
        original.avatar(user, avatar_id)
        async with self.service() as tools:
            pictures = _Slow(tools.store, user)
            source = FxaSource(original.url, tools.files)
            source.setServiceParent(tools.stack)
            importer = Importer(
                source=source,
                database=tools.database,
                pictures=pictures,
                clock=reactor,
                checkpoint=Checkpoint(None, ""),
                tell=lambda *_: None,
                batch=1,
                parallel=1,
                dry_run=False,
            )
            await importer.run(lambda _: None)
            self.assertEqual(importer.tally["avatars"], {Fate.CHANGED_HERE: 1})
            self.assertEqual(pictures.removed, [avatar_id])
            self.assertIsNone(await tools.store.avatar(avatar_id=avatar_id))


class ProgressTests(ImportCase):
    """The progress bar."""

    async def test_a_terminal_shows_a_bar(self) -> None:
        """On a terminal the standard error shows a bar that reaches 100 %."""
        original = await self.original()
        for user in uids(3):
            original.name(user, "Alice")
        await self.admin("migrate")
        shown, said = await self.on_a_terminal(original)
        self.assertIn(b"Importing", shown)
        self.assertIn(b"100%", shown)
        self.assertIn(b"imported", said)

    async def test_the_bar_of_a_continued_import_counts_the_rest(self) -> None:
        """The bar of an import that continues from a checkpoint reaches 100 % too."""
        original = await self.original()
        users = uids(4)
        for user in users:
            original.name(user, "Alice")
            original.avatar(user, new_id(), provider=2)
        await self.admin("migrate")
        checkpoint = self.directory / "checkpoint"
        for step in ("names", "avatars"):
            Checkpoint(checkpoint, original.name_of_source).save(Place(step, users[0]))
            shown, _ = await self.on_a_terminal(original, f"--checkpoint={checkpoint}")
            self.assertIn(b"100%", shown)

    async def on_a_terminal(self, original: Original, *arguments: str) -> tuple[bytes, bytes]:
        """Return the standard error of an import on a terminal, and its standard output."""
        ours, theirs = os.openpty()
        self.addCleanup(os.close, ours)
        try:
            done = await deferToThread(
                subprocess.run,
                command(
                    *(f"--set={o}" for o in self.overrides()),
                    *("import-fxa", f"--source={original.url}", "--batch=1", *arguments),
                ),
                cwd=self.directory,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=theirs,
            )
        finally:
            os.close(theirs)
        shown = os.read(ours, 100_000)
        self.assertEqual(done.returncode, 0)
        return shown, done.stdout


class _Hangs:
    """A client whose requests are never answered."""

    def __init__(self) -> None:
        self.asked = 0

    def get(self, url: str, **_: Any) -> Deferred[Any]:
        self.asked += 1
        return Deferred()


class HttpPicturesTests(SynchronousTestCase):
    """Old pictures on a web server."""

    def test_a_server_that_hangs_is_tried_a_few_times(self) -> None:
        """A server that does not answer is tried a few times, and then an error is raised."""
        clock, client = Clock(), _Hangs()
        fetching = Deferred.fromCoroutine(from_server(client, clock, "http://h/{id}", "abc"))
        for _ in range(TRIES * 2):
            self.assertNoResult(fetching)
            clock.advance(TIMEOUT)
            if fetching.called:
                break
        failure = self.failureResultOf(fetching, OldPicturesUnavailable)
        self.assertIn("http://h/abc: no response", str(failure.value))
        self.assertEqual(client.asked, TRIES)
