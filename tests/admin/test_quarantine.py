"""``fxprofile-admin avatar quarantine`` and ``quarantine``."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from fxprofile.admin.shared.tools import Tools
from fxprofile.crunch.codec.job import crunch
from fxprofile.crunch.limits import Limits
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.avatars import Status
from fxprofile.model.errors import Quarantined
from fxprofile.model.keys import VARIANTS, new_id, public_key
from fxprofile.model.messages import Job
from tests.admin.support import AdminCase, Ran
from tests.admin.test_avatar import UID, VARIANT, ready_avatar
from tests.corpus.drawing import photo, saved
from tests.support.fakes.oauth import FakeServer, Said, listen

SOURCE, PIXELS = "5" * 64, "b" * 64
OTHER = "b" * 32
WHY = ("--reason", "not allowed", "--by", "Moderator", "--yes")


class QuarantineTests(AdminCase):
    """Taking pictures down, and refusing them in future."""

    async def avatar(self, tools: Tools, uid: str = UID, **digests: str) -> str:
        """Make a ready avatar with digests."""
        avatar_id = new_id()
        source = digests.get("source_digest")
        await tools.store.accept(
            avatar_id=avatar_id, uid=uid, now=time.time(), source_digest=source
        )
        for name in VARIANTS:
            await tools.public_bucket.put(
                key=public_key(avatar_id, name),
                body=BytesBody(b"picture"),
                length=7,
                content_type="image/png",
            )
        await tools.store.ready(
            avatar_id=avatar_id,
            variants=dict.fromkeys(VARIANTS, VARIANT),
            now=time.time(),
            pixels_digest=digests.get("pixels_digest"),
        )
        return avatar_id

    async def quarantine(self, *arguments: str, **how: Any) -> Ran:
        return await self.admin("avatar", "quarantine", *arguments, *WHY, "--json", **how)

    def objects(self) -> set[str]:
        """Return the ids of avatars that have pictures."""
        folder = self.directory / "var/buckets/fxprofile-public/a"
        return {path.name.partition("_")[0] for path in folder.glob("*")}

    async def test_a_picture_is_taken_down_and_refused(self) -> None:
        """
        Every avatar with the picture is deleted with its objects, other avatars are not, and the
        same bytes are refused from then on.
        """
        async with self.service() as tools:
            named = await self.avatar(tools, source_digest=SOURCE, pixels_digest=PIXELS)
            same_bytes = await self.avatar(tools, OTHER, source_digest=SOURCE)
            same_pixels = await self.avatar(tools, "c" * 32, pixels_digest=PIXELS)
            harmless = await self.avatar(tools, "d" * 32, source_digest="0" * 64)
            about = (await self.quarantine(f"https://x.example/a/{named}_small")).json
            self.assertEqual(set(about["avatars"]), {named, same_bytes, same_pixels})
            self.assertEqual((about["source_digest"], about["pixels_digest"]), (SOURCE, PIXELS))
            self.assertEqual((about["removed"], about["purged"]), (True, None))
            self.assertEqual(self.objects(), {harmless})
            for avatar_id in about["avatars"]:
                row = await tools.store.avatar(avatar_id=avatar_id)
                self.assertEqual(row.status, Status.DELETING)
            self.assertIsNone((await tools.store.profile(uid=UID)).avatar_id)
            messages = await tools.jobs_queue.receive(max_messages=10, wait=0)
            jobs = {Job.decode(message.body).id for message in messages}
            self.assertEqual(jobs, set(about["avatars"]))
            with self.assertRaises(Quarantined):
                await self.avatar(tools, source_digest=SOURCE)
            with self.assertRaises(Quarantined):
                await self.avatar(tools, pixels_digest=PIXELS)

    async def test_a_digest_of_a_file(self) -> None:
        """With --sha256, a file is refused before anyone has uploaded it."""
        async with self.service() as tools:
            about = (await self.quarantine("--sha256", SOURCE.upper())).json
            self.assertEqual((about["avatars"], about["source_digest"]), ([], SOURCE))
            with self.assertRaises(Quarantined):
                await self.avatar(tools, source_digest=SOURCE)

    async def test_an_avatar_that_is_older_than_the_digests(self) -> None:
        """The pixels of an avatar without digests are computed from its published picture."""
        outcome = crunch(saved(photo(90, 60), "PNG"), Limits())
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            data = outcome.pictures["png"]["large"][1]
            await tools.public_bucket.put(
                key=public_key(avatar_id, "large"),
                body=BytesBody(data),
                length=len(data),
                content_type="image/png",
            )
        about = (await self.quarantine(avatar_id)).json
        self.assertEqual(about["pixels_digest"], outcome.pixels)

    async def test_pictures_without_a_row(self) -> None:
        """Pictures whose row is gone are removed, too; an id with neither is an error."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.store.delete(avatar_id=avatar_id, uid=UID, now=1)
            await tools.store.deleted(avatar_id=avatar_id, now=1)
        self.assertEqual(self.objects(), {avatar_id})
        self.assertEqual((await self.quarantine(avatar_id)).json["avatars"], [avatar_id])
        self.assertEqual(self.objects(), set())
        line = await self.error("avatar", "quarantine", new_id(), *WHY)
        self.assertIn("neither row nor picture", line)

    async def test_pictures_that_this_host_may_not_remove(self) -> None:
        """If pictures cannot be removed here, the command waits until a worker has removed them."""
        async with self.service() as tools:
            avatar_id = await self.avatar(tools, source_digest=SOURCE)
        path = self.directory / "var/buckets/fxprofile-public" / public_key(avatar_id)

        def block() -> None:
            # Even root cannot unlink a folder.
            path.unlink()
            (path / "is").mkdir(parents=True)

        await deferToThread(block)
        running = ensureDeferred(self.admin("avatar", "quarantine", avatar_id, *WHY))
        async with self.service() as tools:
            while (await tools.store.avatar(avatar_id=avatar_id)).status is not Status.DELETING:
                await deferLater(reactor, 0.1)
            await tools.store.deleted(avatar_id=avatar_id, now=time.time())
        self.assertIn("1 avatars taken down", (await running).output)

    async def test_the_cdn_is_purged(self) -> None:
        """
        The webhook gets the URLs; if it fails, the status is 1, and the same command purges again
        without another entry.
        """
        server = FakeServer()
        server.answer = lambda seen: Said(500)
        port, url = listen(reactor, server)
        self.addCleanup(port.stopListening)
        cdn = ("--set", f"images.purge_url={url}/purge", "--set", "images.purge_token=s3cret")
        async with self.service() as tools:
            avatar_id = await self.avatar(tools, source_digest=SOURCE)
        ran = await self.quarantine(avatar_id, *cdn, status=1)
        self.assertIs(ran.json["purged"], False)
        self.assertIn("images.purge_url: status 500; run the same command again", ran.errors)
        server.answer = lambda seen: Said(204, body=b"")
        again = (await self.quarantine(avatar_id, *cdn)).json
        self.assertEqual((again["number"], again["purged"]), (ran.json["number"], True))
        for seen in server.seen:
            self.assertEqual(len(seen.members["urls"]), len(VARIANTS))
            self.assertIn(avatar_id, seen.members["urls"][0])
            self.assertEqual(seen.headers.getRawHeaders("Authorization"), ["Bearer s3cret"])

    async def test_the_record(self) -> None:
        """Entries are listed with who, when and why, in force and lifted, and stay on record."""
        await self.admin("migrate")
        self.assertIn("Nothing", (await self.admin("quarantine", "list")).output)
        number = str((await self.quarantine("--sha256", SOURCE)).json["number"])
        (entry,) = (await self.admin("quarantine", "list", "--json")).json["entries"]
        self.assertEqual((entry["created_by"], entry["reason"]), ("Moderator", "not allowed"))
        self.assertEqual((entry["source_digest"], entry["lifted"]), (SOURCE, None))
        self.assertTrue(entry["created"].endswith("Z"))
        lift = ("quarantine", "lift", number, "--reason", "a mistake", "--by", "Boss")
        await self.admin(*lift)
        self.assertIn("lifted already", await self.error(*lift))
        listed = (await self.admin("quarantine", "list", "--json")).json["entries"]
        self.assertEqual(listed, [])
        (entry,) = (await self.admin("quarantine", "list", "--all", "--json")).json["entries"]
        self.assertEqual((entry["lifted_by"], entry["lift_reason"]), ("Boss", "a mistake"))
        self.assertIn("a mistake", (await self.admin("quarantine", "list", "--all")).output)

    async def test_confirmation(self) -> None:
        """Without --yes it lists the avatars and asks; a refusal changes nothing."""
        async with self.service() as tools:
            avatar_id = await self.avatar(tools, source_digest=SOURCE)
        ran = await self.admin(
            "avatar", "quarantine", avatar_id, "--reason", "x", status=1, answers="n\n"
        )
        self.assertIn(avatar_id, ran.output)
        self.assertEqual(self.objects(), {avatar_id})
        self.assertIn("Nothing", (await self.admin("quarantine", "list")).output)

    async def test_wrong_arguments(self) -> None:
        """Neither or both of ID and --sha256, a wrong digest and no reason are usage errors."""
        for arguments in (
            WHY,
            (new_id(), "--sha256", SOURCE, *WHY),
            ("--sha256", "abc", *WHY),
            ("--sha256", SOURCE, "--yes"),
            ("--sha256", SOURCE, "--yes", "--reason", " "),
        ):
            await self.admin("avatar", "quarantine", *arguments, status=2)
        line = await self.error("avatar", "quarantine", "0" * 32, *WHY)
        self.assertIn("default avatar", line)


class ListTests(AdminCase):
    """``avatar list``."""

    async def test_avatars_of_a_user(self) -> None:
        """The avatars of a user are listed, the newest first, with what is selected."""
        async with self.service() as tools:
            old = await ready_avatar(tools)
            new = await ready_avatar(tools)
            await ready_avatar(tools, OTHER)
        found = (await self.admin("avatar", "list", UID, "--json")).json["avatars"]
        self.assertEqual(
            [(a["id"], a["status"], a["selected"]) for a in found],
            [(new, "ready", True), (old, "replaced", False)],
        )
        self.assertIn(f"/a/{new}", (await self.admin("avatar", "list", UID)).output)
        self.assertIn("has no avatars", await self.error("avatar", "list", "c" * 32))
