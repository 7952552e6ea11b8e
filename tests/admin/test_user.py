"""``fxprofile-admin user``."""

from __future__ import annotations

import time

from fxprofile.model.keys import new_id
from fxprofile.model.messages import Job, Op
from tests.admin.support import AdminCase
from tests.admin.test_avatar import UID, ready_avatar


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
        self.assertEqual(ran.json, {"uid": UID, "deleted": False, "avatars": []})

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

    async def test_an_invalid_uid_is_a_usage_error(self) -> None:
        """Text that cannot be a uid is a usage error."""
        for text in ("", "x" * 65, "a\nb"):
            await self.admin("user", "show", text, status=2)
