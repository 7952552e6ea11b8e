"""``fxprofile-admin import-fxa``."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.import_fxa.importer import Checkpoint, Place
from fxprofile.model.avatars import Status, Variant
from fxprofile.model.errors import ConfigError
from fxprofile.model.keys import VARIANTS, new_id
from tests.admin.original import ImportCase, Original, uids
from tests.support.servers import mariadb, postgresql
from tests.support.servers.local import PASSWORD, free_port

VARIANT = Variant(width=20, height=10, bytes=7)


class BothTests:
    """Tests for every kind of database."""

    async def test_names_and_avatars_are_imported_once(self) -> None:
        """Names and avatars are imported with their fates, and a second run finds them there."""
        original = await self.original()
        users = uids(8)
        ids = [new_id() for _ in users]
        original.name(users[0], "Zoë 🦊")
        original.name(users[1], None)
        original.name(users[2], "")
        original.name(users[3], "bad\x07name")
        original.avatar(users[0], ids[0])
        original.avatar(users[4], ids[4])
        original.avatar(users[5], ids[5], provider=2)
        original.avatar(users[6], ids[6])
        original.avatar(users[7], ids[7], url="https://profile.example/v1/avatar/%C3%A9")
        async with self.service() as tools:
            await self.put_pictures(tools, ids[0])
            await self.put_pictures(tools, ids[4])
            report = self.directory / "report.csv"
            said = await self.run_import(original, f"--report={report}", status=1)
            self.assertEqual(said["names"], {"imported": 1, "none": 2, "refused": 1})
            self.assertEqual(
                said["avatars"],
                {"imported": 2, "kept elsewhere": 1, "monogram": 1, "pictures missing": 1},
            )
            self.assertEqual(said["not_imported"], 2)
            profile = await tools.store.profile(uid=users[0])
            self.assertEqual((profile.display_name, profile.avatar_id), ("Zoë 🦊", ids[0]))
            self.assertEqual((await tools.store.profile(uid=users[4])).avatar_id, ids[4])
            avatar = await tools.store.avatar(avatar_id=ids[4])
            self.assertEqual((avatar.uid, avatar.status), (users[4], Status.READY))
            for user in (users[1], users[2], users[3], users[5], users[6]):
                profile = await tools.store.profile(uid=user)
                self.assertEqual((profile.display_name, profile.avatar_id), (None, None))
            self.assertEqual((await tools.store.profile(uid=users[7])).monogram, "é")
            self.assertEqual(await tools.store.unsent(before=time.time() + 9, limit=9), [])
            again = await self.run_import(original, status=1)
            self.assertEqual(again["names"], {"none": 2, "refused": 1, "there already": 1})
            self.assertEqual(again["avatars"]["there already"], 2)
            about = (await self.admin("avatar", "show", ids[0], "--json")).json
            self.assertEqual(about["problems"], [])
        rows = list(csv.reader(report.read_text().splitlines()))
        self.assertEqual(
            sorted(row[:4] for row in rows[1:]),
            [
                ["avatar", users[6], ids[6], "pictures missing"],
                ["name", users[3], "", "refused"],
            ],
        )

    async def test_a_dry_run_changes_nothing(self) -> None:
        """A dry run reports what would happen, and changes nothing."""
        original = await self.original()
        (user,) = uids(1)
        avatar_id = new_id()
        original.name(user, "Alice")
        original.avatar(user, avatar_id)
        async with self.service() as tools:
            await self.put_pictures(tools, avatar_id)
            said = await self.run_import(original, "--dry-run", f"--checkpoint={self.directory}/c")
            self.assertEqual(
                (said["dry_run"], said["names"], said["avatars"]),
                (True, {"imported": 1}, {"imported": 1}),
            )
            profile = await tools.store.profile(uid=user)
            self.assertEqual((profile.display_name, profile.avatar_id), (None, None))
            self.assertIsNone(await tools.store.avatar(avatar_id=avatar_id))
        self.assertFalse((self.directory / "c").exists())
        ran = await self.admin("import-fxa", "--dry-run", f"--source={original.url}")
        self.assertIn("dry run", ran.output)

    async def test_changes_at_the_source_are_imported(self) -> None:
        """A second import updates the users who have changed nothing here."""
        original = await self.original()
        named, unnamed, pictured = uids(3)
        old, new = new_id(), new_id()
        original.name(named, "Old")
        original.name(unnamed, "Old")
        original.avatar(pictured, old)
        async with self.service() as tools:
            await self.put_pictures(tools, old)
            await self.put_pictures(tools, new)
            await self.run_import(original)
            original.name(named, "New")
            original.name(unnamed, "")
            original.avatar(pictured, new)
            said = await self.run_import(original)
            self.assertEqual(said["names"], {"updated": 2})
            self.assertEqual(said["avatars"], {"updated": 1})
            self.assertEqual((await tools.store.profile(uid=named)).display_name, "New")
            self.assertIsNone((await tools.store.profile(uid=unnamed)).display_name)
            self.assertEqual((await tools.store.profile(uid=pictured)).avatar_id, new)
            # The old one has a pending delete job, like any avatar that was replaced.
            (pending,) = await tools.store.unsent(before=time.time() + 9, limit=9)
            self.assertEqual((pending.id, pending.status), (old, Status.REPLACED))

    async def test_changes_made_here_win(self) -> None:
        """Names, avatars, uploads and deletions of users here survive an import."""
        original = await self.original()
        renamed, unset, chosen, uploading, deleted = uids(5)
        ids = {user: new_id() for user in (renamed, unset, chosen, uploading, deleted)}
        for user, avatar_id in ids.items():
            original.name(user, "Old")
            original.avatar(user, avatar_id)
        now = time.time()
        async with self.service() as tools:
            store = tools.store
            for avatar_id in ids.values():
                await self.put_pictures(tools, avatar_id)
            await store.set_display_name(uid=renamed, name="Mine", now=now)
            await store.set_display_name(uid=unset, name="Mine", now=now)
            await store.set_display_name(uid=unset, name=None, now=now)
            mine = new_id()
            await store.accept(avatar_id=mine, uid=chosen, now=now)
            await store.ready(avatar_id=mine, variants=dict.fromkeys(VARIANTS, VARIANT), now=now)
            upload = new_id()
            await store.accept(avatar_id=upload, uid=uploading, now=now)
            await store.accept(avatar_id=new_id(), uid=deleted, now=now)
            await store.delete_user(uid=deleted, now=now)
            said = await self.run_import(original)
            self.assertEqual(said["names"], {"changed here": 5})
            self.assertEqual(said["avatars"], {"changed here": 5})
            self.assertEqual((await store.profile(uid=renamed)).display_name, "Mine")
            self.assertIsNone((await store.profile(uid=unset)).display_name)
            self.assertEqual((await store.profile(uid=chosen)).avatar_id, mine)
            self.assertIsNone((await store.profile(uid=deleted)).avatar_id)
            # The upload still wins when it is ready.
            await store.ready(avatar_id=upload, variants=dict.fromkeys(VARIANTS, VARIANT), now=now)
            self.assertEqual((await store.profile(uid=uploading)).avatar_id, upload)

    async def test_an_import_continues_from_its_checkpoint(self) -> None:
        """An import that ended early continues after the uid in its checkpoint."""
        original = await self.original()
        users = uids(5)
        for user in users:
            original.name(user, "Alice")
        original.execute("ALTER TABLE avatar_selected RENAME TO away")
        checkpoint = self.directory / "checkpoint"
        arguments = ("import-fxa", "--batch=2", f"--checkpoint={checkpoint}")
        async with self.service() as tools:
            line = await self.error(*arguments, f"--source={original.url}")
            self.assertIn("avatar_selected", line)
            self.assertIn("run this again to continue", line)
            # It counts first, so nothing was done yet.
            self.assertFalse(checkpoint.exists())
            original.execute("ALTER TABLE away RENAME TO avatar_selected")
            checkpoint.write_text(
                json.dumps({"source": original.name_of_source, "step": "names", "after": users[2]})
            )
            said = await self.run_import(original, *arguments[1:])
            self.assertEqual(said["names"], {"imported": 2})
            self.assertFalse(checkpoint.exists())
            self.assertIsNone((await tools.store.profile(uid=users[2])).display_name)
            self.assertEqual((await tools.store.profile(uid=users[3])).display_name, "Alice")


class ImportTests(BothTests, ImportCase):
    """Into an embedded database, from SQLite in place of MySQL."""

    async def test_every_user_is_imported_with_any_batch_size(self) -> None:
        """With any batch size every user is imported once."""
        original = await self.original()
        users = uids(23)
        for user in users:
            original.name(user, f"User {user}")
        async with self.service() as tools:
            for batch in (1, 7, 23):
                said = await self.run_import(original, f"--batch={batch}")
                self.assertEqual(sum(said["names"].values()), 23)
            for user in users:
                profile = await tools.store.profile(uid=user)
                self.assertEqual(profile.display_name, f"User {user}")

    async def test_monograms_are_counted_apart_from_losses(self) -> None:
        """A dry run and an import of 20 avatars tell 17 monograms from the one lost picture."""
        original = await self.original()
        users = uids(20)
        ids = [new_id() for _ in users]
        for user, avatar_id, letter in zip(users[3:], ids[3:], "aBcdefghijklmno7%", strict=True):
            url = f"https://profile.accounts.example/v1/avatar/{letter}"
            original.avatar(user, avatar_id, url=url.replace("%", "%E5%AD%97"))
        for user, avatar_id in zip(users[:3], ids[:3], strict=True):
            original.avatar(user, avatar_id)
        async with self.service() as tools:
            await self.put_pictures(tools, ids[0])
            await self.put_pictures(tools, ids[1])
            for option in ("--dry-run", "--parallel=4"):
                said = await self.run_import(original, option, status=1)
                self.assertEqual(
                    said["avatars"], {"imported": 2, "monogram": 17, "pictures missing": 1}
                )
                self.assertEqual(said["not_imported"], 1)
                letters = [(await tools.store.profile(uid=user)).monogram for user in users]
                stored = list("aBcdefghijklmno7字") if option != "--dry-run" else [None] * 17
                self.assertEqual(letters, [None] * 3 + stored)

    async def test_monogram_replaces_an_imported_avatar(self) -> None:
        """The avatar of a user who has deleted it at the source is replaced by the monogram."""
        original = await self.original()
        users = uids(2)
        ids = [new_id() for _ in users]
        async with self.service() as tools:
            for user, avatar_id in zip(users, ids, strict=True):
                original.avatar(user, avatar_id)
                await self.put_pictures(tools, avatar_id)
            await self.run_import(original)
            await tools.store.set_display_name(uid=users[1], name="Mine", now=time.time())
            for user in users:
                original.avatar(user, new_id(), url="https://profile.example/v1/avatar/z")
            for _ in range(2):
                said = await self.run_import(original)
                self.assertEqual(said["avatars"], {"changed here": 1, "monogram": 1})
            profile = await tools.store.profile(uid=users[0])
            self.assertEqual((profile.avatar_id, profile.monogram), (None, "z"))
            self.assertEqual((await tools.store.profile(uid=users[1])).avatar_id, ids[1])
            (pending,) = await tools.store.unsent(before=time.time() + 9, limit=9)
            self.assertEqual((pending.id, pending.status), (ids[0], Status.REPLACED))

    async def test_an_avatar_deleted_here_is_not_imported_again(self) -> None:
        """An imported avatar that its user has deleted here is not imported again."""
        original = await self.original()
        (user,) = uids(1)
        avatar_id = new_id()
        original.avatar(user, avatar_id)
        async with self.service() as tools:
            await self.put_pictures(tools, avatar_id)
            await self.run_import(original)
            await tools.selection.delete(uid=user, avatar_id=None)
            for _ in range(2):
                said = await self.run_import(original)
                self.assertEqual(said["avatars"], {"changed here": 1})
                self.assertIsNone((await tools.store.profile(uid=user)).avatar_id)
                # The worker reports that the objects are gone, and so is the row.
                await tools.store.deleted(avatar_id=avatar_id, now=time.time())

    async def test_an_avatar_of_another_user_is_not_imported(self) -> None:
        """A selected avatar that belongs to another user is not imported."""
        original = await self.original()
        user, owner = uids(2)
        avatar_id = new_id()
        original.avatar(user, avatar_id, owner=owner)
        async with self.service() as tools:
            await self.put_pictures(tools, avatar_id)
            said = await self.run_import(original, status=1)
            self.assertEqual(said["avatars"], {"not the user's own": 1})

    async def test_an_unusable_argument_is_one_line_without_the_password(self) -> None:
        """An unusable argument or unreachable source is one line without the password."""
        await self.admin("migrate")
        ran = await self.admin("import-fxa", status=2)
        self.assertIn("--source", ran.errors)
        original = await self.original()
        source = f"--source={original.url}"
        for arguments, said in (
            ((f"--source=oracle://u:{PASSWORD}@h/d",), "--source: must begin with"),
            ((source, "--pictures-from=http://x/a"), "must contain {id}"),
            ((source, "--pictures-from=ftp://x/{id}"), "must be an http, https or s3 URL"),
        ):
            line = await self.error("import-fxa", *arguments, status=2)
            self.assertIn(said, line)
            self.assertNotIn(PASSWORD, line)
        dead = f"mysql+pymysql://u:{PASSWORD}@127.0.0.1:{free_port()}/fxa_profile"
        line = await self.error("import-fxa", f"--source={dead}")
        self.assertIn("--source: mysql", line)
        self.assertNotIn(PASSWORD, line)
        line = await self.error("import-fxa", source, "--report=/proc/none/x")
        self.assertIn("/proc/none/x", line)


class MariadbImportTests(BothTests, ImportCase):
    """From the original's tables on MariaDB, into another database of the server."""

    skip = mariadb.missing()

    def setUp(self) -> None:
        super().setUp()
        self.settings = {"database.url": mariadb.shared().new_database()}

    async def original(self) -> Original:
        return await deferToThread(Original, mariadb.shared().new_database())

    async def test_a_source_without_the_tables_is_one_line(self) -> None:
        """A source without the tables of the profile server is one line that names a table."""
        await self.admin("migrate")
        line = await self.error("import-fxa", f"--source={mariadb.shared().new_database()}")
        self.assertIn("profile' doesn't exist", line)
        self.assertNotIn(PASSWORD, line)


class PostgresqlImportTests(BothTests, ImportCase):
    """Into PostgreSQL."""

    skip = postgresql.missing()

    def setUp(self) -> None:
        super().setUp()
        self.settings = {"database.url": postgresql.shared().new_database()}


class CheckpointTests(SynchronousTestCase):
    """The position of an import, in a file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.checkpoint = Checkpoint(self.path, "mysql://one")

    def test_a_saved_position_is_loaded_until_it_is_removed(self) -> None:
        """A saved position is loaded until the checkpoint is removed."""
        self.assertEqual(self.checkpoint.load(), Place("names", ""))
        self.checkpoint.save(Place("avatars", "ab" * 16))
        self.assertEqual(self.checkpoint.load(), Place("avatars", "ab" * 16))
        self.checkpoint.remove()
        self.checkpoint.remove()
        self.assertEqual(self.checkpoint.load(), Place("names", ""))

    def test_a_file_of_another_import_is_refused(self) -> None:
        """The checkpoint of another source and a malformed file are wrong settings."""
        Checkpoint(self.path, "mysql://two").save(Place("names", ""))
        self.assertRaises(ConfigError, self.checkpoint.load)
        for content in (
            "",
            "[]",
            '{"source": "mysql://one"}',
            '{"step": 1, "after": "zz"}',
            "\xff",
        ):
            self.path.write_text(content, encoding="latin-1")
            self.assertRaises(ConfigError, self.checkpoint.load)

    def test_without_a_file_nothing_is_stored(self) -> None:
        """Without a file no position is stored."""
        checkpoint = Checkpoint(None, "x")
        checkpoint.save(Place("avatars", "ab"))
        checkpoint.remove()
        self.assertEqual(checkpoint.load(), Place("names", ""))
