"""The response to an upload, and its status."""

from __future__ import annotations

import hashlib

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fxprofile.model.avatars import REASONS, QuarantineEntry
from fxprofile.model.errors import StoreError
from tests.web.service import JPEG, ApiCase
from tests.web.upload_case import BEARER, IMAGE, UPLOAD


class RateTests(ApiCase):
    """The rate limit of a user."""

    per_hour = 2

    async def test_upload_over_the_limit_is_429(self) -> None:
        """An upload over the limit is 429 with Retry-After; other users are not affected."""
        for _ in range(2):
            self.assertEqual((await self.upload()).status, 201)
        reply = await self.upload()
        self.assertEqual((reply.status, reply.json["errno"]), (429, 114))
        self.assertTrue(0 < int(reply.header("Retry-After")) <= 3600)
        self.assertEqual(str(reply.json["retryAfter"]), reply.header("Retry-After"))
        self.assertEqual((await self.upload(token="bob")).status, 201)

    async def test_429_precedes_the_body(self) -> None:
        """An upload over the limit gets its 429 before its body is read."""
        for _ in range(2):
            await self.upload()
        replies = await self.raw(
            UPLOAD + BEARER + IMAGE + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
            hold=True,
        )
        self.assertTrue(replies.startswith(b"HTTP/1.1 429 "), replies)


class LongPreferencesTests(ApiCase):
    """Preferences that are too long to be read."""

    async def test_long_preferences_are_ignored(self) -> None:
        """A Prefer header of more than 1 KiB is ignored."""
        for prefer in ("wait=" + "0" * 15_000 + "x", "wait=0" + "," * 2000):
            reply = await self.upload(Prefer=prefer)
            self.assertEqual(reply.status, 201)
            self.assertIsNone(reply.header("Preference-Applied"))


class WaitTests(ApiCase):
    """Waiting for the result."""

    wait = 20.0

    def when_accepted(self, then) -> Deferred:
        """Call a function with the id of the next upload when its row exists."""

        before = set(self.store.rows)

        async def watch() -> None:
            while not (added := set(self.store.rows) - before):
                await deferLater(reactor, 0.01)
            (avatar_id,) = added
            await then(avatar_id)

        return Deferred.fromCoroutine(watch())

    async def test_upload_waits_until_ready(self) -> None:
        """An upload waits for its result, and the response says that it is ready."""
        finishing = self.when_accepted(self.finish)
        reply = await self.upload()
        await finishing
        self.assertEqual((reply.status, reply.json["status"]), (201, "ready"))

    async def test_failed_upload_is_422(self) -> None:
        """An image that cannot be processed is 422 with the reason."""
        failing = self.when_accepted(lambda i: self.fail(i, "too_many_pixels"))
        reply = await self.upload()
        await failing
        self.assertEqual((reply.status, reply.json["errno"]), (422, 103))
        self.assertEqual(reply.json["reason"], "too_many_pixels")

    async def test_quarantined_upload_is_422(self) -> None:
        """A quarantined picture is 422, whether its bytes or its pixels are known."""
        digest = hashlib.sha256(JPEG).hexdigest()
        entry = QuarantineEntry("moderator", "not allowed", source_digest=digest)
        number = await self.store.quarantine(entry=entry, now=1)
        replies = [await self.upload()]
        await self.store.lift(number=number, by="moderator", reason="a mistake", now=2)
        failing = self.when_accepted(lambda i: self.fail(i, "quarantined"))
        replies.append(await self.upload())
        await failing
        for reply in replies:
            self.assertEqual((reply.status, reply.json["errno"]), (422, 103))
            self.assertEqual(reply.json["reason"], "quarantined")
            self.assertIn("blocked", reply.json["message"])

    async def test_respond_async_does_not_wait(self) -> None:
        """An upload with Prefer: respond-async gets its response at once."""
        reply = await self.upload(Prefer="respond-async")
        self.assertEqual((reply.status, reply.json["status"]), (201, "processing"))
        self.assertEqual(reply.header("Preference-Applied"), "respond-async")

    async def test_wait_0_does_not_wait(self) -> None:
        """An upload with Prefer: wait=0 gets its response at once."""
        reply = await self.upload(Prefer="respond-async, wait=0")
        self.assertEqual((reply.status, reply.json["status"]), (201, "processing"))

    async def test_preferences_are_parsed(self) -> None:
        """Preferences are parsed by RFC 7240; malformed ones are ignored."""
        for prefer, applied in (
            ("wait=0", "wait=0"),
            ("WAIT = 0", "wait=0"),
            ('wait="00"', "wait=0"),
            ("Respond-Async", "respond-async"),
            ("respond-async; x=y, return=minimal", "respond-async"),
            ("return=minimal, wait=0;x=y, wait=30", "wait=0"),
            ('x="wait=9, y", wait=0', "wait=0"),
            (
                'wait=-1, wait=1.5, wait=x, wait=, wait, x="a, wait=9", respond-async',
                "respond-async",
            ),
        ):
            reply = await self.upload(Prefer=prefer)
            self.assertEqual((reply.status, reply.json["status"]), (201, "processing"), prefer)
            self.assertEqual(reply.header("Preference-Applied"), applied, prefer)

    async def test_wait_is_bounded(self) -> None:
        """A longer wait than 30 seconds is reduced, and Preference-Applied says so."""
        for prefer in ("wait=30", "wait=31", "wait=" + "9" * 900):
            finishing = self.when_accepted(self.finish)
            reply = await self.upload(Prefer=prefer)
            await finishing
            self.assertEqual(reply.header("Preference-Applied"), "wait=30", prefer)

    async def test_result_of_another_process(self) -> None:
        """A result that another web process applied ends the wait."""

        async def elsewhere(avatar_id: str) -> None:
            await self.store.ready(avatar_id=avatar_id, variants={}, now=reactor.seconds())

        finishing = self.when_accepted(elsewhere)
        reply = await self.upload()
        await finishing
        self.assertEqual(reply.json["status"], "ready")

    async def test_store_failure_does_not_refuse(self) -> None:
        """An accepted upload is answered with 201 even if the database fails during the wait."""

        async def away(*, avatar_id: str) -> None:
            raise StoreError("away")

        self.store.avatar = away
        reply = await self.upload(Prefer="wait=1")
        self.assertEqual((reply.status, reply.json["status"]), (201, "processing"))


class StatusTests(ApiCase):
    """The status of an upload."""

    async def status(self, avatar_id: str, token: str = "alice"):
        return await self.ask("GET", f"/v1/avatar/upload/{avatar_id}", token=token)

    async def test_status_follows_the_upload(self) -> None:
        """An upload is processing, then ready, and replaced when a newer one is ready."""
        first = (await self.upload()).json["id"]
        self.assertEqual((await self.status(first)).json["status"], "processing")
        await self.finish(first)
        self.assertEqual((await self.status(first)).json["status"], "ready")
        second = (await self.upload()).json["id"]
        await self.finish(second)
        self.assertEqual((await self.status(first)).json["status"], "replaced")
        self.assertEqual((await self.status(second)).json["status"], "ready")

    async def test_failed_upload_has_a_reason(self) -> None:
        """A failed upload has a reason and a message."""
        avatar_id = (await self.upload()).json["id"]
        await self.fail(avatar_id, "corrupt")
        reply = await self.status(avatar_id)
        self.assertEqual(reply.json["status"], "failed")
        self.assertEqual(reply.json["error"], {"reason": "corrupt", "message": REASONS["corrupt"]})

    async def test_reason_of_a_newer_version_is_crashed(self) -> None:
        """A reason that only a newer version of the service knows is shown as crashed."""
        avatar_id = (await self.upload()).json["id"]
        await self.fail(avatar_id, "too_new")
        reply = await self.status(avatar_id)
        self.assertEqual((reply.status, reply.json["error"]["reason"]), (200, "crashed"))

    async def test_upload_of_another_user_is_404(self) -> None:
        """Another user's upload is 404, like one that does not exist."""
        avatar_id = (await self.upload()).json["id"]
        self.assertEqual((await self.status(avatar_id, token="bob")).status, 404)
        self.assertEqual((await self.status("0" * 31 + "1")).status, 404)
        self.assertEqual((await self.status("../../etc/passwd")).status, 404)

    async def test_deleted_upload_is_404(self) -> None:
        """A deleted upload is 404."""
        avatar_id = await self.avatar_of()
        await self.ask("DELETE", f"/v1/avatar/{avatar_id}")
        self.assertEqual((await self.status(avatar_id)).status, 404)
