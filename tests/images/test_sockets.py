"""Tests of :mod:`fxprofile.images` over TCP: many slow clients, and clients that disconnect."""

from __future__ import annotations

import socket

from twisted.internet import reactor

from fxprofile.images.memory_cache import MAX_OBJECT_BYTES
from fxprofile.images.resource import make_site
from fxprofile.model.errors import StorageError
from fxprofile.model.ports import Body, ObjectInfo
from fxprofile.serving.channel import MAX_IN_FLIGHT, StreamingSite
from fxprofile.telemetry.metrics import Metrics
from tests.images.listener import AVATAR
from tests.serving.sockets import Client, LoopbackCase, buffered, until
from tests.serving.wire import BUFFER

PIECE = b"p" * 65536
CROWD = 400

#: About as little as a kernel will keep for a socket.
NARROW = 4096

REQUEST = f"GET /a/{AVATAR} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class CountingBucket:
    """
    A bucket of objects that need no memory.

    :ivar open: how many bodies are open.
    :ivar taken: how many pieces were taken of all of them.
    :ivar break_at: after how many pieces a body fails.
    """

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.open = 0
        self.taken = 0
        self.break_at = -1

    async def get(self, *, key: str) -> tuple[ObjectInfo, Body]:
        self.open += 1
        return await self.head(key=key), _Body(self)

    async def head(self, *, key: str) -> ObjectInfo:
        return ObjectInfo(key, self.pieces * len(PIECE), "tag", 0.0)


class _Body:
    def __init__(self, bucket: CountingBucket) -> None:
        self._bucket = bucket
        self._taken = 0
        self._closed = False

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if self._taken == self._bucket.break_at:
            raise StorageError("cut")
        if self._taken == self._bucket.pieces:
            raise StopAsyncIteration
        self._taken += 1
        self._bucket.taken += 1
        return PIECE

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._bucket.open -= 1


class CrowdCase(LoopbackCase):
    async def serve(self, pieces: int) -> StreamingSite:
        """Open a site on a bucket whose objects have this many pieces."""
        self.bucket = CountingBucket(pieces)
        self.site = make_site(
            bucket=self.bucket,  # type: ignore[arg-type]
            max_age=60,
            clock=reactor,
            metrics=Metrics(),
        )
        self.port = await self.listen(self.site, send_buffer=NARROW)
        return self.site

    async def crowd(self) -> list[socket.socket]:
        """Open clients that request a picture and read nothing."""
        clients = []
        for _ in range(CROWD):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
            client.connect(("127.0.0.1", self.port))
            client.sendall(REQUEST)
            self.addCleanup(client.close)
            clients.append(client)
        await until(lambda: len(self.site.channels) == CROWD)
        await until(lambda: all(c.transport.producerPaused for c in self.site.channels))
        return clients

    async def picture(self) -> tuple[Client, bytes]:
        """Request the picture, and return it."""
        client = await self.connect(self.port)
        client.transport.write(REQUEST)
        return client, (await client.answer())[1]


class SlowReadersTests(CrowdCase):
    async def test_slow_readers_of_a_large_picture(self) -> None:
        """Many clients that read nothing cost little memory, and little is read from the bucket."""
        await self.serve(pieces=64)
        clients = await self.crowd()
        self.assertEqual(self.bucket.open, CROWD)
        bound = CROWD * (BUFFER + len(PIECE) + 1024)
        self.assertLessEqual(buffered(self.site), bound)
        self.assertLessEqual(self.bucket.taken, CROWD * 3)
        taken = self.bucket.taken
        _, body = await self.picture()
        self.assertEqual(len(body), 64 * len(PIECE))
        self.assertEqual(self.bucket.taken, taken + 64)
        self.assertLessEqual(buffered(self.site), bound)
        for client in clients:
            client.close()
        await until(lambda: self.bucket.open == 0)
        self.assertEqual(self.bucket.taken, taken + 64)

    async def test_slow_readers_of_a_shared_picture(self) -> None:
        """
        A picture of a megabyte is fetched once for many slow clients, and at most 64 KiB of it
        are buffered for each.
        """
        await self.serve(pieces=16)
        clients = await self.crowd()
        self.assertEqual((self.bucket.taken, self.bucket.open), (16, 0))
        self.assertLessEqual(buffered(self.site), CROWD * (MAX_IN_FLIGHT + 1024))
        _, body = await self.picture()
        self.assertEqual(body, 16 * PIECE)
        self.assertEqual(self.bucket.taken, 16)
        for client in clients:
            client.close()

    async def test_slow_readers_of_a_cached_picture(self) -> None:
        """
        A cached picture is fetched once for many slow clients, and buffered at most once
        for each.
        """
        await self.serve(pieces=MAX_OBJECT_BYTES // len(PIECE))
        await self.crowd()
        self.assertEqual(self.bucket.taken, MAX_OBJECT_BYTES // len(PIECE))
        self.assertLessEqual(buffered(self.site), CROWD * (MAX_OBJECT_BYTES + 1024))
        _, body = await self.picture()
        self.assertEqual(len(body), MAX_OBJECT_BYTES)

    async def test_slow_reader_gets_everything(self) -> None:
        """A client that reads slowly gets the whole picture."""
        await self.serve(pieces=16)
        client = await self.connect(self.port)
        client.transport.write(REQUEST)
        client.transport.pauseProducing()
        await until(lambda: any(c.transport.producerPaused for c in self.site.channels))
        client.transport.resumeProducing()
        self.assertEqual((await client.answer())[1], PIECE * 16)


class BrokenTests(CrowdCase):
    async def test_truncated_body_is_visible(self) -> None:
        """A body that fails midway ends the connection, so that its client notices."""
        await self.serve(pieces=64)
        self.bucket.break_at = 32
        client = await self.connect(self.port)
        client.transport.write(REQUEST)
        self.assertLess(len(await client.end()), 64 * len(PIECE))
        self.assertTrue(client.reset)
        self.assertEqual(self.bucket.open, 0)

    async def test_disconnect_closes_the_body(self) -> None:
        """A client that disconnects midway closes the body."""
        await self.serve(pieces=10_000)
        client = await self.connect(self.port)
        client.transport.write(REQUEST)
        await client.get(10 * len(PIECE))
        client.transport.abortConnection()
        await until(lambda: self.bucket.open == 0)
        self.assertLess(self.bucket.taken, 10_000)

    async def test_request_body_is_not_buffered(self) -> None:
        """The body of a request is not read into memory, and ends the connection."""
        await self.serve(pieces=1)
        client = await self.connect(self.port)
        client.transport.write(
            REQUEST.replace(b"\r\n\r\n", b"\r\nContent-Length: 16777216\r\n\r\n")
        )
        client.transport.write(bytes(16 << 20))
        answer = await client.end()
        self.assertIn(b"Connection: close\r\n", answer)
        self.assertTrue(answer.endswith(PIECE))
