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
from fxprofile.uploads.accept import IN_DOUBT_AGE, ORIGINAL_TYPE, Intake
from tests.support.core import ALICE, BOB, JPEG, CoreTestCase, make_id

ID = make_id(1)


class Body:
    """
    A body that comes in these pieces, and then fails if it has an error to raise.

    :ivar closed: how often it was closed.
    """

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
    """An upload that nothing disturbs."""

    def test_accepted(self) -> None:
        """The original is kept as it came, the row says processing, and the job is sent."""
        avatar = self.upload()
        self.assertEqual((avatar.id, avatar.uid, avatar.status), (ID, ALICE, Status.PROCESSING))
        self.assertEqual(self.originals.objects, {ID: JPEG})
        self.assertEqual(self.originals.types, {ID: ORIGINAL_TYPE})
        self.assertEqual(self.status(ID), Status.PROCESSING)
        self.assertEqual(self.rows.rows[ID].created, 1_000_000)
        self.assertEqual(self.rows.rows[ID].job_sent, 1_000_000)
        self.assertEqual(self.sent(), [("crunch", ID)])

    def test_order(self) -> None:
        """The original comes before the row, and the row before the job."""
        self.upload()
        self.assertEqual(self.diary, ["private put", "store accept", "jobs send", "store job_sent"])

    def test_each_is_its_own(self) -> None:
        """The same bytes uploaded again are another upload."""
        first, second = self.upload(), self.upload(BOB)
        self.assertNotEqual(first.id, second.id)
        self.assertGreater(second.seq, first.seq)
        self.assertEqual(set(self.originals.objects), {first.id, second.id})

    def test_ids(self) -> None:
        """Unless told otherwise, ids are 128 random bits."""
        intake = Intake(
            private=self.private, store=self.store, outbox=self.outbox, clock=self.clock
        )
        ids = {
            self.run_now(intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))).id
            for _ in range(50)
        }
        self.assertEqual(len(ids), 50)
        self.assertEqual({len(avatar_id) for avatar_id in ids}, {32})

    def test_back_pressure(self) -> None:
        """Nothing of the body is asked for before the bucket takes it."""
        body = Body(JPEG, *[b"x" * 1000] * 10)
        held = self.private.hold("put")
        accepting = Deferred.fromCoroutine(
            self.intake.accept(uid=ALICE, body=body, length=len(JPEG) + 10_000)
        )
        self.assertEqual(body.given, 0)
        held.callback(None)
        self.successResultOf(accepting)
        self.assertEqual((body.given, body.closed), (11, 1))


class RefusalTests(CoreTestCase):
    """Bodies that are not those of an image."""

    def refuse(self, *pieces: bytes) -> Body:
        body = Body(*pieces)
        length = sum(map(len, pieces))
        error = self.fails_now(
            self.intake.accept(uid=ALICE, body=body, length=length), ImageRefused
        )
        self.assertEqual(error.reason, "unsupported")
        self.assertEqual(self.originals.objects, {})
        self.assertEqual(self.rows.rows, {})
        self.assertEqual(self.sent(), [])
        self.assertEqual(body.closed, 1)
        return body

    def test_not_an_image(self) -> None:
        """What does not begin like an image is refused, and leaves nothing."""
        for data in (b"<svg/>", b"GIF88a" + b"x" * 100, b"%PDF-1.7" + b"x" * 100, b"\xff\xd8"):
            self.refuse(data)

    def test_refused_early(self) -> None:
        """The rest of a refused body is never asked for."""
        body = self.refuse(b"x" * SIGNATURE_BYTES, *[b"y" * 1000] * 10)
        self.assertEqual(body.given, 1)

    def test_signature_in_pieces(self) -> None:
        """A signature that comes byte by byte is waited for, and kept whole."""
        pieces = [bytes([byte]) for byte in JPEG]
        avatar = self.run_now(self.intake.accept(uid=ALICE, body=Body(*pieces), length=len(JPEG)))
        self.assertEqual(self.originals.objects, {avatar.id: JPEG})

    def test_not_an_image_in_pieces(self) -> None:
        """A wrong signature that comes byte by byte is refused as soon as it is known."""
        body = self.refuse(*[b"x"] * 1000)
        self.assertEqual(body.given, SIGNATURE_BYTES)

    def test_short(self) -> None:
        """An image may be shorter than the bytes that are looked at."""
        data = b"GIF89a" + b"x" * 4
        self.run_now(self.intake.accept(uid=ALICE, body=Body(data), length=len(data)))
        self.assertEqual(self.originals.objects, {ID: data})

    def test_empty(self) -> None:
        """A body without bytes is no image."""
        self.refuse()


class BrokenUploadTests(CoreTestCase):
    """Uploads that end before they are accepted."""

    def assert_nothing_stays(self) -> None:
        self.assertEqual(self.originals.objects, {})
        self.assertEqual(self.rows.rows, {})
        self.assertEqual(self.sent(), [])

    def test_client_gone(self) -> None:
        """A client that goes away in mid-body leaves nothing, whenever it does."""
        for pieces in ((), (b"\xff\xd8",), (JPEG,), (JPEG, b"x" * 1000)):
            body = Body(*pieces, error=ClientGone())
            accepting = self.intake.accept(uid=ALICE, body=body, length=10_000)
            self.fails_now(accepting, ClientGone)
            self.assertEqual(body.closed, 1)
            self.assert_nothing_stays()

    def test_wrong_length(self) -> None:
        """A body that is shorter or longer than announced leaves nothing."""
        for length in (len(JPEG) - 1, len(JPEG) + 1):
            accepting = self.intake.accept(uid=ALICE, body=Body(JPEG), length=length)
            self.fails_now(accepting, BodyMismatch)
            self.assert_nothing_stays()

    def test_bucket_fails(self) -> None:
        """Without its original an upload gets no row."""
        self.private.fail("put", StorageError("down"))
        body = Body(JPEG)
        accepting = self.intake.accept(uid=ALICE, body=body, length=len(JPEG))
        self.fails_now(accepting, StorageError)
        self.assertEqual(body.closed, 1)
        self.assert_nothing_stays()


class DoubtTests(CoreTestCase):
    """Uploads of which it is not known whether they were accepted."""

    def accept(self) -> Deferred[object]:
        return Deferred.fromCoroutine(
            self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        )

    def settle(self) -> int:
        return self.run_now(self.intake.resolve_in_doubt())

    def test_committed_all_the_same(self) -> None:
        """If only the answer of the database was lost, the upload is accepted."""
        self.store.fail("accept", StoreError("lost"), after=True)
        self.assertEqual(self.successResultOf(self.accept()).id, ID)
        self.assertEqual(self.sent(), [("crunch", ID)])
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [])

    def test_done_by_others(self) -> None:
        """
        If all is done by the time that the row is found, because the repair loop of
        another process was quicker, the upload is accepted all the same.
        """
        for number, outcome in enumerate((ResultStatus.READY, ResultStatus.FAILED), start=1):
            self.store.fail("accept", StoreError("lost"), after=True)
            held = self.store.hold("avatar")
            accepting = self.accept()
            self.apply(make_id(number), outcome, "corrupt")
            held.callback(None)
            self.assertEqual(self.successResultOf(accepting).id, make_id(number))
            self.assertEqual(self.sent(), [])

    def test_not_committed(self) -> None:
        """If there is no row the client is told of a failure, and in the end nothing stays."""
        self.store.fail("accept", StoreError("down"))
        self.failureResultOf(self.accept(), StoreError)
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.sent(), [])
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_committed_late(self) -> None:
        """A commit that comes after the look does not lose its original."""
        self.store.fail("accept", StoreError("timeout"))
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(10)
        self.assertEqual(self.settle(), 1)
        self.run_now(self.rows.accept(avatar_id=ID, uid=ALICE, now=1_000_000))
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [])
        self.assertEqual(self.originals.objects, {ID: JPEG})

    def test_not_known(self) -> None:
        """If the database cannot even be asked, the question stays open until it can."""
        self.store.fail("accept", StoreError("lost"), after=True)
        self.store.fail("avatar", StoreError("down"), times=2)
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.originals.objects, {ID: JPEG})
        self.assertEqual(self.sent(), [])

    def test_queue_fails(self) -> None:
        """If the delete job cannot be sent, it is tried again."""
        self.store.fail("accept", StoreError("down"))
        self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.jobs.fail("send", QueueError("down"))
        self.assertEqual(self.settle(), 1)
        self.assertEqual(self.settle(), 0)
        self.assertEqual(self.sent(), [("delete", ID)])

    def test_one_question_a_time(self) -> None:
        """While the database is down, a thousand open questions cost one failing call."""
        for _ in range(20):
            self.store.fail("accept", StoreError("down"))
            self.failureResultOf(self.accept(), StoreError)
        self.clock.advance(IN_DOUBT_AGE)
        self.store.fail("avatar", StoreError("down"), times=20)
        asked = len(self.store.called("avatar"))
        self.assertEqual(self.settle(), 20)
        self.assertEqual(len(self.store.called("avatar")), asked + 1)


class OwedJobTests(CoreTestCase):
    """Accepted uploads whose job cannot be sent now."""

    def test_queue_fails(self) -> None:
        """The upload stands, and its row owes the job."""
        self.jobs.fail("send", QueueError("down"))
        avatar = self.upload()
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)
        self.assertTrue(any("the repair loop will send it" in text for text in self.logged))

    def test_note_fails(self) -> None:
        """If it cannot be noted that the job was sent, the row owes it once more."""
        self.store.fail("job_sent", StoreError("down"))
        avatar = self.upload()
        self.assertIsNone(self.rows.rows[avatar.id].job_sent)
        self.assertEqual(self.sent(), [("crunch", ID)])
