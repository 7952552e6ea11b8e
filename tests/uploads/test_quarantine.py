"""
Pictures that operators have quarantined: uploads, results, repairs and the CDN.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.deferreds.bodies import BytesBody
from fxprofile.model.avatars import QUARANTINED, QuarantineEntry, Status
from fxprofile.model.errors import Quarantined, QueueError, StoreError
from fxprofile.model.keys import VARIANTS
from fxprofile.model.messages import ResultStatus
from fxprofile.telemetry.metrics import Metrics
from fxprofile.uploads.cdn import TIMEOUT, CdnPurge
from fxprofile.uploads.repair import OUTBOX_AGE, PERIOD, QUARANTINE_AGE
from tests.support.core import ALICE, BOB, JPEG, CoreTestCase, result
from tests.support.fakes.memory_agent import MemoryAgent
from tests.support.fakes.oauth import FakeServer, Said, Seen
from tests.uploads.test_repair import RepairTestCase

SOURCE = hashlib.sha256(JPEG).hexdigest()
PIXELS = "b" * 64


class Purges(CdnPurge):
    """Only records what would be purged."""

    def __init__(self) -> None:
        self.purged: list[str] = []

    async def purge(self, avatar_ids: object) -> None:
        self.purged.extend(avatar_ids)


class QuarantineCase(CoreTestCase):
    """One web process, and entries of the quarantine."""

    def setUp(self) -> None:
        super().setUp()
        self.cdn = self.selection.cdn = Purges()

    def quarantine(self, **digests: str) -> None:
        entry = QuarantineEntry("moderator", "not allowed", **digests)
        self.run_now(self.rows.quarantine(entry=entry, now=self.clock.seconds()))

    def shown(self, avatar_id: str, pixels: str | None = PIXELS) -> None:
        """Apply a ready result with a digest."""
        ready = result(avatar_id, ResultStatus.READY)
        self.run_now(self.selection.apply(replace(ready, pixels=pixels)))

    def row(self, avatar_id: str) -> tuple[Status, str | None]:
        row = self.rows.rows[avatar_id]
        return row.status, row.error


class UploadTests(QuarantineCase):
    """An upload of bytes or pixels that are quarantined."""

    def test_quarantined_bytes_are_refused(self) -> None:
        """Quarantined bytes are refused before a row is added, in however many pieces they come."""
        self.quarantine(source_digest=SOURCE)
        for piece in (7, 4096):
            body = BytesBody(JPEG, piece=piece)
            work = self.intake.accept(uid=BOB, body=body, length=len(JPEG))
            self.fails_now(work, Quarantined)
        self.assertEqual((self.rows.rows, self.sent()), ({}, []))
        self.assertEqual(self.status(self.upload(data=JPEG + b"\0").id), Status.PROCESSING)

    def test_the_original_of_refused_bytes_is_deleted(self) -> None:
        """The next repair sends the delete job of an original whose bytes were refused."""
        self.quarantine(source_digest=SOURCE)
        work = self.intake.accept(uid=ALICE, body=BytesBody(JPEG), length=len(JPEG))
        self.fails_now(work, Quarantined)
        (key,) = self.originals.objects
        self.assertEqual(self.run_now(self.intake.resolve_in_doubt()), 0)
        self.assertEqual(self.sent(), [("delete", key)])

    def test_quarantined_pixels_fail(self) -> None:
        """A result with quarantined pixels fails the upload, and deletes what was published."""
        old = self.upload(data=JPEG + b"\0")
        self.shown(old.id, "0" * 64)
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.sent()
        self.shown(avatar.id)
        self.assertEqual(self.row(avatar.id), (Status.FAILED, QUARANTINED))
        self.assertEqual(self.sent(), [("delete", avatar.id)])
        self.assertEqual(self.selected(), old.id)

    def test_the_cdn_is_purged_after_the_pictures_are_deleted(self) -> None:
        """The CDN is purged when the worker has deleted the pictures, and only of these."""
        self.quarantine(pixels_digest=PIXELS)
        avatar, other = self.upload(), self.upload(uid=BOB)
        self.shown(avatar.id)
        self.apply(other.id, ResultStatus.FAILED, "corrupt")
        self.assertEqual(self.cdn.purged, [])
        for each in (avatar, other):
            self.apply(each.id, ResultStatus.DELETED)
        self.assertEqual(self.cdn.purged, [avatar.id])

    def test_a_failure_between_the_steps(self) -> None:
        """If the failure cannot be stored or the delete job be sent, the result comes again."""
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.sent()
        ready = replace(result(avatar.id, ResultStatus.READY), pixels=PIXELS)
        self.store.fail("failed", StoreError("down"))
        self.fails_now(self.selection.apply(ready), StoreError)
        self.assertEqual(self.row(avatar.id), (Status.PROCESSING, None))
        self.jobs.fail("send", QueueError("down"))
        self.fails_now(self.selection.apply(ready), QueueError)
        self.assertEqual(self.row(avatar.id), (Status.FAILED, QUARANTINED))
        self.shown(avatar.id)
        self.assertEqual(self.row(avatar.id), (Status.FAILED, QUARANTINED))
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_an_upload_that_had_failed(self) -> None:
        """An upload that had failed is quarantined if a repeated job makes it ready."""
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.apply(avatar.id, ResultStatus.FAILED, "crashed")
        self.sent()
        self.shown(avatar.id)
        self.assertEqual(self.row(avatar.id), (Status.FAILED, QUARANTINED))
        self.assertEqual(self.sent(), [("delete", avatar.id)])

    def test_a_digest_that_comes_late(self) -> None:
        """An avatar that became ready without a digest is deleted when the digest arrives."""
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.sent()
        self.shown(avatar.id, None)
        self.assertEqual(self.selected(), avatar.id)
        self.shown(avatar.id)
        self.assertEqual((self.status(avatar.id), self.selected()), (Status.DELETING, None))
        self.assertEqual(set(self.sent()), {("delete", avatar.id)})

    def test_results_of_workers_without_digests(self) -> None:
        """The result of an older worker, which has no digest, is applied."""
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.shown(avatar.id, None)
        self.assertEqual(self.selected(), avatar.id)


class RepairTests(RepairTestCase, QuarantineCase):
    """The repair step that takes down avatars that a quarantine has missed."""

    def test_avatars_with_the_picture_are_taken_down(self) -> None:
        """Avatars that show a newly quarantined picture are deleted, counted and purged."""
        avatar, other = self.upload(), self.upload(uid=BOB, data=JPEG + b"\0")
        for each, pixels in ((avatar, PIXELS), (other, "0" * 64)):
            self.shown(each.id, pixels)
        self.run_after(OUTBOX_AGE)
        self.assertEqual(self.selected(), avatar.id)
        self.sent()
        self.quarantine(pixels_digest=PIXELS)
        self.run_after(PERIOD)
        self.assertEqual((self.status(avatar.id), self.selected()), (Status.DELETING, None))
        self.assertEqual(self.sent(), [("delete", avatar.id)])
        self.assertEqual((self.repaired("quarantine"), self.cdn.purged), (1, [avatar.id]))
        self.assertEqual(self.selected(BOB), other.id)

    def test_pictures_are_deleted_although_a_delete_job_was_lost(self) -> None:
        """The delete job of a quarantined upload is sent again until its result comes."""
        self.quarantine(pixels_digest=PIXELS)
        avatar = self.upload()
        self.shown(avatar.id)
        self.sent()
        self.run_now(self.rows.forget_jobs())
        self.run_after(PERIOD)
        self.assertEqual(self.sent(), [("delete", avatar.id)])
        self.apply(avatar.id, ResultStatus.DELETED)
        self.assertIsNone(self.rows.rows[avatar.id].owed_since)
        self.assertEqual(self.row(avatar.id), (Status.FAILED, QUARANTINED))

    def test_old_entries_are_not_searched(self) -> None:
        """Entries that are older than any upload in flight cost no search."""
        self.quarantine(pixels_digest=PIXELS)
        self.clock.advance(QUARANTINE_AGE + 1)
        avatar = self.upload()
        self.rows.rows[avatar.id].pixels_digest = PIXELS
        self.run_after(PERIOD)
        self.assertEqual(self.status(avatar.id), Status.PROCESSING)


class CdnTests(SynchronousTestCase):
    """The webhook that purges a CDN."""

    def setUp(self) -> None:
        self.clock, self.metrics, self.server = Clock(), Metrics(), FakeServer()
        self.agent = MemoryAgent(self.clock, self.server)
        self.server.answer = lambda seen: Said(204, body=b"")

    def purge(self, token: str | None = None) -> Deferred[str | None]:
        template = "https://images.example/a/{id}"
        url = "https://cdn.example/purge"
        cdn = CdnPurge(self.agent, self.metrics, url, template=template, token=token)
        return Deferred.fromCoroutine(cdn.purge(["a" * 32]))

    def failures(self) -> float | None:
        labels = {"upstream": "cdn"}
        return self.metrics.registry.get_sample_value("fxprofile_upstream_errors_total", labels)

    def seen(self) -> Seen:
        (seen,) = self.server.seen
        return seen

    def test_the_urls_are_posted(self) -> None:
        """The URLs of all sizes are posted as JSON, with the bearer token if there is one."""
        self.assertIsNone(self.successResultOf(self.purge("s3cret")))
        seen = self.seen()
        self.assertEqual((seen.method, seen.path), ("POST", "/purge"))
        self.assertEqual(
            seen.members,
            {"urls": [f"https://images.example/a/{'a' * 32}{s}" for s, _ in VARIANTS.values()]},
        )
        self.assertEqual(seen.headers.getRawHeaders("Authorization"), ["Bearer s3cret"])
        self.assertEqual(self.failures(), 0)

    def test_no_token(self) -> None:
        """Without a token there is no Authorization header."""
        self.successResultOf(self.purge())
        self.assertFalse(self.seen().headers.hasHeader("Authorization"))

    def test_a_webhook_that_fails(self) -> None:
        """A refusal, a refused connection and silence are counted, and returned as one line."""
        self.server.answer = lambda seen: Said(500, body=b"")
        self.assertIn("status 500", self.successResultOf(self.purge("s3cret")))
        self.server.hold = True
        silent = self.purge("s3cret")
        self.clock.advance(TIMEOUT)
        line = self.successResultOf(silent)
        self.agent.is_down = True
        self.assertTrue(self.successResultOf(self.purge("s3cret")))
        self.assertEqual(self.failures(), 3)
        self.assertNotIn("s3cret", line)
