"""``fxprofile-admin orphans``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fxprofile.admin.shared.tools import Tools, avatar_records
from fxprofile.drivers.sql.schema import avatars
from fxprofile.model.keys import new_id, private_key, public_key, public_keys
from fxprofile.model.messages import Job, Op
from tests.admin.support import AdminCase
from tests.admin.test_avatar import UID, put, ready_avatar
from tests.support.servers import mariadb, postgresql

DAYS = 3 * 86400


class OrphansTests(AdminCase):
    """``orphans`` on the embedded drivers."""

    async def orphan(self, tools: Tools) -> str:
        """Put pictures that have no row."""
        avatar_id = new_id()
        for key in public_keys(avatar_id, ["png"]):
            await put(tools, "public", key)
        return avatar_id

    def grow_old(self) -> None:
        """Make every object some days old."""
        then = time.time() - DAYS
        for path in Path(self.directory / "var/buckets").rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))

    async def jobs(self, tools: Tools) -> list[Job]:
        """Receive the jobs on the queue."""
        messages = await tools.jobs_queue.receive(max_messages=10, wait=0)
        return [Job.decode(message.body) for message in messages]

    async def test_without_findings_the_figures_are_printed(self) -> None:
        """Without findings it prints how much it has read, and that all is well."""
        async with self.service() as tools:
            await ready_avatar(tools)
        self.grow_old()
        ran = await self.admin("orphans")
        self.assertEqual(
            ran.output,
            "Read 1 rows, the pictures of 1 avatars, and 0 originals.\n\nAll is well.\n",
        )

    async def test_orphans_are_listed_and_kept(self) -> None:
        """Old objects without a row are listed; without --delete nothing happens to them."""
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

    async def test_delete_sends_a_job_for_each_orphan(self) -> None:
        """With --delete a delete job is sent for each orphan, and their number is printed."""
        async with self.service() as tools:
            await ready_avatar(tools)
            avatar_id = await self.orphan(tools)
            self.grow_old()
            ran = await self.admin("orphans", "--delete", "--yes")
            self.assertIn("Sent 1 delete jobs", ran.output)
            self.assertEqual(await self.jobs(tools), [Job(op=Op.DELETE, id=avatar_id)])

    async def test_deletion_needs_confirmation(self) -> None:
        """Without --yes it lists the orphans and asks; --json without --yes is a usage error."""
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

    async def test_more_orphans_than_allowed_are_not_deleted(self) -> None:
        """If more than 1 % of the avatars are orphans, none is deleted unless --most allows it."""
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

    async def test_a_ready_avatar_without_a_picture_is_a_problem(self) -> None:
        """A ready avatar that lacks a picture is a problem, with and without --delete."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.public_bucket.delete(keys=[public_key(avatar_id, "large")])
            ran = await self.admin("orphans", "--json", status=1)
            (about,) = ran.json["broken"]
            self.assertEqual((about["avatar"], about["uid"]), (avatar_id, UID))
            self.assertEqual(about["missing"], [public_key(avatar_id, "large")])
            ran = await self.admin("orphans", "--delete", "--yes", status=1)
            self.assertIn("PROBLEM: 1 ready avatars lack", ran.output)

    async def test_the_list_is_limited_and_the_total_is_not(self) -> None:
        """The list is limited by --limit, and the total counts all."""
        async with self.service() as tools:
            for _ in range(3):
                await self.orphan(tools)
            self.grow_old()
        ran = await self.admin("orphans", "--limit=1", status=1)
        self.assertIn("… and 2 more", ran.output)
        about = (await self.admin("orphans", "--limit=1", "--json", status=1)).json
        self.assertEqual((about["orphans_total"], len(about["orphans"])), (3, 1))

    async def test_numbers_below_the_minimum_are_usage_errors(self) -> None:
        """A grace below an hour and limits below 1 are usage errors."""
        for option in ("--grace=0", "--most=0", "--limit=0"):
            await self.admin("orphans", option, status=2)

    async def test_without_a_database_nothing_is_created(self) -> None:
        """Without a database it fails, names migrate, and creates nothing."""
        self.assertIn("run fxprofile-admin migrate", await self.error("orphans"))
        self.assertFalse((self.directory / "var").exists())


class MariadbOrphansTests(AdminCase):
    """``orphans`` on MariaDB."""

    skip = mariadb.missing()
    server = mariadb

    async def test_rows_are_read_in_the_order_of_their_ids(self) -> None:
        """Rows of a database server are read in the order of their ids, a page at a time."""
        self.settings = {"database.url": self.server.shared().new_database()}
        async with self.service() as tools:
            ids = [await ready_avatar(tools, f"{number:032x}") for number in range(5)]
            await tools.public_bucket.delete(keys=[public_key(ids[0], "small")])
            found, after = [], ""
            while page := await avatar_records(tools, avatars.c.id > after, limit=2):
                found += page
                after = page[-1].id
            self.assertEqual([row.id for row in found], sorted(ids))
            about = (await self.admin("orphans", "--json", status=1)).json
            self.assertEqual([broken["avatar"] for broken in about["broken"]], [ids[0]])
            self.assertEqual(about["looked_at"], {"rows": 5, "pictures": 5, "originals": 0})


class PostgresqlOrphansTests(MariadbOrphansTests):
    """``orphans`` on PostgreSQL."""

    skip = postgresql.missing()
    server = postgresql
