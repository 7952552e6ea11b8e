"""
Streamed request payloads with their checksums.

Streams are encoded here because botocore's ``AwsChunkedWrapper`` reads from a blocking file.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import ClassVar, Final

import attrs

from fxprofile.drivers.aws.client.errors import PayloadLengthError

#: Bytes of one chunk of an ``aws-chunked`` body.  Some servers buffer a whole chunk.
CHUNK: Final = 1 << 20

#: Bytes of one signed chunk, which is buffered, because its signature precedes it.
SIGNED_CHUNK: Final = 1 << 16


@attrs.define(eq=False, slots=False)
class StreamPayload:
    """
    A payload that is sent once, as it arrives, unchanged and unsigned.

    It is iterated once, over the bytes for the wire.

    :param body: its pieces.
    :param body_length: the bytes that the body must have.
    :cvar content_sha256: signed in place of the payload's SHA-256.
    :ivar sign_chunk: returns the signature of a chunk in hex; set when the request is signed.
    :ivar started: whether some of it has been read, so that it cannot be sent again.
    """

    content_sha256: ClassVar[str] = "UNSIGNED-PAYLOAD"

    _body: AsyncIterator[bytes]
    body_length: int
    sign_chunk: Callable[[bytes], str] = attrs.field(default=lambda _: "", init=False)
    started: bool = attrs.field(default=False, init=False)
    _md5: hashlib._Hash = attrs.field(
        init=False, factory=partial(hashlib.md5, usedforsecurity=False)
    )
    _crc32: int = attrs.field(default=0, init=False)

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return self.body_length

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers to be sent with the payload."""
        return {}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """
        :raises PayloadLengthError: if the body has another length than announced.
        """
        self.started = True
        received = 0
        async for piece in self._body:
            received += len(piece)
            if received > self.body_length:
                raise PayloadLengthError(f"the body has more than {self.body_length} bytes")
            self._md5.update(piece)
            self._crc32 = zlib.crc32(piece, self._crc32)
            if piece:
                yield piece
        if received < self.body_length:
            raise PayloadLengthError(f"the body has {received} of {self.body_length} bytes")

    @property
    def md5(self) -> str:
        """The MD5 of what was read, in hex as in an ETag."""
        return self._md5.hexdigest()

    @property
    def crc32(self) -> str:
        """The CRC-32 of what was read, in base64 as in a checksum header."""
        return base64.b64encode(self._crc32.to_bytes(4, "big")).decode()


class TrailerPayload(StreamPayload):
    """
    A stream in ``aws-chunked`` encoding, followed by its CRC-32.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
    """

    TRAILER: Final = "x-amz-checksum-crc32"

    content_sha256 = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    @property
    def length(self) -> int:
        chunks, rest = divmod(self.body_length, CHUNK)
        return (
            chunks * (CHUNK + len(f"{CHUNK:x}") + 4)
            + (rest + len(f"{rest:x}") + 4 if rest else 0)
            + len(f"0\r\n{self.TRAILER}:12345678\r\n\r\n")
        )

    @property
    def headers(self) -> Mapping[str, str]:
        return {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(self.body_length),
            "X-Amz-Sdk-Checksum-Algorithm": "CRC32",
            "X-Amz-Trailer": self.TRAILER,
        }

    async def __aiter__(self) -> AsyncIterator[bytes]:
        unsent = self.body_length
        chunk_left = 0
        async for piece in super().__aiter__():
            rest = memoryview(piece)
            while rest:
                head = tail = b""
                if not chunk_left:
                    chunk_left = min(CHUNK, unsent)
                    head = b"%x\r\n" % chunk_left
                part, rest = rest[:chunk_left], rest[chunk_left:]
                chunk_left -= len(part)
                unsent -= len(part)
                if not chunk_left:
                    tail = b"\r\n"
                yield b"".join((head, part, tail))
        yield f"0\r\n{self.TRAILER}:{self.crc32}\r\n\r\n".encode()


class SignedPayload(StreamPayload):
    """
    A stream in ``aws-chunked`` encoding whose chunks are signed.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
    """

    content_sha256 = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"

    @property
    def length(self) -> int:
        chunks, rest = divmod(self.body_length, SIGNED_CHUNK)
        sizes = [SIGNED_CHUNK] * chunks + [rest] * bool(rest) + [0]
        frame = len(";chunk-signature=") + 64 + len("\r\n\r\n")
        return sum(len(f"{size:x}") + frame + size for size in sizes)

    @property
    def headers(self) -> Mapping[str, str]:
        return {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(self.body_length),
        }

    async def __aiter__(self) -> AsyncIterator[bytes]:
        buffer = bytearray()
        async for piece in super().__aiter__():
            buffer += piece
            while len(buffer) >= SIGNED_CHUNK:
                yield self._encode(bytes(buffer[:SIGNED_CHUNK]))
                del buffer[:SIGNED_CHUNK]
        if buffer:
            yield self._encode(bytes(buffer))
        yield self._encode(b"")

    def _encode(self, chunk: bytes) -> bytes:
        head = f"{len(chunk):x};chunk-signature={self.sign_chunk(chunk)}\r\n"
        return b"".join((head.encode(), chunk, b"\r\n"))
