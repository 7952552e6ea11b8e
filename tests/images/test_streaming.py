"""
Tests of :mod:`fxprofile.images.resource` with clients and buckets that are slow, or that
disconnect.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.images.memory_cache import MAX_OBJECT_BYTES, MAX_SHARED_OBJECT
from fxprofile.model.errors import StorageError
from fxprofile.model.ports import ObjectInfo
from fxprofile.serving.channel import IDLE, UNREAD
from tests.contracts.bucket import ScriptedBody
from tests.images.listener import AVATAR, KEY, Listener
from tests.serving.wire import BUFFER
from tests.support.fakes.bucket import MemoryBucket

PIECE = b"p" * 65536
LARGE = 40


class ScriptedBucket:
    """A bucket with one large object, whose body the test controls."""

    def __init__(self) -> None:
        self.length = LARGE * len(PIECE)
        self.body = ScriptedBody(*[PIECE] * LARGE)
        self.opened: Deferred[None] | None = None

    async def get(self, *, key: str) -> tuple[ObjectInfo, ScriptedBody]:
        if self.opened is not None:
            await self.opened
        return ObjectInfo(key, self.length, "tag", 0.0), self.body


class StreamTests(SynchronousTestCase):
    """An object that is too large for the cache is streamed."""

    def setUp(self) -> None:
        self.bucket = ScriptedBucket()
        self.listener = Listener(self.bucket)
        self.assertGreater(self.bucket.length, MAX_SHARED_OBJECT)
        self.connection = self.listener.connect()
        self.wire = self.connection.wire

    def begin(self) -> None:
        self.connection.request(f"/a/{AVATAR}")

    def script(self, *steps: bytes | Exception | Deferred[None]) -> None:
        self.bucket.body = ScriptedBody(*steps)

    def passes(self, seconds: float) -> None:
        self.listener.clock.advance(seconds)
        self.connection.settle()

    def test_object_arrives_whole(self) -> None:
        """The whole object arrives, and the connection can be reused."""
        self.begin()
        self.assertEqual(self.connection.answer().body, PIECE * LARGE)
        self.assertTrue(self.bucket.body.closed)
        self.connection.request("/")
        self.assertEqual(self.connection.answer().status, 404)

    def test_bucket_is_read_as_fast_as_the_client(self) -> None:
        """Nothing is read from the bucket while the client does not read."""
        self.wire.takes = False
        self.begin()
        taken = self.bucket.body.taken
        self.assertLessEqual(taken, 2)
        self.passes(UNREAD - 1)
        self.assertEqual(self.bucket.body.taken, taken)
        self.wire.drain()
        self.assertEqual(self.connection.answer().body, PIECE * LARGE)

    def test_stalled_client_is_disconnected(self) -> None:
        """A client that reads nothing for too long is disconnected, and the body is closed."""
        self.wire.takes = False
        self.begin()
        self.passes(IDLE)
        self.assertTrue(self.wire.aborted)
        self.assertTrue(self.bucket.body.closed)
        self.assertEqual(self.listener.clock.getDelayedCalls(), [])

    def test_slow_client_is_served(self) -> None:
        """A client that keeps reading slowly may take a long time."""
        self.wire.takes = False
        self.begin()
        while self.bucket.body.taken < LARGE:
            before = self.bucket.body.taken
            self.passes(UNREAD - 1)
            self.wire.drain(still_takes=False)
            self.assertLessEqual((self.bucket.body.taken - before) * len(PIECE), 2 * BUFFER)
        self.wire.drain()
        self.assertFalse(self.wire.aborted)
        self.assertEqual(self.connection.answer().body, PIECE * LARGE)

    def test_slow_bucket_does_not_time_out_the_client(self) -> None:
        """A client that waits for the bucket is not disconnected."""
        first, second = Deferred[None](), Deferred[None]()
        self.script(first, PIECE, second, *[PIECE] * (LARGE - 1))
        self.begin()
        for wait in (first, second):
            self.passes(2 * IDLE)
            wait.callback(None)
        self.assertEqual(self.connection.answer().body, PIECE * LARGE)

    def test_disconnect_while_reading(self) -> None:
        """A client that disconnects while the bucket is read closes the body."""
        self.script(PIECE, Deferred(), PIECE)
        self.begin()
        self.connection.lose()
        self.assertTrue(self.bucket.body.closed)
        self.assertEqual(self.bucket.body.taken, 1)

    def test_disconnect_while_paused(self) -> None:
        """A client that disconnects while the response is paused closes the body."""
        self.wire.takes = False
        self.begin()
        self.connection.lose()
        self.assertTrue(self.bucket.body.closed)
        self.assertEqual(self.listener.clock.getDelayedCalls(), [])

    def test_disconnect_before_the_response(self) -> None:
        """A client that disconnects while the bucket is asked cancels that request."""
        self.bucket.opened = Deferred()
        self.begin()
        self.connection.lose()
        self.assertTrue(self.bucket.opened.called)
        self.assertEqual(self.wire.value(), b"")
        counted = self.listener.counted(
            "http_requests_total", listener="images", method="GET", route="/a/{id}", status="499"
        )
        self.assertEqual(counted, 1)

    def test_failure_before_the_first_byte(self) -> None:
        """A body that fails before its first byte is answered with 503."""
        self.script(StorageError("cut"))
        self.begin()
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.json["errno"]), (503, 106))
        self.assertEqual(answer.header("Cache-Control"), "no-store")
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertIsNone(answer.header("ETag"))
        self.assertTrue(self.bucket.body.closed)

    def test_failure_midway(self) -> None:
        """A body that fails midway aborts the connection, because the response is incomplete."""
        for steps in (
            [PIECE, StorageError("cut")],
            [PIECE, PIECE],
            [*[PIECE] * LARGE, b"more than it said"],
            [PIECE, ZeroDivisionError("bug")],
        ):
            self.script(*steps)
            self.connection = self.listener.connect()
            self.begin()
            self.assertTrue(self.connection.wire.aborted, steps)
            self.assertTrue(self.bucket.body.closed)
        counted = self.listener.counted(
            "http_requests_total", listener="images", method="GET", route="/a/{id}", status="499"
        )
        self.assertEqual(counted, 4)

    def test_empty_pieces_are_skipped(self) -> None:
        """Empty pieces of a body do no harm."""
        self.script(b"", PIECE, b"", *[PIECE] * (LARGE - 1), b"")
        self.begin()
        self.assertEqual(self.connection.answer().body, PIECE * LARGE)

    def test_empty_object_is_served(self) -> None:
        """An empty object is served."""
        self.bucket.length = 0
        self.script()
        self.begin()
        answer = self.connection.answer()
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.header("Content-Type"), "image/png")


class MemoryTests(SynchronousTestCase):
    """The cost of slow readers of a cached picture."""

    def setUp(self) -> None:
        self.bucket = MemoryBucket()
        self.bucket.objects[KEY] = b"x" * MAX_OBJECT_BYTES
        self.listener = Listener(self.bucket)
        self.connection = self.listener.connect()
        self.wire = self.connection.wire

    def test_readers_share_one_get(self) -> None:
        """Slow readers share one get, and each buffers at most one picture."""
        connections = [self.listener.connect() for _ in range(20)]
        for connection in connections:
            connection.wire.takes = False
            connection.request(f"/a/{AVATAR}")
            self.assertLess(connection.wire.buffered, MAX_OBJECT_BYTES + 1024)
        self.assertEqual(self.bucket.calls, [("get", (KEY,))])
        for connection in connections:
            connection.wire.drain()
            self.assertEqual(connection.answer().body, self.bucket.objects[KEY])

    def test_pipelined_requests_wait(self) -> None:
        """A client that pipelines requests gets the second response when it has read the first."""
        self.wire.takes = False
        self.connection.send(f"GET /a/{AVATAR} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 50)
        self.assertLess(self.wire.buffered, MAX_OBJECT_BYTES + 1024)
        for _ in range(49):
            self.wire.drain(still_takes=False)
            self.assertLess(self.wire.buffered, MAX_OBJECT_BYTES + 1024)
        self.wire.drain()
        answers = self.connection.answers()
        self.assertEqual([answer.status for answer in answers], [200] * 50)

    def test_connection_close_is_bounded(self) -> None:
        """A client that asked for Connection: close cannot keep it open by not reading."""
        self.wire.takes = False
        self.connection.request(f"/a/{AVATAR}_small", Connection="close")
        self.assertTrue(self.wire.disconnecting)
        self.listener.clock.advance(IDLE)
        self.assertTrue(self.wire.aborted)
