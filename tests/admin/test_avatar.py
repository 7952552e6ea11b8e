"""``fxprofile-admin avatar``."""

from __future__ import annotations

import time

from fxprofile.admin.shared.tools import Tools
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.avatars import Variant
from fxprofile.model.keys import DEFAULT_AVATAR_ID, VARIANTS, new_id, private_key, public_key
from tests.admin.support import AdminCase

UID = "a" * 32
VARIANT = Variant(width=1, height=1, bytes=7)


async def put(tools: Tools, which: str, key: str) -> None:
    """Put an object of seven bytes."""
    await tools.bucket(which).put(
        key=key, body=BytesBody(b"picture"), length=7, content_type="image/png"
    )


async def ready_avatar(tools: Tools, uid: str = UID) -> str:
    """Make an avatar of a user with its pictures."""
    avatar_id = new_id()
    now = time.time()
    await tools.store.accept(avatar_id=avatar_id, uid=uid, now=now)
    for name in VARIANTS:
        await put(tools, "public", public_key(avatar_id, name))
    await tools.store.ready(avatar_id=avatar_id, variants=dict.fromkeys(VARIANTS, VARIANT), now=now)
    return avatar_id


class ShowTests(AdminCase):
    """``avatar show``."""

    async def test_a_ready_avatar_is_shown_with_row_pictures_and_urls(self) -> None:
        """The answer holds the row of an avatar, its objects and the URLs of its pictures."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
        about = (await self.admin("avatar", "show", avatar_id, "--json")).json
        self.assertEqual(
            {key: about[key] for key in ("id", "uid", "status", "error", "selected", "original")},
            {
                "id": avatar_id,
                "uid": UID,
                "status": "ready",
                "error": None,
                "selected": True,
                "original": None,
            },
        )
        self.assertEqual(about["problems"], [])
        self.assertEqual(
            {name: picture["bytes"] for name, picture in about["pictures"].items()},
            dict.fromkeys(VARIANTS, 7),
        )
        self.assertEqual(about["urls"]["small"], f"http://127.0.0.1:1112/a/{avatar_id}_small")
        text = (await self.admin("avatar", "show", avatar_id)).output
        for part in (UID, "ready", "7 B", about["urls"]["large"]):
            self.assertIn(part, text)

    async def test_the_url_of_a_picture_identifies_its_avatar(self) -> None:
        """An avatar is found by the URL of one of its pictures, even with a query."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
        url = f"https://images.example.com/a/{avatar_id}_small?size=1"
        about = (await self.admin("avatar", "show", url, "--json")).json
        self.assertEqual(about["id"], avatar_id)

    async def test_a_ready_avatar_without_a_picture_is_a_problem(self) -> None:
        """A ready avatar that lacks one picture is a problem, and the status is 1."""
        async with self.service() as tools:
            avatar_id = await ready_avatar(tools)
            await tools.public_bucket.delete(keys=[public_key(avatar_id, "large")])
        ran = await self.admin("avatar", "show", avatar_id, status=1)
        self.assertIn("PROBLEM: ready without its pictures (large)", ran.output)

    async def test_an_upload_that_waits_too_long_is_a_problem(self) -> None:
        """
        An upload that has been processing for an hour is a problem that says how long and
        why.
        """
        avatar_id = new_id()
        async with self.service() as tools:
            await put(tools, "private", private_key(avatar_id))
            await tools.store.accept(avatar_id=avatar_id, uid=UID, now=time.time() - 3600)
        about = (await self.admin("avatar", "show", avatar_id, "--json", status=1)).json
        self.assertEqual(about["original"]["bytes"], 7)
        (problem,) = about["problems"]
        self.assertIn("processing for 1 h 0 min, and no job has been sent for it", problem)

    async def test_an_upload_without_original_and_pictures_is_a_problem(self) -> None:
        """A processing upload whose original is gone is reported to fail as lost."""
        avatar_id = new_id()
        async with self.service() as tools:
            await tools.store.accept(avatar_id=avatar_id, uid=UID, now=time.time())
        ran = await self.admin("avatar", "show", avatar_id, status=1)
        self.assertIn("the original is gone", ran.output)

    async def test_a_failed_upload_is_explained(self) -> None:
        """The reason of a failed upload is shown with the message that its user sees."""
        avatar_id = new_id()
        async with self.service() as tools:
            await tools.store.accept(avatar_id=avatar_id, uid=UID, now=time.time())
            await tools.store.failed(avatar_id=avatar_id, reason="corrupt", now=time.time())
        ran = await self.admin("avatar", "show", avatar_id)
        self.assertIn("corrupt: The image is damaged", ran.output)

    async def test_objects_without_a_row_are_a_problem(self) -> None:
        """Objects of an avatar without a row are shown as a problem."""
        avatar_id = new_id()
        async with self.service() as tools:
            await put(tools, "public", public_key(avatar_id))
        about = (await self.admin("avatar", "show", avatar_id, "--json", status=1)).json
        self.assertIsNone(about["status"])
        self.assertIn("without a row", about["problems"][0])

    async def test_an_unknown_avatar_is_an_error(self) -> None:
        """An avatar with neither row nor objects is one line on the standard error."""
        await self.admin("migrate")
        line = await self.error("avatar", "show", new_id())
        self.assertIn("neither row nor object", line)

    async def test_an_invalid_id_is_a_usage_error(self) -> None:
        """Text that is not an avatar id is a usage error; the default avatar is an error."""
        for text in ("abc", "A" * 32, f"{new_id()}_huge", "../../etc/passwd"):
            await self.admin("avatar", "show", text, status=2)
        self.assertIn("default avatar", await self.error("avatar", "show", DEFAULT_AVATAR_ID))

    async def test_showing_creates_no_folder(self) -> None:
        """Showing an avatar does not create the folders of the buckets."""
        await self.admin("migrate")
        await self.error("avatar", "show", new_id())
        self.assertFalse((self.directory / "var/buckets").exists())
