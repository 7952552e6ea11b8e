"""
Tests of :mod:`fxprofile.uploads.accept`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from fxprofile.crunch.signature import SIGNATURE_BYTES
from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.avatars import Status
from fxprofile.model.errors import (
    BodyMismatch,
    ClientGone,
    ImageRefused,
    QueueError,
    StorageError,
    StoreError,
)
from fxprofile.model.messages import ResultStatus
from fxprofile.uploads.accept import IN_DOUBT_AGE, LOOKUP_WAIT, ORIGINAL_TYPE, Intake
from fxprofile.uploads.outbox import SEND_WAIT
from tests.support.core import ALICE, BOB, JPEG, CoreTestCase, make_id

ID = make_id(1)


class Body:
    """A body of these pieces, which then raises an error if it has one."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = iter(pieces)
        self._error = error
        self.given = 0
        self.closed = 0

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            self.given += 1
            return piece
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


class AcceptTests(CoreTestCase):
    """Uploads without failures."""

    def test_upload_is_stored_and_its_job_sent(self) -> None:
        """An upload stores its original unchanged, adds a row in processing and sends its job."""
        avatar = self.upload()
        self.assertEqual((avatar.id, avatar.uid, avatar.status), (ID, ALICE, Status.PROCESSING))
        self.assertEqual(self.originals.objects, {ID: JPEG})
        self.assertEqual(self.originals.types, {ID: ORIGINAL_TYPE})
        self.assertEqual(self.status(ID), Status.PROCESSING)
        self.assertEqual(self.rows.rows[ID].created, 1_000_000)
        self.assertEqual(self.rows.rows[ID].job_sent, 1_000_000)
        self.assertEqual(self.sent(), [("crunch", ID)])

    def test_order_of_the_steps(self) -> None:
        """The original is stored before the row is added, and the row before the job is sent."""
        self.upload()
        self.assertEqual(self.diary, ["private put", "store accept", "jobs send", "store job_sent"])

    def test_same_bytes_are_two_uploads(self) -> None:
        """Two uploads of the same bytes have two rows and two originals."""
        first, second = self.upload(), self.upload(BOB)
        self.assertNotEqual(first.id, second.id)
        self.assertGreater(second.seq, first.seq)
        self.assertEqual(set(self.originals.objects), {first.id, second.id})

    def test_ids_are_random(self) -> None:
        """The default ids are 32 random hex digits."""
        intake = Intake(
            private=self.private,
            store=self.store,
            outbox=self.outbox,
            invalidator=self.invalidator,
            clock=self.clock,
        )
        ids = {
            self.run_now(intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))).id
            for _ in range(50)
        }
        self.assertEqual(len(ids), 50)
        self.assertEqual({len(avatar_id) for avatar_id in ids}, {32})

    def test_body_is_read_when_the_bucket_reads(self) -> None:
        """No piece of the body is read before the bucket asks for it."""
        body = Body(JPEG, *[b"x" * 1000] * 10)
        held = self.private.hold("put")
        accepting = Deferred.fromCoroutine(
            self.intake.accept(uid=ALICE, body=body, length=len(JPEG) + 10_000)
        )
        self.assertEqual(body.given, 0)
        held.callback(None)
        self.successResultOf(accepting)
        self.assertEqual((body.given, body.closed), (11, 1))


class SupersedingTests(CoreTestCase):
    """Uploads of a user who has others in processing."""

    def accept(self, keep: int) -> None:
        body = BytesBody(JPEG)
        self.run_now(self.intake.accept(uid=ALICE, body=body, length=len(JPEG), keep=keep))

    def test_superseded_original_is_emptied(self) -> None:
        """The original of a superseded upload becomes empty after the newer row is committed."""
        self.upload()
        self.diary.clear()
        self.accept(keep=1)
        self.assertEqual(self.originals.objects, {ID: b"", make_id(2): JPEG})
        self.assertEqual(self.status(ID), Status.REPLACED)
        self.assertEqual(
            self.diary,
            ["private put", "store accept", "jobs send", "store job_sent", "private put"],
        )
        self.assertEqual(self.sent(), [("crunch", ID), ("crunch", make_id(2))])

    def test_original_that_cannot_be_emptied(self) -> None:
        """If an original cannot be emptied, its upload is crunched in vain, then deleted."""
        self.upload()
        self.private.fail("put", StorageError("down"), skip=1)
        self.accept(keep=1)
        self.assertEqual(self.originals.objects, {ID: JPEG, make_id(2): JPEG})
        self.sent()
        self.ready(ID)
        self.assertEqual(self.sent(), [("delete", ID)])
        self.assertIsNone(self.selected())


class RefusalTests(CoreTestCase):
    """Bodies that do not begin like an image."""

    def refuse(self, *pieces: bytes, named: str = "") -> Body:
        body = Body(*pieces)
        length = sum(map(len, pieces))
        error = self.fails_now(
            self.intake.accept(uid=ALICE, body=body, length=length), ImageRefused
        )
        self.assertEqual((error.reason, error.detail), ("unsupported", named))
        self.assertEqual(self.originals.objects, {})
        self.assertEqual(self.rows.rows, {})
        self.assertEqual(self.sent(), [])
        self.assertEqual(body.closed, 1)
        return body

    def test_unknown_signature_is_refused(self) -> None:
        """A body without the signature of an image is refused, and nothing is stored."""
        for data in (b"GIF88a" + b"x" * 100, b"\xff\xd8"):
            self.refuse(data)

    def test_a_well_known_type_is_named(self) -> None:
        """A file of a well-known type that is not accepted is refused by its name."""
        for data, name in (
            (b"<svg/>", "SVG"),
            (b"%PDF-1.7" + b"x" * 100, "PDF"),
            (b"\xff\x0a" + b"x" * 100, "JPEG XL"),
        ):
            self.refuse(data, named=name)

    def test_refused_body_is_not_read_further(self) -> None:
        """The rest of a refused body is not read."""
        body = self.refuse(b"x" * SIGNATURE_BYTES, *[b"y" * 1000] * 10)
        self.assertEqual(body.given, 1)

    def test_signature_in_one_byte_pieces(self) -> None:
        """A signature that arrives byte by byte is accepted, and the original is complete."""
        pieces = [bytes([byte]) for byte in JPEG]
        avatar = self.run_now(self.intake.accept(uid=ALICE, body=Body(*pieces), length=len(JPEG)))
        self.assertEqual(self.originals.objects, {avatar.id: JPEG})

    def test_unknown_signature_in_one_byte_pieces(self) -> None:
        """A wrong signature that arrives byte by byte is refused when it is complete."""
        body = self.refuse(*[b"x"] * 1000)
        self.assertEqual(body.given, SIGNATURE_BYTES)

    def test_image_shorter_than_the_signature_window(self) -> None:
        """An image that is shorter than the bytes checked is accepted."""
        data = b"GIF89a" + b"x" * 4
        self.run_now(self.intake.accept(uid=ALICE, body=Body(data), length=len(data)))
        self.assertEqual(self.originals.objects, {ID: data})

    def test_empty_body_is_refused(self) -> None:
        """An empty body is refused."""
        self.refuse()


class UnacceptedUploadTests(CoreTestCase):
    """Uploads that fail before they are accepted."""

    def assert_nothing_stays(self) -> None:
        self.assertEqual(self.originals.objects, {})
        self.assertEqual(self.rows.rows, {})
        self.assertEqual(self.sent(), [])

    def test_disconnected_client_leaves_nothing(self) -> None:
        """A client that disconnects at any point of its body leaves no object, row or job."""
        for pieces in ((), (b"\xff\xd8",), (JPEG,), (JPEG, b"x" * 1000)):
            body = Body(*pieces, error=ClientGone())
            accepting = self.intake.accept(uid=ALICE, body=body, length=10_000)
            self.fails_now(accepting, ClientGone)
            self.assertEqual(body.closed, 1)
            self.assert_nothing_stays()

    def test_wrong_length_leaves_nothing(self) -> None:
        """A body that is shorter or longer than announced leaves no object, row or job."""
        for length in (len(JPEG) - 1, len(JPEG) + 1):
            accepting = self.intake.accept(uid=ALICE, body=Body(JPEG), length=length)
            self.fails_now(accepting, BodyMismatch)
            self.assert_nothing_stays()

    def test_failed_put_leaves_nothing(self) -> None:
        """An upload whose original cannot be stored leaves no row and no job."""
        self.private.fail("put", StorageError("down"))
        body = Body(JPEG)
        accepting = self.intake.accept(uid=ALICE, body=body, length=len(JPEG))
        self.fails_now(accepting, StorageError)
        self.assertEqual(body.closed, 1)
        self.assert_nothing_stays()


class HangingTests(CoreTestCase):
    """Dependencies that do not respond."""

    def accept(self) -> Deferred[object]:
        return Deferred.fromCoroutine(
            self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        )

    def test_a_hanging_queue_delays_an_upload_only_briefly(self) -> None:
        """An upload is accepted while its job is still being sent, and the job is sent later."""
        held = self.jobs.hold("send")
        accepting = self.accept()
        self.clock.advance(SEND_WAIT - 0.1)
        self.assertNoResult(accepting)
        self.clock.advance(0.1)
        self.successResultOf(accepting)
        self.assertEqual(self.sent(), [])
        held.callback(None)
        self.assertEqual(self.sent(), [("crunch", ID)])
        self.assertIsNotNone(self.rows.rows[ID].job_sent)

    def test_a_lookup_in_doubt_is_brief(self) -> None:
        """An upload in doubt fails if the database does not tell in time whether it has it."""
        self.store.fail("accept", StoreError("lost"), after=True)
        held = self.store.hold("avatar")
        accepting = self.accept()
        self.clock.advance(LOOKUP_WAIT)
        self.failureResultOf(accepting, StoreError)
        self.assertTrue(held.called)
        self.assertEqual(self.sent(), [])


class InDoubtTests(CoreTestCase):
    """Uploads whose commit had an unknown outcome."""

    def accept(self) -> Deferred[object]:
        return Deferred.fromCoroutine(
            self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        )

    def settle(self) -> int:
        return self.run_now(self.intake.resolve_in_doubt())

    def test_committed_although_the_response_was_lost(self) -> None:
        """An upload whose commit succeeded is accepted, even if the response was lost."""
        self.store.fail("accept", StoreError("lost"), after=True)
        self.assertEqual(self.successResultOf(self.accept()).id, ID)
        self.assertEqual(self.sent(), [("crunch", ID)])
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [])

    def test_committed_and_already_finished(self) -> None:
        """
        An in-doubt upload that another process has finished meanwhile is accepted and sends no job.
        """
        for number, outcome in enumerate((ResultStatus.READY, ResultStatus.FAILED), start=1):
            self.store.fail("accept", StoreError("lost"), after=True)
            held = self.store.hold("avatar")
            accepting = self.accept()
            self.apply(make_id(number), outcome, "corrupt")
            held.callback(None)
            self.assertEqual(self.successResultOf(accepting).id, make_id(number))
            self.assertEqual(self.sent(), [])

    def test_uncommitted_upload_is_deleted(self) -> None:
        """
        An upload that was not committed fails for the client, and its original is deleted later.
        """
        self.store.fail("accept", StoreError("down"))
        self.failureResultOf(self.accept(), StoreError)
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.sent(), [])
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_late_commit_keeps_its_original(self) -> None:
        """A commit that becomes visible after the first lookup keeps its original."""
        self.store.fail("accept", StoreError("timeout"))
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(10)
        self.assertEqual(self.settle(), 1)
        self.run_now(self.rows.accept(avatar_id=ID, uid=ALICE, now=1_000_000))
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.originals.objects, {ID: JPEG})

    def test_in_doubt_until_the_database_responds(self) -> None:
        """An upload stays in doubt until the database can be read."""
        self.store.fail("accept", StoreError("lost"), after=True)
        self.store.fail("avatar", StoreError("down"), times=2)
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.originals.objects, {ID: JPEG})
        self.assertEqual(self.sent(), [])

    def test_delete_job_is_retried(self) -> None:
        """A delete job of an in-doubt upload that cannot be sent is retried."""
        self.store.fail("accept", StoreError("down"))
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.jobs.fail("send", QueueError("down"))
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_one_lookup_while_the_database_is_down(self) -> None:
        """While the database is down, many in-doubt uploads cost one failing lookup per run."""
        for _ in range(20):
            self.store.fail("accept", StoreError("down"))
            self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.store.fail("avatar", StoreError("down"), times=20)
        asked = len(self.store.called("avatar"))
        self.assertEqual(self.settle(), 20)
        self.assertEqual(len(self.store.called("avatar")), asked + 1)


class PendingJobTests(CoreTestCase):
    """Accepted uploads whose job cannot be sent at once."""

    def test_job_stays_pending_if_the_queue_fails(self) -> None:
        """An upload whose job cannot be sent is accepted, and its job stays pending."""
        self.jobs.fail("send", QueueError("down"))
        avatar = self.upload()
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)
        self.assertTrue(any("the repair loop will send it" in text for text in self.logged))

    def test_job_stays_pending_if_it_cannot_be_recorded(self) -> None:
        """A job that was sent but not recorded as sent stays pending."""
        self.store.fail("job_sent", StoreError("down"))
        avatar = self.upload()
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)
        self.assertEqual(self.sent(), [("crunch", ID)])
