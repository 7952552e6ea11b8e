"""Uploads over HTTP: accepted and refused ones."""

from __future__ import annotations

import json
from http import HTTPStatus

from twisted.internet import reactor
from twisted.internet.task import deferLater

from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import QueueError, StorageError
from fxprofile.model.keys import is_id
from fxprofile.model.messages import Job, Op
from tests.web.service import ALICE, BOB, JPEG, ApiCase, account
from tests.web.upload_case import BEARER, CLOSE, IMAGE, UPLOAD


class UploadTests(ApiCase):
    """Accepted uploads."""

    async def test_response_of_an_upload(self) -> None:
        """
        An upload is answered with its id, URL and status, and Location is the URL of the
        status.
        """
        reply = await self.upload()
        self.assertEqual(reply.status, 201)
        self.assertTrue(is_id(reply.json["id"]))
        self.assertEqual(reply.json["url"], f"http://images.example/a/{reply.json['id']}")
        self.assertEqual(reply.json["status"], "processing")
        self.assertEqual(reply.header("Location"), f"/v1/avatar/upload/{reply.json['id']}")

    async def test_original_and_job_are_stored(self) -> None:
        """An upload is stored in the private bucket under its id, and its job is on the queue."""
        reply = await self.upload()
        self.assertEqual(self.private.objects, {reply.json["id"]: JPEG})
        (message,) = await self.jobs.receive(max_messages=10, wait=0)
        job = Job.decode(message.body)
        self.assertEqual((job.op, job.id), (Op.CRUNCH, reply.json["id"]))

    async def test_largest_upload(self) -> None:
        """An image of exactly the size limit is accepted."""
        reply = await self.upload(JPEG + bytes(self.max_bytes - len(JPEG)))
        self.assertEqual(reply.status, 201)

    async def test_queue_failure_does_not_refuse(self) -> None:
        """An upload whose job cannot be sent is accepted."""

        async def refuse(*, body: str) -> None:
            raise QueueError("the queue is away")

        self.jobs.send = refuse
        reply = await self.upload()
        self.assertEqual(reply.status, 201)
        row = await self.store.avatar(avatar_id=reply.json["id"])
        self.assertIsNone(row.job_sent)

    async def test_account_deleted_while_the_body_arrives(self) -> None:
        """An upload whose account is deleted while its body arrives is refused with 401."""
        head = UPLOAD + BEARER + IMAGE + CLOSE + b"Content-Length: %d\r\n\r\n" % len(JPEG)
        put = self.private.put

        async def delete_first(**arguments: object) -> None:
            await put(**arguments)
            await self.selection.delete_user(ALICE)

        self.private.put = delete_first
        replies = await self.raw(head + JPEG, hold=True)
        self.assertTrue(replies.startswith(b"HTTP/1.1 401 "), replies)
        self.assertIsNone((await self.store.current_avatar(uid=ALICE)).pending)

    async def test_content_decides_the_type(self) -> None:
        """A JPEG that is declared as PNG is accepted."""
        reply = await self.upload(content_type="image/png")
        self.assertEqual(reply.status, 201)

    async def test_continue_then_response(self) -> None:
        """A client that expects 100 Continue gets it before its response."""
        replies = await self.raw(
            UPLOAD
            + BEARER
            + IMAGE
            + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % len(JPEG),
            JPEG,
            hold=True,
        )
        self.assertTrue(replies.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "), replies)

    async def test_uploads_share_a_connection(self) -> None:
        """Two uploads can use one connection."""
        one = UPLOAD + BEARER + IMAGE + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
        last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
        replies = await self.raw(one, last, hold=True)
        self.assertEqual(replies.count(b"HTTP/1.1 201 "), 2)

    async def test_upload_byte_by_byte(self) -> None:
        """An upload that arrives byte by byte is accepted."""
        head = UPLOAD + BEARER + IMAGE + b"Connection: close\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(JPEG)
        replies = await self.raw(head, *(JPEG[i : i + 1] for i in range(len(JPEG))), hold=True)
        self.assertIn(b"HTTP/1.1 201 ", replies)
        self.assertEqual(list(self.private.objects.values()), [JPEG])


class OverloadTests(ApiCase):
    """Uploads while there is too much to do."""

    max_pending = 1

    async def refused(self, errno: int, status: bytes, bearer: bytes = BEARER) -> bytes:
        """Announce an upload that is refused before its body; return the response."""
        head = UPLOAD + bearer + IMAGE + b"Expect: 100-continue\r\nContent-Length: 500\r\n\r\n"
        reply = await self.raw(head, hold=True)
        self.assertTrue(reply.startswith(b"HTTP/1.1 " + status), reply)
        self.assertEqual(json.loads(reply.partition(b"\r\n\r\n")[2])["errno"], errno)
        return reply

    async def test_long_backlog_is_503(self) -> None:
        """
        An upload is 503 with Retry-After before its body is read while too many are pending.
        """
        await self.store.accept(avatar_id="1" * 32, uid=BOB, now=reactor.seconds())
        self.assertIn(b"\r\nRetry-After: 10\r\n", await self.refused(106, b"503 "))
        await self.store.failed(avatar_id="1" * 32, reason="corrupt", now=0)
        await deferLater(reactor, 1)
        self.assertEqual((await self.upload()).status, 201)

    async def test_flood_of_one_user_is_429(self) -> None:
        """An upload is 429 with Retry-After while too many of its user are pending."""
        for number in range(13):
            await self.store.accept(avatar_id=f"{number:032}", uid=ALICE, now=0, keep=3)
        reply = await self.refused(114, b"429 ")
        self.assertIn(b"\r\nRetry-After: ", reply)


class SupersedingTests(ApiCase):
    """Several uploads of one user in processing."""

    async def test_fourth_upload_supersedes_the_first(self) -> None:
        """The fourth upload of a user in processing makes the first one ``replaced``."""
        first, second, *_ = [(await self.upload()).json["id"] for _ in range(4)]
        statuses = [
            (await self.ask("GET", f"/v1/avatar/upload/{avatar_id}")).json["status"]
            for avatar_id in (first, second)
        ]
        self.assertEqual(statuses, ["replaced", "processing"])
        self.assertEqual(self.private.objects[first], b"")


class RefusedUploadTests(ApiCase):
    """Refused uploads, which leave nothing behind."""

    per_hour = 2

    def tearDown(self) -> None:
        self.assertEqual(self.private.objects, {})
        self.assertEqual(self.store.rows, {})

    def accounts(self):
        return (*super().accounts(), account("reader", "c" * 32, "profile"))

    async def refused(self, status: int, errno: int, *pieces: bytes) -> dict:
        """Send a request without its body, and check that it is refused."""
        replies = await self.raw(*pieces, hold=True)
        head, _, body = replies.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 %d " % status), replies)
        self.assertNotIn(b"100 Continue", replies)
        self.assertIn(b"Strict-Transport-Security: max-age=31536000; includeSubDomains", head)
        answer = json.loads(body)
        self.assertEqual((answer["code"], answer["errno"]), (status, errno))
        self.assertTrue(answer["message"])
        return answer

    async def test_missing_token_is_401(self) -> None:
        """An upload without a token is refused with 401 before its body is read."""
        await self.refused(401, 100, UPLOAD + IMAGE + b"Content-Length: 500\r\n\r\n")

    async def test_refusal_replaces_continue(self) -> None:
        """A refused client that expects 100 Continue gets the refusal instead."""
        await self.refused(
            401, 100, UPLOAD + IMAGE + b"Expect: 100-continue\r\nContent-Length: 500\r\n\r\n"
        )

    async def test_unknown_token_is_401(self) -> None:
        """An unknown token is 401."""
        await self.refused(
            401, 100, UPLOAD + IMAGE + b"Authorization: Bearer x\r\nContent-Length: 500\r\n\r\n"
        )

    async def test_read_scope_is_403(self) -> None:
        """A token without a write scope is 403."""
        await self.refused(
            403,
            100,
            UPLOAD + IMAGE + b"Authorization: Bearer reader\r\nContent-Length: 500\r\n\r\n",
        )

    async def test_large_image_is_413(self) -> None:
        """A Content-Length over the limit is 413, and no body is read."""
        answer = await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: 10001\r\n\r\n"
        )
        self.assertEqual(answer["maxBytes"], self.max_bytes)

    async def test_content_length_of_many_digits_is_413(self) -> None:
        """A Content-Length of 300 digits is 413."""
        await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: " + b"9" * 300 + b"\r\n\r\n"
        )

    async def test_refusal_reaches_a_client_that_keeps_sending(self) -> None:
        """A client that sends its large body despite the refusal can read the response."""
        await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: 3000000\r\n\r\n", bytes(3000000)
        )

    async def test_missing_content_length_is_411(self) -> None:
        """An upload without Content-Length is 411."""
        await self.refused(411, 101, UPLOAD + BEARER + IMAGE + CLOSE + b"\r\n")

    async def test_chunked_body_is_411(self) -> None:
        """A chunked body is 411."""
        await self.refused(
            411, 101, UPLOAD + BEARER + IMAGE + b"Transfer-Encoding: chunked\r\n\r\n"
        )

    async def test_two_content_lengths_are_400(self) -> None:
        """Two Content-Length headers are 400, with the headers of every response."""
        await self.refused(
            400,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        )

    async def test_content_length_with_transfer_encoding_is_400(self) -> None:
        """Content-Length with Transfer-Encoding is 400."""
        await self.refused(
            400,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        )

    async def test_negative_content_length_is_400(self) -> None:
        """A negative Content-Length is 400."""
        await self.refused(400, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: -5\r\n\r\n")

    async def test_empty_body_is_400(self) -> None:
        """An empty body is 400."""
        await self.refused(400, 101, UPLOAD + BEARER + IMAGE + CLOSE + b"Content-Length: 0\r\n\r\n")

    async def test_form_is_415(self) -> None:
        """A multipart form is 415, and the message says what to send."""
        answer = await self.refused(
            415,
            101,
            UPLOAD
            + BEARER
            + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 500\r\n\r\n",
        )
        self.assertIn("form", answer["message"])

    async def test_content_encoding_is_415(self) -> None:
        """A compressed body is 415."""
        await self.refused(
            415,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n",
        )

    async def test_other_media_types_are_415(self) -> None:
        """A missing or other Content-Type than that of an image is 415."""
        for line in (
            b"",
            b"Content-Type: text/plain\r\n",
            b"Content-Type: image/svg+xml\r\n",
            b"Content-Type: application/x-www-form-urlencoded\r\n",
        ):
            await self.refused(415, 101, UPLOAD + BEARER + line + b"Content-Length: 9\r\n\r\n")

    async def test_unknown_expectation_is_417(self) -> None:
        """An unknown expectation is 417."""
        await self.refused(
            417, 101, UPLOAD + BEARER + IMAGE + b"Expect: tea\r\nContent-Length: 9\r\n\r\n"
        )

    async def test_text_is_422(self) -> None:
        """A text that is declared as PNG is 422 with a reason."""
        reply = await self.upload(b"hello, I am a text\n" * 20, content_type="image/png")
        self.assertEqual(reply.status, 422)
        self.assertEqual(reply.json["errno"], 103)
        self.assertEqual(reply.json["reason"], "unsupported")
        self.assertEqual(reply.json["message"], REASONS["unsupported"])
        self.assertEqual(reply.phrase.decode(), HTTPStatus.UNPROCESSABLE_ENTITY.phrase)

    async def test_an_unsupported_type_is_named(self) -> None:
        """The message of a refused image names its type if that is a well-known one."""
        heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"x" * 300
        reply = await self.upload(heic, content_type="image/heic")
        self.assertEqual((reply.status, reply.json["reason"]), (422, "unsupported"))
        self.assertEqual(
            reply.json["message"],
            "HEIC images are not accepted; send a JPEG, PNG, GIF, WebP or AVIF image.",
        )

    async def test_disconnect_leaves_nothing(self) -> None:
        """A client that disconnects midway leaves nothing behind."""
        await self.raw(UPLOAD + BEARER + IMAGE + b"Content-Length: 5000\r\n\r\n" + JPEG)
        await self.until_counted("aborted")

    async def until_counted(self, outcome: str) -> None:
        sample = self.metrics.uploads.labels(outcome)._value
        for _ in range(3000):
            if sample.get():
                return
            await deferLater(reactor, 0.02)
        self.fail(f"no upload was counted as {outcome}")

    async def test_storage_failure_is_503(self) -> None:
        """A failure of the bucket is 503 with errno 106 and Retry-After."""
        self.private.fail_next("put", StorageError("secret detail"))
        reply = await self.upload()
        self.assertEqual((reply.status, reply.json["errno"]), (503, 106))
        self.assertGreaterEqual(int(reply.header("Retry-After")), 1)
        self.assertNotIn("secret", reply.body.decode())
