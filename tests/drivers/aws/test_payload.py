"""
Tests of :mod:`fxprofile.drivers.aws.client.payload`.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.drivers.aws.client import payload
from fxprofile.drivers.aws.client.errors import PayloadLengthError
from fxprofile.drivers.aws.client.payload import (
    CHUNK,
    SIGNED_CHUNK,
    SignedPayload,
    StreamPayload,
    TrailerPayload,
)
from tests.contracts.bucket import ScriptedBody


def sent(payload: StreamPayload) -> list[bytes]:
    """Return everything that a payload sends."""

    async def collect() -> list[bytes]:
        return [piece async for piece in payload]

    outcome: list[Any] = []
    Deferred.fromCoroutine(collect()).addBoth(outcome.append)
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    return outcome[0]


def decoded(data: bytes) -> tuple[bytes, dict[str, str]]:
    """Decode ``aws-chunked`` encoding into the body and its trailers."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        body += data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
    head, _, rest = data.partition(b"\r\n\r\n")
    assert rest == b""
    return body, dict(line.split(":", 1) for line in head.decode().split("\r\n"))


class PayloadTests(SynchronousTestCase):
    def test_a_stream_is_sent_unchanged_and_digested(self) -> None:
        """A plain stream is sent without its empty pieces, and its MD5 is that of the whole."""
        stream = StreamPayload(ScriptedBody(b"ab", b"", b"c"), 3)
        self.assertFalse(stream.started)
        self.assertEqual(sent(stream), [b"ab", b"c"])
        self.assertTrue(stream.started)
        self.assertEqual(stream.md5, hashlib.md5(b"abc").hexdigest())

    @given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 40))
    def test_a_trailer_follows_any_sequence_of_pieces(self, pieces: list[bytes], size: int) -> None:
        """An aws-chunked body has the announced length and ends with its CRC-32."""
        data = b"".join(pieces)
        self.patch(payload, "CHUNK", size)
        stream = TrailerPayload(ScriptedBody(*pieces), len(data))
        wire = b"".join(sent(stream))
        self.assertEqual(len(wire), stream.length)
        body, trailers = decoded(wire)
        self.assertEqual(body, data)
        crc32 = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        self.assertEqual(trailers, {"x-amz-checksum-crc32": crc32})

    def test_a_long_stream_has_several_chunks(self) -> None:
        """A body longer than a chunk is sent in several chunks."""
        data = b"x" * (CHUNK * 2 + 5)
        stream = TrailerPayload(ScriptedBody(data), len(data))
        wire = b"".join(sent(stream))
        self.assertEqual(len(wire), stream.length)
        self.assertEqual(decoded(wire)[0], data)

    @given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 40))
    def test_the_signature_of_each_chunk_precedes_it(self, pieces: list[bytes], size: int) -> None:
        """A signed stream has the announced length, and a signature in front of each chunk."""
        data = b"".join(pieces)
        self.patch(payload, "SIGNED_CHUNK", size)
        stream = SignedPayload(ScriptedBody(*pieces), len(data))
        stream.sign_chunk = lambda chunk: hashlib.sha256(chunk).hexdigest()
        wire = b"".join(sent(stream))
        self.assertEqual(len(wire), stream.length)
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        for chunk in (*chunks, b""):
            signature = hashlib.sha256(chunk).hexdigest()
            head = f"{len(chunk):x};chunk-signature={signature}\r\n".encode()
            encoded = head + chunk + b"\r\n"
            self.assertEqual(wire[: len(encoded)], encoded)
            wire = wire[len(encoded) :]
        self.assertEqual(wire, b"")

    def test_a_signed_chunk_is_not_longer_than_what_is_buffered(self) -> None:
        """A signed stream buffers at most 64 KiB, whatever the length of the pieces."""
        stream = SignedPayload(ScriptedBody(*[b"x" * 50_000] * 4), 200_000)
        self.assertEqual(SIGNED_CHUNK, 1 << 16)
        self.assertLess(max(map(len, sent(stream))), SIGNED_CHUNK + 100)

    def test_another_length_than_announced_is_refused(self) -> None:
        """A body that is too short or too long fails before its last byte is sent."""
        for kind in (StreamPayload, TrailerPayload, SignedPayload):
            for pieces in ([b"abc"], [b"abcd", b"ef"], [b"abcdef"]):
                with self.assertRaises(PayloadLengthError):
                    sent(kind(ScriptedBody(*pieces), 5))
