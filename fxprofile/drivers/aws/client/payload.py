"""
Request payloads: bytes, and streams with their checksums.

Streams are encoded here because botocore's ``AwsChunkedWrapper`` reads from a blocking file.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from fxprofile.drivers.aws.client.errors import PayloadLengthError

#: Bytes of one chunk of an ``aws-chunked`` body.  Some servers buffer a whole chunk.
CHUNK: Final = 1 << 20


class BytesPayload:
    """
    A payload that is in memory.

    :ivar length: bytes on the wire.
    """

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    async def read(self) -> bytes:
        """Return everything on the first call, and an empty string after that."""
        data, self._data = self._data, b""
        return data


class StreamPayload:
    """
    A payload that is sent once, as it arrives, protected by TLS alone.

    :param body: its pieces.
    :param length: the bytes that the body must have.
    :cvar content_sha256: signed in place of the payload's SHA-256.
    :ivar headers: to be sent with it.
    :ivar length: bytes on the wire.
    :ivar started: whether some of it has been read, so that it cannot be sent again.
    """

    content_sha256 = "UNSIGNED-PAYLOAD"

    def __init__(self, body: AsyncIterator[bytes], length: int) -> None:
        self.headers: Mapping[str, str] = {}
        self.length = length
        self.started = False
        self._body = body
        self._announced = length
        self._received = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._crc32 = 0

    async def read(self) -> bytes:
        """
        Return the next bytes for the wire; empty at the end.

        :raises PayloadLengthError: if the body has another length than announced.
        """
        self.started = True
        async for piece in self._body:
            self._received += len(piece)
            if self._received > self._announced:
                raise PayloadLengthError(f"the body has more than {self._announced} bytes")
            if piece:
                self._md5.update(piece)
                self._crc32 = zlib.crc32(piece, self._crc32)
                return piece
        if self._received < self._announced:
            text = f"the body has {self._received} of {self._announced} bytes"
            raise PayloadLengthError(text)
        return b""

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

    def __init__(self, body: AsyncIterator[bytes], length: int) -> None:
        super().__init__(body, length)
        chunks, rest = divmod(length, CHUNK)
        self.length = (
            chunks * (CHUNK + len(f"{CHUNK:x}") + 4)
            + (rest + len(f"{rest:x}") + 4 if rest else 0)
            + len(f"0\r\n{self.TRAILER}:12345678\r\n\r\n")
        )
        self.headers = {
            "Content-Encoding": "aws-chunked",
            "X-Amz-Decoded-Content-Length": str(length),
            "X-Amz-Sdk-Checksum-Algorithm": "CRC32",
            "X-Amz-Trailer": self.TRAILER,
        }
        self._unsent = length
        self._chunk_left = 0
        self._piece = memoryview(b"")
        self._ended = False

    async def read(self) -> bytes:
        if self._ended:
            return b""
        if not self._piece:
            self._piece = memoryview(await super().read())
        if not self._piece:
            self._ended = True
            return f"0\r\n{self.TRAILER}:{self.crc32}\r\n\r\n".encode()
        head = tail = b""
        if not self._chunk_left:
            self._chunk_left = min(CHUNK, self._unsent)
            head = b"%x\r\n" % self._chunk_left
        part, self._piece = self._piece[: self._chunk_left], self._piece[self._chunk_left :]
        self._chunk_left -= len(part)
        self._unsent -= len(part)
        if not self._chunk_left:
            tail = b"\r\n"
        return b"".join((head, part, tail))


Payload = BytesPayload | StreamPayload
