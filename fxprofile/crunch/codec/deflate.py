"""
Deflate (RFC 1951), by zlib-ng if it is installed, otherwise by zlib.

Pillow's PNG decoder is linked to the system's zlib, which inflates a photo at half the speed
of zlib-ng, and a drawing at a tenth.  So the data of a PNG is inflated before the decoder
gets it; the decoder then reads stored blocks only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

#: The module that inflates and deflates; it has the interface of :mod:`zlib`.
library: Any = zlib
with suppress(ImportError):
    from zlib_ng import zlib_ng

    library = zlib_ng

#: How much is read at a time, in bytes.
_PIECE: Final = 64 << 10
#: The most bytes in a stored block (RFC 1951, section 3.2.4).
_MAX_STORED: Final = (1 << 16) - 1
#: The first bytes of a zlib stream without a dictionary (RFC 1950, section 2.2).
_HEADER: Final = b"\x78\x01"


class StoredStream:
    """A zlib stream of the same bytes as another one, in blocks that are not compressed."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """
        :param read: returns more of the other stream, at most so many bytes; empty at its
            end, after which it is not called again.
        """
        self._read = read
        self._inflater: Any = None
        self._compressed = b""
        self._checksum = 1
        self._ended = False

    def read(self) -> bytes:
        """
        Return more of the stream; empty at its end, and where the other one is cut off.

        The checksum of the other stream is ignored: the data before it may be intact even
        if the checksum is wrong or missing.

        :raises ValueError: if the other stream is not a zlib stream.
        :raises Exception: if it is damaged.
        """
        if self._ended:
            return b""
        if self._inflater is None:
            return self._begin()
        while True:
            # Even without more input there may be output that did not fit before.
            data = self._inflater.decompress(self._compressed, _MAX_STORED)
            self._compressed = self._inflater.unconsumed_tail
            if data:
                self._checksum = library.adler32(data, self._checksum)
                return _block(len(data)) + data
            if self._inflater.eof:
                self._ended = True
                return _block(0, last=True) + struct.pack(">I", self._checksum)
            self._compressed = self._read(_PIECE)
            if not self._compressed:
                self._ended = True
                return b""

    def _begin(self) -> bytes:
        """Read the header; the deflate stream after it has no checksum of its own."""
        while len(self._compressed) < 2:
            more = self._read(_PIECE)
            if not more:
                self._ended = True
                return b""
            self._compressed += more
        method, flags = self._compressed[:2]
        # The window has at most 32 KiB, so the highest bit of the method is never set.
        if method & 0x8F != zlib.DEFLATED or flags & 32 or (method << 8 | flags) % 31:
            raise ValueError("not a zlib stream")
        self._compressed = self._compressed[2:]
        self._inflater = library.decompressobj(-zlib.MAX_WBITS)
        return _HEADER


def _block(length: int, *, last: bool = False) -> bytes:
    """Return the header of a stored block."""
    return struct.pack("<?HH", last, length, length ^ _MAX_STORED)
