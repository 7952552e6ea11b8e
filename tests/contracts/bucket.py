"""
The contract of every bucket driver.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from fxprofile.deferreds.bodies import BytesBody, FileBody, read_all
from fxprofile.model.errors import BodyMismatch, ObjectNotFound, StorageError
from fxprofile.model.ports import IBucket, NewObject, ObjectInfo

INVALID_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "a b",
    "a\0b",
    "a\nb",
    "a\n",
    "a\\b",
    "å",
    "a" * 1025,
]


class ScriptedBody:
    """
    A body with a script: bytes are pieces, errors are raised, and Deferreds are awaited.

    :ivar taken: the number of pieces that were read.
    :ivar closed: whether it was closed.
    """

    def __init__(self, *script: bytes | Exception | Deferred[None]) -> None:
        self._script = list(script)
        self.taken = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, Deferred):
                await step
                continue
            if isinstance(step, Exception):
                raise step
            self.taken += 1
            return step
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True
        self._script.clear()


class BucketContract:
    """
    A mixin for a trial ``TestCase``.

    :ivar bucket: an empty bucket, made by ``setUp``.
    """

    bucket: Any

    async def put(self, key: str, data: bytes) -> None:
        await self.bucket.put(
            key=key, body=BytesBody(data), length=len(data), content_type="image/png"
        )

    async def bytes_of(self, key: str) -> bytes:
        _, body = await self.bucket.get(key=key)
        return await read_all(body, 1 << 24)

    async def keys(self, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[str]:
        found = await self.bucket.list(prefix=prefix, after=after, limit=limit)
        return [info.key for info in found]

    async def rejected(self, kind: type[Exception], work: Any) -> Exception:
        """Return the error of the work, which must be of exactly this kind."""
        try:
            result = await work
        except kind as error:
            if type(error) is not kind:
                raise
            return error
        raise AssertionError(f"expected {kind.__name__}, got {result!r}")

    async def test_a_bucket_provides_its_interface(self) -> None:
        """A bucket provides IBucket."""
        verifyObject(IBucket, self.bucket)

    async def test_an_object_is_read_as_it_was_put(self) -> None:
        """An object of any length is read back byte for byte."""
        for length in (0, 1, 65535, 65536, 65537, 300_000):
            data = hashlib.shake_128(b"%d" % length).digest(length)
            await self.put("a/object", data)
            info, body = await self.bucket.get(key="a/object")
            self.assertEqual(await read_all(body, 1 << 24), data)
            self.assertEqual((info.key, info.length), ("a/object", length))

    async def test_several_objects_are_put_at_once(self) -> None:
        """Objects that are put together are read back as they are; again, they are the same."""
        objects = [
            NewObject(key, hashlib.shake_128(key.encode()).digest(length), "image/png")
            for key, length in (("a/1", 0), ("a/2", 70_000), ("more/1", 5), ("single", 1))
        ]
        for some in (objects[:2], objects, []):
            await self.bucket.put_all(objects=some)
            for each in some:
                self.assertEqual(await self.bytes_of(each.key), each.data)
        self.assertEqual(await self.keys(), ["a/1", "a/2", "more/1", "single"])

    async def test_one_of_several_objects_cannot_be_put(self) -> None:
        """If one of several objects cannot be put, that is an error, and a repetition works."""
        objects = [NewObject(key, b"data", "image/png") for key in ("a/1", "..", "a/2")]
        await self.rejected(StorageError, self.bucket.put_all(objects=objects))
        await self.bucket.put_all(objects=[objects[0], objects[2]])
        self.assertEqual(await self.keys(), ["a/1", "a/2"])

    async def test_a_cancelled_put_of_several_has_ended(self) -> None:
        """When a put of several objects is cancelled, none of them appears any more."""
        objects = [NewObject(f"a/{n}", b"data" * 1000, "image/png") for n in range(3)]
        putting = Deferred.fromCoroutine(self.bucket.put_all(objects=objects))
        putting.cancel()
        try:
            await putting
        except CancelledError:
            keys = await self.keys()
            await self.bucket.delete(keys=["a/0"])
            self.assertLessEqual(set(await self.keys()), set(keys))

    async def test_a_body_has_pieces_of_any_size(self) -> None:
        """The pieces of a body may have any size, and be empty."""
        body = ScriptedBody(b"ab", b"", b"c", b"d" * 100_000)
        await self.bucket.put(key="k", body=body, length=100_003, content_type="image/png")
        self.assertEqual(await self.bytes_of("k"), b"abc" + b"d" * 100_000)

    async def test_an_object_is_a_file_if_possible(self) -> None:
        """An object that is opened as a file has the same bytes, whether the body is one or not."""
        for length in (0, 1, 100_000):
            data = hashlib.shake_128(b"%d" % length).digest(length)
            await self.put("a/object", data)
            info, body = await self.bucket.get(key="a/object", as_file=True)
            self.assertEqual(info.length, length)
            if length and isinstance(body, FileBody):
                with body.take() as file:
                    await body.aclose()
                    self.assertEqual(file.read(), data)
                _, body = await self.bucket.get(key="a/object", as_file=True)
            self.assertEqual(await read_all(body, 1 << 24), data)
        await self.put("a/object", b"x" * 100_000)
        _, body = await self.bucket.get(key="a/object", as_file=True)
        await body.aclose()
        with self.assertRaises(ObjectNotFound):
            await self.bucket.get(key="none", as_file=True)

    async def test_a_large_object_is_read_in_pieces(self) -> None:
        """A large object is read in pieces of at most 64 KiB."""
        await self.put("k", b"x" * 1_000_000)
        _, body = await self.bucket.get(key="k")
        sizes = [len(piece) async for piece in body]
        self.assertEqual(sum(sizes), 1_000_000)
        self.assertLessEqual(max(sizes), 65536)
        self.assertGreater(min(sizes), 0)

    async def test_head_agrees_with_get_and_list(self) -> None:
        """Head, get and list report the same ETag and time of an object."""
        await self.put("k", b"12345")
        info = await self.bucket.head(key="k")
        self.assertIsInstance(info, ObjectInfo)
        got, body = await self.bucket.get(key="k")
        await body.aclose()
        [listed] = await self.bucket.list(prefix="k", after="", limit=1)
        self.assertEqual((info.key, info.length), ("k", 5))
        self.assertEqual(got.etag, info.etag)
        self.assertEqual(listed.etag, info.etag)
        self.assertLessEqual(abs(got.modified - info.modified), 1)
        self.assertLessEqual(abs(listed.modified - info.modified), 1)

    async def test_other_bytes_have_another_etag(self) -> None:
        """Objects with other bytes have another ETag, even if they have the same length."""
        tags = set()
        for data in (b"one", b"two", b"four"):
            await self.put("k", data)
            tags.add((await self.bucket.head(key="k")).etag)
        self.assertEqual(len(tags), 3)
        self.assertFalse([tag for tag in tags if '"' in tag])

    async def test_a_put_replaces_an_older_object(self) -> None:
        """A put replaces the older object of its key."""
        await self.put("k", b"older and longer")
        await self.put("k", b"new")
        self.assertEqual(await self.bytes_of("k"), b"new")
        self.assertEqual(await self.keys(), ["k"])

    async def test_a_replaced_object_is_read_whole_or_not(self) -> None:
        """A reader of an object that is replaced or deleted gets the old bytes or an error."""
        old = b"o" * 500_000
        for change in ("replace", "delete"):
            await self.put("k", old)
            _, body = await self.bucket.get(key="k")
            data = await body.__anext__()
            if change == "replace":
                await self.put("k", b"n" * 500_000)
            else:
                await self.bucket.delete(keys=["k"])
            try:
                async for piece in body:
                    data += piece
            except StorageError:
                continue
            finally:
                await body.aclose()
            self.assertEqual(data, old)

    async def test_a_missing_object_is_not_found(self) -> None:
        """Get and head of a key without an object raise ObjectNotFound."""
        await self.put("a/b", b"x")
        for key in ("nothing", "a", "a/c", "a/b/c", "no/where"):
            await self.rejected(ObjectNotFound, self.bucket.get(key=key))
            await self.rejected(ObjectNotFound, self.bucket.head(key=key))

    async def test_a_short_body_is_refused(self) -> None:
        """A body that is shorter than announced is refused, and nothing is stored."""
        put = self.bucket.put(key="k", body=BytesBody(b"1234"), length=5, content_type="image/png")
        await self.rejected(BodyMismatch, put)
        self.assertEqual(await self.keys(), [])

    async def test_a_long_body_is_refused(self) -> None:
        """A body that is longer than announced is refused, and nothing is stored."""
        for pieces in ([b"1234", b"56"], [b"123456"], [b"12345", b"6"]):
            body = ScriptedBody(*pieces)
            put = self.bucket.put(key="k", body=body, length=5, content_type="image/png")
            await self.rejected(BodyMismatch, put)
            self.assertEqual(await self.keys(), [])

    async def test_a_failing_body_stores_nothing(self) -> None:
        """A put raises the error of its body, stores nothing and keeps the old object."""
        for script in ([], [b"abc"], [b"a" * 200_000]):
            put = self.bucket.put(
                key="k",
                body=ScriptedBody(*script, ZeroDivisionError()),
                length=300_000,
                content_type="image/png",
            )
            await self.rejected(ZeroDivisionError, put)
            self.assertEqual(await self.keys(), [])
        await self.put("k", b"old")
        put = self.bucket.put(
            key="k",
            body=ScriptedBody(b"new", ZeroDivisionError()),
            length=6,
            content_type="image/png",
        )
        await self.rejected(ZeroDivisionError, put)
        self.assertEqual(await self.bytes_of("k"), b"old")

    async def test_a_cancelled_put_stores_nothing(self) -> None:
        """A put that is cancelled while it waits for the body stores nothing."""
        for script in ([], [b"abc"], [b"a" * 200_000]):
            body = ScriptedBody(*script, Deferred())
            putting = Deferred.fromCoroutine(
                self.bucket.put(key="k", body=body, length=300_000, content_type="image/png")
            )
            while body.taken < len(script):
                await self.bucket.check()
            putting.cancel()
            await self.rejected(CancelledError, putting)
            self.assertEqual(await self.keys(), [])

    async def test_an_object_is_invisible_until_complete(self) -> None:
        """An object is not visible before it is complete."""
        gate: Deferred[None] = Deferred()
        body = ScriptedBody(b"abc", gate, b"def")
        putting = Deferred.fromCoroutine(
            self.bucket.put(key="a/k", body=body, length=6, content_type="image/png")
        )
        while body.taken < 1:
            await self.bucket.check()
        self.assertEqual(await self.keys(), [])
        await self.rejected(ObjectNotFound, self.bucket.head(key="a/k"))
        gate.callback(None)
        await putting
        self.assertEqual(await self.bytes_of("a/k"), b"abcdef")

    async def test_a_put_reads_its_body_with_back_pressure(self) -> None:
        """A put reads a piece only after it has processed the earlier ones."""
        gate: Deferred[None] = Deferred()
        body = ScriptedBody(*[b"x" * 65536] * 4, gate, *[b"x" * 65536] * 4)
        putting = Deferred.fromCoroutine(
            self.bucket.put(key="k", body=body, length=8 * 65536, content_type="image/png")
        )
        while body.taken < 4:
            await self.bucket.check()
        self.assertEqual(body.taken, 4)
        gate.callback(None)
        await putting
        self.assertEqual(body.taken, 8)

    async def test_one_of_simultaneous_puts_wins(self) -> None:
        """Of several concurrent puts under one key, one wins as a whole."""
        bodies = [bytes([n]) * 100_000 for n in range(4)]
        puts = [Deferred.fromCoroutine(self.put("k", data)) for data in bodies]
        for putting in puts:
            await putting
        self.assertIn(await self.bytes_of("k"), bodies)

    async def test_deletes_are_idempotent(self) -> None:
        """Delete removes objects, and ignores those that do not exist."""
        for key in ("a/1", "a/2", "b"):
            await self.put(key, b"x")
        await self.bucket.delete(keys=["a/1", "nothing", "no/thing", "b", "b/c"])
        self.assertEqual(await self.keys(), ["a/2"])
        await self.bucket.delete(keys=["a/1", "a/2"])
        await self.bucket.delete(keys=[])
        self.assertEqual(await self.keys(), [])
        await self.put("a/1", b"again")
        self.assertEqual(await self.bytes_of("a/1"), b"again")

    async def test_a_list_is_sorted_and_filtered(self) -> None:
        """A list is sorted, and limited by prefix, start and number."""
        keys = sorted(["a", "a-b", "a.b", "b/1", "b/2", "b-1", "b/1-", "c/d/e", "c/d-e", "c/d.e"])
        keys.remove("a")
        for key in reversed(keys):
            await self.put(key, b"x")
        self.assertEqual(await self.keys(), keys)
        self.assertEqual(await self.keys(limit=3), keys[:3])
        for prefix in ("a", "b", "b/", "b/1", "c/d", "c/d/e", "z", "b-"):
            expected = [key for key in keys if key.startswith(prefix)]
            self.assertEqual(await self.keys(prefix=prefix), expected, prefix)
        for after in (*keys, "a", "b", "b/", "b/0", "c/d/", "z", "A"):
            expected = [key for key in keys if key > after]
            self.assertEqual(await self.keys(after=after), expected, after)
            expected = [key for key in expected if key.startswith("b")]
            self.assertEqual(await self.keys(prefix="b", after=after), expected, after)

    async def test_pages_contain_each_object_once(self) -> None:
        """Successive pages of a list contain each object once."""
        keys = [f"{n % 3}/{n:02}" for n in range(25)]
        for key in keys:
            await self.put(key, b"x")
        found: list[str] = []
        while page := await self.keys(after=found[-1] if found else "", limit=4):
            self.assertLessEqual(len(page), 4)
            found.extend(page)
        self.assertEqual(found, sorted(keys))

    async def test_an_invalid_key_is_refused(self) -> None:
        """Every method refuses an invalid key before it does anything."""
        await self.put("k", b"x")
        for key in INVALID_KEYS:
            body = ScriptedBody(b"x")
            put = self.bucket.put(key=key, body=body, length=1, content_type="image/png")
            await self.rejected(StorageError, put)
            self.assertEqual(body.taken, 0)
            await self.rejected(StorageError, self.bucket.get(key=key))
            await self.rejected(StorageError, self.bucket.head(key=key))
            await self.rejected(StorageError, self.bucket.delete(keys=["k", key]))
        for prefix in ("/", "../", ".", "a//", "a b"):
            await self.rejected(StorageError, self.bucket.list(prefix=prefix, after="", limit=1))
            await self.rejected(StorageError, self.bucket.list(prefix="", after=prefix, limit=1))
        self.assertEqual(await self.keys(), ["k"])

    async def test_a_body_can_be_closed_early(self) -> None:
        """A body can be closed early and repeatedly, and is then at its end."""
        await self.put("k", b"x" * 300_000)
        for pieces in (0, 1, 2):
            _, body = await self.bucket.get(key="k")
            for _ in range(pieces):
                await body.__anext__()
            await body.aclose()
            await body.aclose()
            self.assertEqual([piece async for piece in body], [])

    async def test_a_usable_bucket_passes_its_check(self) -> None:
        """The check of a usable bucket succeeds."""
        self.assertIsNone(await self.bucket.check())
