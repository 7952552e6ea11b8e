"""
The contract of profile stores: pictures that operators have quarantined.
"""

from __future__ import annotations

from typing import Any

from fxprofile.model.avatars import QUARANTINED, QuarantineEntry, Status
from fxprofile.model.errors import Quarantined
from fxprofile.model.keys import new_id
from tests.contracts.store_case import OTHER, PICTURES, UID, StoreCase

SOURCE, PIXELS = "5" * 64, "b" * 64
#: Other digests, which are quarantined nowhere.
HARMLESS = "0" * 64


def entry(**members: str) -> QuarantineEntry:
    return QuarantineEntry(created_by="moderator", reason="not allowed", **members)


class QuarantineContract(StoreCase):
    """What an entry of the quarantine refuses and finds, and until when."""

    async def accepted(self, store: Any, source: str | None = SOURCE, uid: str = UID) -> str:
        """Accept an upload with this digest, and return its id."""
        avatar_id = new_id()
        row = await store.accept(avatar_id=avatar_id, uid=uid, now=1, source_digest=source)
        self.assertEqual(row.avatar.source_digest, source)
        self.assertEqual(await store.avatar(avatar_id=avatar_id), row.avatar)
        return avatar_id

    async def ready(self, store: Any, avatar_id: str, pixels: str | None = PIXELS) -> Any:
        return await store.ready(
            avatar_id=avatar_id, variants=PICTURES, now=2, pixels_digest=pixels
        )

    async def refuses(self, work: Any) -> None:
        with self.assertRaises(Quarantined) as caught:
            await work
        self.assertEqual(caught.exception.reason, QUARANTINED)

    async def found(self, store: Any, since: float = 0) -> set[str]:
        return {avatar.id for avatar in await store.quarantined(since=since, limit=100)}

    async def test_quarantined_bytes_are_refused(self) -> None:
        """An upload of quarantined bytes adds no row, for any user; other uploads are accepted."""
        store = await self.make_store()
        await store.quarantine(entry=entry(source_digest=SOURCE, pixels_digest=PIXELS), now=1)
        for uid in (UID, OTHER):
            await self.refuses(self.accepted(store, uid=uid))
            self.assertIsNone((await store.current_avatar(uid=uid)).pending)
        await self.accepted(store, HARMLESS)
        await self.accepted(store, None)

    async def test_quarantined_pixels_are_refused(self) -> None:
        """A ready result with quarantined pixels changes nothing; the upload can then fail."""
        store = await self.make_store()
        await store.quarantine(entry=entry(pixels_digest=PIXELS), now=1)
        avatar_id = await self.accepted(store)
        await self.refuses(self.ready(store, avatar_id))
        row = await store.avatar(avatar_id=avatar_id)
        self.assertEqual((row.status, await self.selected(store)), (Status.PROCESSING, None))
        row = await store.failed(avatar_id=avatar_id, reason=QUARANTINED, now=3)
        self.assertEqual((row.status, row.error), (Status.FAILED, QUARANTINED))

    async def test_an_upload_that_was_accepted_before_the_quarantine(self) -> None:
        """An upload whose bytes were quarantined while it was processed does not become ready."""
        store = await self.make_store()
        avatar_id = await self.accepted(store)
        await store.quarantine(entry=entry(source_digest=SOURCE), now=2)
        await self.refuses(self.ready(store, avatar_id, pixels=None))

    async def test_a_quarantined_upload_stays_failed(self) -> None:
        """An upload that failed as quarantined never becomes ready, even after that is lifted."""
        store = await self.make_store()
        avatar_id = await self.accepted(store)
        number = await store.quarantine(entry=entry(pixels_digest=PIXELS), now=1)
        await store.failed(avatar_id=avatar_id, reason=QUARANTINED, now=2)
        self.assertIs(await store.lift(number=number, by="x", reason="y", now=3), True)
        await self.refuses(self.ready(store, avatar_id))

    async def test_a_late_digest_of_a_ready_avatar(self) -> None:
        """A second ready result, with quarantined pixels, is refused although the first was not."""
        store = await self.make_store()
        await store.quarantine(entry=entry(pixels_digest=PIXELS), now=1)
        avatar_id = await self.accepted(store)
        self.assertIs((await self.ready(store, avatar_id, pixels=None)).avatar.status, Status.READY)
        await self.refuses(self.ready(store, avatar_id))
        self.assertIs((await self.ready(store, avatar_id, HARMLESS)).avatar.status, Status.READY)

    async def test_lifting(self) -> None:
        """A lifted entry refuses nothing; it is lifted once, and others stay in force."""
        store = await self.make_store()
        first = await store.quarantine(entry=entry(source_digest=SOURCE), now=1)
        second = await store.quarantine(entry=entry(source_digest=SOURCE), now=1)
        self.assertNotEqual(first, second)
        self.assertIs(await store.lift(number=first, by="x", reason="y", now=2), True)
        self.assertIs(await store.lift(number=first, by="x", reason="y", now=2), False)
        self.assertIs(await store.lift(number=second + 7, by="x", reason="y", now=2), False)
        await self.refuses(self.accepted(store))
        self.assertIs(await store.lift(number=second, by="x", reason="y", now=2), True)
        await self.accepted(store)
        self.assertEqual(await self.found(store), set())

    async def test_avatars_with_a_quarantined_picture_are_found(self) -> None:
        """Avatars of every user with the bytes or the pixels of an entry are found, or by id."""
        store = await self.make_store()
        same_bytes = await self.accepted(store)
        same_pixels = await self.accepted(store, HARMLESS, uid=OTHER)
        await self.ready(store, same_pixels)
        named = await self.accepted(store, None, uid="c" * 32)
        await self.accepted(store, HARMLESS, uid="d" * 32)
        self.assertEqual(await self.found(store), set())
        digests = {"source_digest": SOURCE, "pixels_digest": PIXELS}
        await store.quarantine(entry=entry(**digests, avatar_id=named), now=10)
        self.assertEqual(await self.found(store), {same_bytes, same_pixels, named})
        self.assertEqual(await self.found(store, since=11), set())
        self.assertEqual(len(await store.quarantined(since=0, limit=2)), 2)

    async def test_avatars_without_public_pictures_are_not_found(self) -> None:
        """
        Avatars that failed as quarantined, deleted ones, and replaced ones without objects are not
        found.
        """
        store = await self.make_store()
        failed, deleting, old = [await self.accepted(store) for _ in range(3)]
        await store.failed(avatar_id=failed, reason=QUARANTINED, now=2)
        await store.delete(avatar_id=deleting, uid=UID, now=2)
        await self.ready(store, old)
        await self.upload(store, status=Status.READY)
        await store.quarantine(entry=entry(source_digest=SOURCE), now=10)
        # Its objects are still there.
        self.assertEqual(await self.found(store), {old})
        await store.deleted(avatar_id=old, now=11)
        self.assertEqual(await self.found(store), set())

    async def test_failed_avatars_are_found(self) -> None:
        """An upload that failed for another reason is found: its pictures may have been put."""
        store = await self.make_store()
        failed = await self.accepted(store)
        await store.failed(avatar_id=failed, reason="dead", now=2)
        await store.quarantine(entry=entry(source_digest=SOURCE), now=10)
        self.assertEqual(await self.found(store), {failed})
        self.assertTrue(await store.delete(avatar_id=failed, uid=UID, now=11))
        self.assertEqual(await self.found(store), set())

    async def test_a_quarantined_upload_has_a_delete_job(self) -> None:
        """An upload that fails as quarantined has a pending delete job until that is done."""
        store = await self.make_store()
        processing, failed = await self.accepted(store), await self.accepted(store)
        await store.failed(avatar_id=failed, reason="crashed", now=2)
        for avatar_id in (processing, failed):
            await store.failed(avatar_id=avatar_id, reason=QUARANTINED, now=3)
        rows = await store.unsent(before=10, limit=10)
        self.assertEqual({row.id for row in rows}, {processing, failed})
        self.assertEqual({row.error for row in rows}, {QUARANTINED})
        for avatar_id in (processing, failed):
            row = await store.deleted(avatar_id=avatar_id, now=4)
            self.assertIs(row.status, Status.FAILED)
        self.assertEqual(list(await store.unsent(before=10, limit=10)), [])
        self.assertIs(await store.redelete(avatar_id=failed), True)
        self.assertEqual([row.id for row in await store.unsent(before=10, limit=10)], [failed])
