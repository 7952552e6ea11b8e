"""
Streamed request payloads with their checksums.

Streams are encoded here because botocore's ``AwsChunkedWrapper`` reads from a blocking file.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import ClassVar, Final

import attrs

from fxprofile.drivers.aws.client.errors import PayloadLengthError

#: Bytes of one chunk of an ``aws-chunked`` body.  Some servers buffer a whole chunk.
CHUNK: Final = 1 << 20


@attrs.define(eq=False, slots=False)
class StreamPayload:
    """
    A payload that is sent once, as it arrives, protected by TLS alone.

    It is iterated once, over the bytes for the wire.

    :param body: its pieces.
    :param body_length: the bytes that the body must have.
    :cvar content_sha256: signed in place of the payload's SHA-256.
    :ivar started: whether some of it has been read, so that it cannot be sent again.
    """

    content_sha256: ClassVar[str] = "UNSIGNED-PAYLOAD"

    _body: AsyncIterator[bytes]
    body_length: int
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
