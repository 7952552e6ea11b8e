"""Reading and deleting avatars over HTTP."""

from __future__ import annotations

from xml.etree import ElementTree

from twisted.internet import reactor

from fxprofile.model.keys import DEFAULT_AVATAR_ID
from fxprofile.model.messages import Job, Op
from tests.web.service import ALICE, ApiCase, account


class AvatarTests(ApiCase):
    """``/v1/avatar``."""

    def accounts(self):
        return (*super().accounts(), account("reader", ALICE, "profile:avatar"))

    async def avatar(self, token: str = "alice", **headers: str):
        return await self.ask(
            "GET",
            "/v1/avatar",
            token=token,
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )

    async def test_default_is_a_monogram(self) -> None:
        """A user without an avatar gets the monogram of their first letter."""
        reply = await self.avatar()
        self.assertEqual(
            reply.json,
            {
                "id": DEFAULT_AVATAR_ID,
                "avatar": "http://api.example/v1/avatar/a",
                "avatarDefault": False,
                "url": "http://api.example/v1/avatar/a",
            },
        )
        self.assertEqual(reply.header("ETag"), f'"{DEFAULT_AVATAR_ID}"')

    async def test_monogram_needs_a_scope(self) -> None:
        """A token that may see neither name nor address gets the letter once another had it."""
        reply = await self.avatar(token="reader")
        self.assertEqual(reply.json["url"], f"http://images.example/a/{DEFAULT_AVATAR_ID}")
        self.assertTrue(reply.json["avatarDefault"])
        whole = await self.avatar()
        reply = await self.avatar(token="reader")
        self.assertEqual(reply.json, whole.json)

    async def test_monogram_has_no_304(self) -> None:
        """A monogram is sent in full, because its letter may change and its ETag does not."""
        for status, token in ((304, "reader"), (200, "alice"), (200, "reader")):
            reply = await self.avatar(token=token, If_None_Match=f'"{DEFAULT_AVATAR_ID}"')
            self.assertEqual(reply.status, status, token)

    async def test_monogram_prefers_the_display_name(self) -> None:
        """The monogram is of the display name before the address."""
        body = '{"displayName": "żółw"}'.encode()
        await self.ask("POST", "/v1/display_name", body=body)
        reply = await self.avatar()
        self.assertEqual(reply.json["url"], "http://api.example/v1/avatar/%C5%BC")

    async def test_finished_upload_is_the_avatar(self) -> None:
        """A finished upload becomes the avatar."""
        avatar_id = await self.avatar_of()
        reply = await self.avatar()
        self.assertEqual(
            reply.json,
            {
                "id": avatar_id,
                "avatar": f"http://images.example/a/{avatar_id}",
                "avatarDefault": False,
                "url": f"http://images.example/a/{avatar_id}",
            },
        )

    async def test_placeholder_of_the_selected_avatar(self) -> None:
        """A selected avatar has its placeholder, also while a newer upload is processed."""
        text = "LEHV6nWB2yk8pyo0adR*.7kCMdnj"
        await self.finish((await self.upload()).json["id"], placeholder=text)
        self.assertEqual((await self.avatar()).json["placeholder"], text)
        await self.upload()
        self.assertEqual((await self.avatar()).json["placeholder"], text)
        await self.ask("DELETE", "/v1/avatar")
        self.assertNotIn("placeholder", (await self.avatar()).json)

    async def test_pending_upload_is_named(self) -> None:
        """
        While a newer upload is processed, the old avatar stays and the upload is named as
        pending.
        """
        old = await self.avatar_of()
        new = (await self.upload()).json["id"]
        reply = await self.avatar(If_None_Match=f'"{old}"')
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.json["id"], old)
        self.assertEqual(reply.json["pending"], {"id": new, "status": "processing"})
        await self.finish(new)
        self.assertEqual((await self.avatar()).json["id"], new)

    async def test_matching_etag_of_an_avatar_gives_304(self) -> None:
        """A request with the current ETag gets 304."""
        avatar_id = await self.avatar_of()
        reply = await self.avatar(If_None_Match=f'W/"x", "{avatar_id}"')
        self.assertEqual((reply.status, reply.body), (304, b""))

    async def test_newest_upload_wins(self) -> None:
        """Of two uploads the newer becomes the avatar, in any order of results."""
        first = (await self.upload()).json["id"]
        second = (await self.upload()).json["id"]
        await self.finish(second)
        await self.finish(first)
        self.assertEqual((await self.avatar()).json["id"], second)

    async def test_delete_by_id(self) -> None:
        """A deleted avatar is gone at once, and a delete job is sent."""
        avatar_id = await self.avatar_of()
        await self.drain()
        reply = await self.ask("DELETE", f"/v1/avatar/{avatar_id}")
        self.assertEqual((reply.status, reply.json), (200, {}))
        self.assertEqual((await self.avatar()).json["id"], DEFAULT_AVATAR_ID)
        jobs = [(job.op, job.id) for job in await self.drain()]
        self.assertEqual(jobs, [(Op.DELETE, avatar_id)])

    async def test_delete_without_id(self) -> None:
        """A delete without an id deletes the current avatar and an upload in progress."""
        old = await self.avatar_of()
        new = (await self.upload()).json["id"]
        await self.drain()
        self.assertEqual((await self.ask("DELETE", "/v1/avatar")).status, 200)
        await self.finish(new)
        reply = await self.avatar()
        self.assertEqual(reply.json["id"], DEFAULT_AVATAR_ID)
        self.assertNotIn("pending", reply.json)
        self.assertEqual({job.id for job in await self.drain()}, {old, new})

    async def test_delete_without_avatar_is_404(self) -> None:
        """Deleting a missing avatar is 404; deleting the default avatar does nothing."""
        self.assertEqual((await self.ask("DELETE", "/v1/avatar")).status, 404)
        self.assertEqual((await self.ask("DELETE", f"/v1/avatar/{'1' * 32}")).status, 404)
        for name in (DEFAULT_AVATAR_ID, "default"):
            reply = await self.ask("DELETE", f"/v1/avatar/{name}")
            self.assertEqual((reply.status, reply.json), (200, {}))

    async def test_delete_of_something_else_than_an_id_is_400(self) -> None:
        """Deleting what is not an id is 400."""
        for name in ("x", "Default", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "%C3%A9"):
            reply = await self.ask("DELETE", f"/v1/avatar/{name}")
            self.assertEqual((reply.status, reply.json["errno"]), (400, 101), name)

    async def test_delete_of_another_user_is_401(self) -> None:
        """Deleting another user's avatar is 401, and it stays."""
        avatar_id = await self.avatar_of()
        reply = await self.ask("DELETE", f"/v1/avatar/{avatar_id}", token="bob")
        self.assertEqual((reply.status, reply.json["errno"]), (401, 100))
        self.assertEqual((await self.avatar()).json["id"], avatar_id)

    async def test_delete_needs_write_scope(self) -> None:
        """A token without a write scope gets 403 for a delete."""
        self.assertEqual((await self.ask("DELETE", "/v1/avatar", token="reader")).status, 403)

    async def drain(self) -> list[Job]:
        jobs = []
        for message in await self.jobs.receive(max_messages=10, wait=0):
            jobs.append(Job.decode(message.body))
            await self.jobs.delete(message=message)
        return jobs

    async def test_new_avatar_is_announced(self) -> None:
        """A new avatar sends a message to the updates queue."""
        await self.avatar_of()
        (message,) = await self.updates.receive(max_messages=10, wait=1)
        self.assertIn(ALICE, message.body)
        self.assertGreater(reactor.seconds(), 0)


_WEEK = "public, max-age=604800"


class MonogramTests(ApiCase):
    """``GET /v1/avatar/{c}``."""

    async def monogram(self, path: str):
        return await self.ask("GET", f"/v1/avatar/{path}", token=None)

    async def test_letters_of_any_script(self) -> None:
        """A letter or digit of any script is an SVG that may be cached for a week."""
        for path, shown in (
            *(("a", "A"), ("A", "A"), ("7", "7"), ("%C3%A9", "É"), ("e%CC%81", "É")),
            *(("%E5%AD%97", "字"), ("%C3%9F", "S"), ("x%CC%84", "X\u0304")),
        ):
            reply = await self.monogram(path)
            self.assertEqual(reply.status, 200)
            self.assertEqual(reply.header("Content-Type"), "image/svg+xml")
            self.assertEqual(reply.header("Cache-Control"), _WEEK)
            root = ElementTree.fromstring(reply.body)
            self.assertEqual("".join(root.itertext()), shown)

    async def test_other_characters_are_a_question_mark(self) -> None:
        """Any other character is a question mark, cacheable as long."""
        for path in ("%3C", "%20", "%22", "-", "%00", "%F0%9F%A6%8A", "%CC%81"):
            reply = await self.monogram(path)
            self.assertEqual((reply.status, reply.header("Cache-Control")), (200, _WEEK), path)
            self.assertEqual("".join(ElementTree.fromstring(reply.body).itertext()), "?")

    async def test_several_characters_are_404(self) -> None:
        """Several characters, and one with very many combining marks, are 404."""
        for path in ("ab", "a-", "0" * 32, "a" + "%CC%81" * 9, "a" + "%CC%A3%CC%81" * 100):
            reply = await self.monogram(path)
            self.assertEqual((reply.status, reply.json["errno"]), (404, 101), path)
