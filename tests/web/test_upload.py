"""Uploading, as a client sees it."""

from __future__ import annotations

import json
from http import HTTPStatus

from twisted.internet import reactor
from twisted.internet.task import deferLater

from fxprofile.model.avatars import REASONS
from fxprofile.model.errors import QueueError, StorageError
from fxprofile.model.keys import is_id
from fxprofile.model.messages import Job, Op
from tests.web.service import JPEG, ApiCase, account
from tests.web.upload_case import BEARER, CLOSE, IMAGE, UPLOAD


class UploadTests(ApiCase):
    """Uploads that are taken in."""

    async def test_accepted(self) -> None:
        """An upload is answered with its id, its URL, its status and where to ask for it."""
        reply = await self.upload()
        self.assertEqual(reply.status, 201)
        self.assertTrue(is_id(reply.json["id"]))
        self.assertEqual(reply.json["url"], f"http://images.example/a/{reply.json['id']}")
        self.assertEqual(reply.json["status"], "processing")
        self.assertEqual(reply.header("Location"), f"/v1/avatar/upload/{reply.json['id']}")

    async def test_original_and_job(self) -> None:
        """The bytes are in the private bucket under the id, and a job for it on the queue."""
        reply = await self.upload()
        self.assertEqual(self.private.objects, {reply.json["id"]: JPEG})
        (message,) = await self.jobs.receive(max_messages=10, wait=0)
        self.assertEqual(Job.decode(message.body), Job(op=Op.CRUNCH, id=reply.json["id"]))

    async def test_exactly_the_limit(self) -> None:
        """An image of exactly the most bytes allowed is accepted."""
        reply = await self.upload(JPEG + bytes(self.max_bytes - len(JPEG)))
        self.assertEqual(reply.status, 201)

    async def test_queue_failure(self) -> None:
        """An upload whose job cannot be sent stands."""

        async def refuse(*, body: str) -> None:
            raise QueueError("the queue is away")

        self.jobs.send = refuse
        reply = await self.upload()
        self.assertEqual(reply.status, 201)
        row = await self.store.avatar(avatar_id=reply.json["id"])
        self.assertIsNone(row.job_sent)

    async def test_type_by_content(self) -> None:
        """A JPEG that calls itself a PNG is taken for what it is."""
        reply = await self.upload(content_type="image/png")
        self.assertEqual(reply.status, 201)

    async def test_continue(self) -> None:
        """A client that waits for 100 Continue gets it when all is well, and then its answer."""
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

    async def test_keep_alive(self) -> None:
        """Two uploads may follow each other on one connection."""
        one = UPLOAD + BEARER + IMAGE + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
        last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
        replies = await self.raw(one, last, hold=True)
        self.assertEqual(replies.count(b"HTTP/1.1 201 "), 2)

    async def test_piecemeal(self) -> None:
        """An upload that comes byte by byte is taken in."""
        head = UPLOAD + BEARER + IMAGE + b"Connection: close\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(JPEG)
        replies = await self.raw(head, *(JPEG[i : i + 1] for i in range(len(JPEG))), hold=True)
        self.assertIn(b"HTTP/1.1 201 ", replies)
        self.assertEqual(list(self.private.objects.values()), [JPEG])


class RefusedUploadTests(ApiCase):
    """Uploads that are refused: of none of them anything stays."""

    per_hour = 2

    def tearDown(self) -> None:
        self.assertEqual(self.private.objects, {})
        self.assertEqual(self.store.rows, {})

    def accounts(self):
        return (*super().accounts(), account("reader", "c" * 32, "profile"))

    async def refused(self, status: int, errno: int, *pieces: bytes) -> dict:
        """Send a request whose body never comes, and see it refused."""
        replies = await self.raw(*pieces, hold=True)
        head, _, body = replies.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 %d " % status), replies)
        self.assertNotIn(b"100 Continue", replies)
        self.assertIn(b"Strict-Transport-Security: max-age=31536000; includeSubDomains", head)
        answer = json.loads(body)
        self.assertEqual((answer["code"], answer["errno"]), (status, errno))
        self.assertTrue(answer["message"])
        return answer

    async def test_no_token(self) -> None:
        """Without a token the answer is 401, before the body."""
        await self.refused(401, 100, UPLOAD + IMAGE + b"Content-Length: 500\r\n\r\n")

    async def test_no_token_and_continue(self) -> None:
        """A client that waits for 100 Continue gets the refusal instead."""
        await self.refused(
            401, 100, UPLOAD + IMAGE + b"Expect: 100-continue\r\nContent-Length: 500\r\n\r\n"
        )

    async def test_bad_token(self) -> None:
        """A token that nobody knows is 401."""
        await self.refused(
            401, 100, UPLOAD + IMAGE + b"Authorization: Bearer x\r\nContent-Length: 500\r\n\r\n"
        )

    async def test_scope(self) -> None:
        """A token that may only read is 403."""
        await self.refused(
            403,
            100,
            UPLOAD + IMAGE + b"Authorization: Bearer reader\r\nContent-Length: 500\r\n\r\n",
        )

    async def test_too_large(self) -> None:
        """An image that says it is too large is 413, and none of it is read."""
        answer = await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: 10001\r\n\r\n"
        )
        self.assertEqual(answer["maxBytes"], self.max_bytes)

    async def test_absurdly_large(self) -> None:
        """A Content-Length of 300 digits is 413 and no error of ours."""
        await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: " + b"9" * 300 + b"\r\n\r\n"
        )

    async def test_large_body_after_refusal(self) -> None:
        """A client that sends its large body all the same still reads the answer."""
        await self.refused(
            413, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: 3000000\r\n\r\n", bytes(3000000)
        )

    async def test_no_length(self) -> None:
        """Neither Content-Length nor a body is 411."""
        await self.refused(411, 101, UPLOAD + BEARER + IMAGE + CLOSE + b"\r\n")

    async def test_chunked(self) -> None:
        """A chunked body, whose length nobody knows, is 411."""
        await self.refused(
            411, 101, UPLOAD + BEARER + IMAGE + b"Transfer-Encoding: chunked\r\n\r\n"
        )

    async def test_two_lengths(self) -> None:
        """Two Content-Lengths are 400, with the headers of every answer."""
        await self.refused(
            400,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
        )

    async def test_length_and_chunked(self) -> None:
        """Content-Length together with Transfer-Encoding is 400."""
        await self.refused(
            400,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        )

    async def test_negative_length(self) -> None:
        """A Content-Length that is no number is 400."""
        await self.refused(400, 101, UPLOAD + BEARER + IMAGE + b"Content-Length: -5\r\n\r\n")

    async def test_empty(self) -> None:
        """An empty body is 400."""
        await self.refused(400, 101, UPLOAD + BEARER + IMAGE + CLOSE + b"Content-Length: 0\r\n\r\n")

    async def test_multipart(self) -> None:
        """A form is 415, and the message says what to send."""
        answer = await self.refused(
            415,
            101,
            UPLOAD
            + BEARER
            + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 500\r\n\r\n",
        )
        self.assertIn("form", answer["message"])

    async def test_compressed(self) -> None:
        """A compressed body is 415."""
        await self.refused(
            415,
            101,
            UPLOAD + BEARER + IMAGE + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n",
        )

    async def test_other_types(self) -> None:
        """What does not say that it is an image we know is 415."""
        for line in (
            b"",
            b"Content-Type: text/plain\r\n",
            b"Content-Type: image/svg+xml\r\n",
            b"Content-Type: application/x-www-form-urlencoded\r\n",
        ):
            await self.refused(415, 101, UPLOAD + BEARER + line + b"Content-Length: 9\r\n\r\n")

    async def test_expectation(self) -> None:
        """An expectation that nobody knows is 417."""
        await self.refused(
            417, 101, UPLOAD + BEARER + IMAGE + b"Expect: tea\r\nContent-Length: 9\r\n\r\n"
        )

    async def test_not_an_image(self) -> None:
        """A text that calls itself a PNG is 422, and the reason says why."""
        reply = await self.upload(b"hello, I am a text\n" * 20, content_type="image/png")
        self.assertEqual(reply.status, 422)
        self.assertEqual(reply.json["errno"], 103)
        self.assertEqual(reply.json["reason"], "unsupported")
        self.assertEqual(reply.json["message"], REASONS["unsupported"])
        self.assertEqual(reply.phrase.decode(), HTTPStatus.UNPROCESSABLE_ENTITY.phrase)

    async def test_client_goes_away(self) -> None:
        """Of a client that goes away in mid-body nothing stays."""
        await self.raw(UPLOAD + BEARER + IMAGE + b"Content-Length: 5000\r\n\r\n" + JPEG)
        await self.until_counted("aborted")

    async def until_counted(self, outcome: str) -> None:
        sample = self.metrics.uploads.labels(outcome)._value
        for _ in range(3000):
            if sample.get():
                return
            await deferLater(reactor, 0.02)
        self.fail(f"no upload was counted as {outcome}")

    async def test_storage_failure(self) -> None:
        """When the bucket fails, the answer is 503 with 106 and when to come again."""
        self.private.fail_next("put", StorageError("secret detail"))
        reply = await self.upload()
        self.assertEqual((reply.status, reply.json["errno"]), (503, 106))
        self.assertGreaterEqual(int(reply.header("Retry-After")), 1)
        self.assertNotIn("secret", reply.body.decode())
