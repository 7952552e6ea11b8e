"""``fxprofile-admin user``."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time

from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from fxprofile.model.avatars import Status
from fxprofile.model.keys import VARIANTS, new_id, private_key, public_key
from fxprofile.model.messages import Job, Op
from fxprofile.model.profiles import Profile
from tests.admin.support import AdminCase
from tests.admin.test_avatar import UID, put, ready_avatar


class UserTests(AdminCase):
    """``user``."""

    async def test_a_user_is_shown_with_avatars_newest_first(self) -> None:
        """The profile is shown with every avatar, the newest first, and names are escaped."""
        async with self.service() as tools:
            old = await ready_avatar(tools)
            new = await ready_avatar(tools)
            await tools.store.set_display_name(uid=UID, name="Zoë \u202e\x1b[2J", now=time.time())
        about = (await self.admin("user", "show", UID, "--json")).json
        self.assertEqual(about["display_name"], "Zoë \u202e\x1b[2J")
        self.assertEqual(about["avatar"], new)
        self.assertEqual(
            [(a["id"], a["status"]) for a in about["avatars"]], [(new, "ready"), (old, "replaced")]
        )
        text = (await self.admin("user", "show", UID)).output
        self.assertIn("Zoë \\u202e\\x1b[2J", text)
        self.assertIn(old, text)

    async def test_an_unknown_user_is_an_error_to_show_but_not_to_delete(self) -> None:
        """Showing an unknown user is an error; deleting one changes nothing."""
        await self.admin("migrate")
        self.assertIn("is unknown", await self.error("user", "show", UID))
        ran = await self.admin("user", "delete", UID, "--yes", "--json")
        about = ran.json
        self.assertEqual((about["uid"], about["deleted"]), (UID, False))
        self.assertEqual((about["avatars"], about["profile"]), ([], []))

    async def test_deleting_a_user_removes_the_profile_and_sends_delete_jobs(self) -> None:
        """Deleting removes the profile, sends delete jobs for the avatars, and sends an update."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.store.set_display_name(uid=UID, name="Alice", now=time.time())
            upload = new_id()
            await tools.store.accept(avatar_id=upload, uid=UID, now=time.time())
            other = await ready_avatar(tools, "b" * 32)
            ran = await self.admin(
                "user", "delete", UID, "--yes", "--set=queue.updates_url=http://x/updates"
            )
            self.assertIn("Deleted", ran.output)
            self.assertIn("from cache for another 3600 s", ran.output)
            profile = await tools.store.profile(uid=UID)
            self.assertEqual((profile.display_name, profile.avatar_id), (None, None))
            messages = await tools.jobs_queue.receive(max_messages=10, wait=0)
            self.assertEqual(
                {Job.decode(message.body) for message in messages},
                {Job(op=Op.DELETE, id=avatar_id), Job(op=Op.DELETE, id=upload)},
            )
            self.assertEqual((await tools.store.profile(uid="b" * 32)).avatar_id, other)
        ran = await self.admin("queues", "--json", "--set=queue.updates_url=http://x/updates")
        waiting = {row["name"]: row["waiting"] for row in ran.json["queues"]}
        self.assertEqual(waiting["updates"], 1)

    async def test_deletion_needs_confirmation(self) -> None:
        """Without --yes it shows the user and asks; --json without --yes is a usage error."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
        for answers in ("n\n", "\n", ""):
            ran = await self.admin("user", "delete", UID, answers=answers, status=1)
            self.assertIn(avatar_id, ran.output)
            self.assertIn("Aborted", ran.errors)
        await self.admin("user", "delete", UID, "--json", status=2)
        about = (await self.admin("user", "show", UID, "--json")).json
        self.assertEqual(about["avatar"], avatar_id)
        await self.admin("user", "delete", UID, answers="y\n")
        about = (await self.admin("user", "show", UID, "--json")).json
        self.assertEqual([a["status"] for a in about["avatars"]], ["deleting"])

    async def test_a_receipt_says_what_was_deleted(self) -> None:
        """
        The receipt has what was deleted, when, what the worker has still to remove, and a digest
        of all that; the file is the owner's alone, and an existing one stops the command.
        """
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.store.set_display_name(uid=UID, name="Zoë", now=time.time())
        receipt = self.directory / "receipt.json"
        arguments = ("user", "delete", UID, "--yes", "--json", "--receipt", str(receipt))
        made = (await self.admin(*arguments)).json
        self.assertEqual(json.loads(receipt.read_text()), made)
        self.assertEqual(receipt.stat().st_mode & 0o777, 0o600)
        self.assertEqual(
            (made["profile"], made["avatars"]), (["display_name", "avatar"], [avatar_id])
        )
        self.assertEqual((made["pending"], made["done"]), ([avatar_id], None))
        self.assertNotIn("Zoë", receipt.read_text())
        digest = made.pop("sha256")
        text = json.dumps(made, sort_keys=True, separators=(",", ":"))
        self.assertEqual(digest, hashlib.sha256(text.encode()).hexdigest())
        self.assertIn("exists", await self.error(*arguments))

    async def test_a_deletion_can_wait_for_the_worker(self) -> None:
        """With --wait the receipt is complete once the worker has removed the avatars."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            running = ensureDeferred(
                self.admin("user", "delete", UID, "--yes", "--json", "--wait", "60")
            )
            while (await tools.store.avatar(avatar_id=avatar_id)).status is not Status.DELETING:
                await deferLater(reactor, 0.1)
            await tools.store.deleted(avatar_id=avatar_id, now=time.time())
        made = (await running).json
        self.assertEqual((made["avatars"], made["pending"]), ([avatar_id], []))
        self.assertTrue(made["done"] >= made["at"])

    async def test_a_user_is_named_by_address_in_development(self) -> None:
        """An account for development is found by its address; with fxa, that is an error."""
        alice = "a11ce000a11ce000a11ce000a11ce000"
        async with self.service() as tools:
            await tools.store.set_display_name(uid=alice, name="Alice", now=time.time())
        about = (await self.admin("user", "show", "alice@example.com", "--json")).json
        self.assertEqual((about["uid"], about["display_name"]), (alice, "Alice"))
        line = await self.error("user", "show", "alice@example.com", "--set=identity.driver=fxa")
        self.assertIn("give the uid", line)

    async def test_the_letter_of_the_monogram_is_shown(self) -> None:
        """The letter that is stored for the monogram of a user is shown."""
        async with self.service() as tools:
            await tools.store.set_monogram(profile=Profile(UID), letter="Ж")
        about = (await self.admin("user", "show", UID, "--json")).json
        self.assertEqual(about["monogram"], "Ж")
        self.assertRegex((await self.admin("user", "show", UID)).output, "monogram +Ж")

    async def test_an_invalid_uid_is_a_usage_error(self) -> None:
        """Text that cannot be a uid is a usage error."""
        for text in ("", "x" * 65, "a\nb"):
            await self.admin("user", "show", text, status=2)


class ExportTests(AdminCase):
    """``user export``."""

    async def archive(self) -> tuple[str, str]:
        """Return the ids of a ready avatar and of an upload of a user."""
        async with self.service() as tools:
            ready, upload = await ready_avatar(tools), new_id()
            await put(tools, "private", private_key(upload))
            await put(tools, "public", public_key(ready, "large", "webp"))
            await tools.store.accept(avatar_id=upload, uid=UID, now=time.time())
            await tools.store.set_display_name(uid=UID, name="Zoë", now=time.time())
            await ready_avatar(tools, "b" * 32)
        return ready, upload

    async def test_everything_of_a_user_is_in_the_archive(self) -> None:
        """The archive has the rows, the originals and the pictures of this user, and no others."""
        ready, upload = await self.archive()
        path = self.directory / "user.tar"
        made = (await self.admin("user", "export", UID, "user.tar", "--json")).json
        data = path.read_bytes()
        self.assertEqual(
            (made["bytes"], made["sha256"]), (len(data), hashlib.sha256(data).hexdigest())
        )
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        with tarfile.open(path) as tar:
            self.assertEqual(tar.getnames(), made["members"])
            pictures = {f"avatars/{ready}/{name}.png" for name in VARIANTS}
            others = {f"avatars/{upload}/original", f"avatars/{ready}/large.webp", "profile.json"}
            self.assertEqual(set(tar.getnames()), pictures | others)
            self.assertEqual(tar.extractfile(pictures.pop()).read(), b"picture")
            about = json.load(tar.extractfile("profile.json"))
        self.assertEqual((about["display_name"], about["avatar"]), ("Zoë", ready))
        self.assertEqual({a["id"] for a in about["avatars"]}, {ready, upload})

    async def test_a_failure_leaves_nothing(self) -> None:
        """An existing file, a missing folder and an unreadable object leave no archive behind."""
        await self.archive()
        (self.directory / "there.tar").write_text("mine")
        self.assertIn("exists", await self.error("user", "export", UID, "there.tar"))
        self.assertIn("No such", await self.error("user", "export", UID, "no/where.tar"))
        unreachable = ("--set=storage.driver=s3", "--set=storage.endpoint_url=http://127.0.0.1:1")
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        await self.error("user", "export", UID, "new.tar", *unreachable, **keys)
        files = {path.name for path in self.directory.iterdir()}
        self.assertEqual(files, {"there.tar", "var"})
        self.assertEqual((self.directory / "there.tar").read_text(), "mine")
        self.assertIn("is unknown", await self.error("user", "export", "c" * 32, "new.tar"))
