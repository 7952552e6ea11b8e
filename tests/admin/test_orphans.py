"""``fxprofile-admin orphans``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fxprofile.admin.shared.lookups import avatar_records
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.sql.schema import avatars
from fxprofile.model.keys import new_id, private_key, public_key, public_keys
from fxprofile.model.messages import Job, Op
from tests.admin.support import AdminCase
from tests.admin.test_avatar import UID, put, ready_avatar
from tests.support.servers import mariadb, postgresql

DAYS = 3 * 86400


class OrphansTests(AdminCase):
    """What it shows, and what it lets be deleted."""

    async def orphan(self, tools: Tools) -> str:
        """Pictures that have no row."""
        avatar_id = new_id()
        for key in public_keys(avatar_id, ["png"]):
            await put(tools, "public", key)
        return avatar_id

    def grow_old(self) -> None:
        """All objects have been there for some days."""
        then = time.time() - DAYS
        for path in Path(self.directory / "var/buckets").rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))

    async def jobs(self, tools: Tools) -> list[Job]:
        """The jobs on the queue."""
        messages = await tools.needed_queue("jobs").receive(max_messages=10, wait=0)
        return [Job.decode(message.body) for message in messages]

    async def test_well(self) -> None:
        """If there are none it says so, and how much it has looked at."""
        async with self.service() as tools:
            await ready_avatar(tools)
        self.grow_old()
        ran = await self.admin("orphans")
        self.assertEqual(
            ran.output,
            "Read 1 rows, the pictures of 1 avatars, and 0 originals.\n\nAll is well.\n",
        )

    async def test_found(self) -> None:
        """Orphans are listed, and nothing happens to them unless it is asked for."""
        async with self.service() as tools:
            avatar_id = await self.orphan(tools)
            original = new_id()
            await put(tools, "private", private_key(original))
            self.grow_old()
            young = await self.orphan(tools)
            about = (await self.admin("orphans", "--json", status=1)).json
            self.assertEqual(about["looked_at"], {"rows": 0, "pictures": 2, "originals": 1})
            by_id = {orphan["avatar"]: orphan for orphan in about["orphans"]}
            self.assertEqual(set(by_id), {avatar_id, original})
            self.assertEqual(
                sorted(by_id[avatar_id]["objects"]), sorted(public_keys(avatar_id, ["png"]))
            )
            self.assertEqual(by_id[avatar_id]["bytes"], 21)
            self.assertIsNone(by_id[avatar_id]["row"])
            self.assertIsNone(about["sent"])
            ran = await self.admin("orphans", status=1)
            self.assertIn(avatar_id, ran.output)
            self.assertNotIn(young, ran.output)
            self.assertIn("2 orphans: --delete", ran.output)
            self.assertEqual(await self.jobs(tools), [])

    async def test_delete(self) -> None:
        """With --delete each gets a delete job, and the number is the answer."""
        async with self.service() as tools:
            await ready_avatar(tools)
            avatar_id = await self.orphan(tools)
            self.grow_old()
            ran = await self.admin("orphans", "--delete", "--yes")
            self.assertIn("Sent 1 delete jobs", ran.output)
            self.assertEqual(await self.jobs(tools), [Job(op=Op.DELETE, id=avatar_id)])

    async def test_asks(self) -> None:
        """Without --yes it shows what it would delete, and asks; a machine has to say it."""
        async with self.service() as tools:
            avatar_id = await self.orphan(tools)
            self.grow_old()
            ran = await self.admin("orphans", "--delete", answers="n\n", status=1)
            self.assertIn(avatar_id, ran.output)
            self.assertEqual(await self.jobs(tools), [])
            await self.admin("orphans", "--delete", "--json", status=2)
            ran = await self.admin("orphans", "--delete", answers="y\n")
            self.assertEqual(ran.output.count(avatar_id), 1)
            self.assertEqual(len(await self.jobs(tools)), 1)

    async def test_too_many(self) -> None:
        """
        More than one in a hundred may be the wrong database: none is deleted, until the
        operator names a number.
        """
        async with self.service() as tools:
            await ready_avatar(tools)
            for _ in range(2):
                await self.orphan(tools)
            self.grow_old()
            ran = await self.admin("orphans", "--delete", "--yes", status=1)
            self.assertEqual(len(ran.errors.splitlines()), 1)
            self.assertIn("nothing was deleted: 2 orphans of 3 avatars", ran.errors)
            self.assertIn("profile.db", ran.errors)
            self.assertIn("--most=2", ran.errors)
            await self.admin("orphans", "--delete", "--yes", "--most=1", status=1)
            self.assertEqual(await self.jobs(tools), [])
            ran = await self.admin("orphans", "--delete", "--yes", "--json", "--most=2")
            self.assertEqual(ran.json["sent"], 2)
            self.assertEqual(len(await self.jobs(tools)), 2)

    async def test_broken(self) -> None:
        """A ready avatar without one of its pictures is a problem that --delete cannot solve."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.bucket("public").delete(keys=[public_key(avatar_id, "large")])
            ran = await self.admin("orphans", "--json", status=1)
            (about,) = ran.json["broken"]
            self.assertEqual((about["avatar"], about["uid"]), (avatar_id, UID))
            self.assertEqual(about["missing"], [public_key(avatar_id, "large")])
            ran = await self.admin("orphans", "--delete", "--yes", status=1)
            self.assertIn("PROBLEM: 1 ready avatars lack", ran.output)

    async def test_limit(self) -> None:
        """Of very many it lists some, and counts all."""
        async with self.service() as tools:
            for _ in range(3):
                await self.orphan(tools)
            self.grow_old()
        ran = await self.admin("orphans", "--limit=1", status=1)
        self.assertIn("… and 2 more", ran.output)
        about = (await self.admin("orphans", "--limit=1", "--json", status=1)).json
        self.assertEqual((about["orphans_total"], len(about["orphans"])), (3, 1))

    async def test_wrong_options(self) -> None:
        """A grace shorter than an upload takes is refused, as is deleting at most none."""
        for option in ("--grace=0", "--most=0", "--limit=0"):
            await self.admin("orphans", option, status=2)

    async def test_no_database(self) -> None:
        """Without a database nothing is concluded, and nothing is made."""
        self.assertIn("run fxprofile-admin migrate", await self.error("orphans"))
        self.assertFalse((self.directory / "var").exists())


class MariadbOrphansTests(AdminCase):
    """On MariaDB."""

    skip = mariadb.missing()
    server = mariadb

    async def test_found(self) -> None:
        """Rows come in the order of the ids there too, a page at a time."""
        self.settings = {"database.url": self.server.shared().new_database()}
        async with self.service() as tools:
            ids = [await ready_avatar(tools, f"{number:032x}") for number in range(5)]
            await tools.bucket("public").delete(keys=[public_key(ids[0], "small")])
            found, after = [], ""
            while page := await avatar_records(tools, avatars.c.id > after, limit=2):
                found += page
                after = page[-1].id
            self.assertEqual([row.id for row in found], sorted(ids))
            about = (await self.admin("orphans", "--json", status=1)).json
            self.assertEqual([broken["avatar"] for broken in about["broken"]], [ids[0]])
            self.assertEqual(about["looked_at"], {"rows": 5, "pictures": 5, "originals": 0})


class PostgresqlOrphansTests(MariadbOrphansTests):
    """On PostgreSQL."""

    skip = postgresql.missing()
    server = postgresql
