"""
Deflate (RFC 1951), by zlib-ng where it is installed, and else by zlib.

The codec of PNG is linked to the zlib of the system, which inflates a photo half as fast as
zlib-ng, and a drawing a tenth.  So what a PNG holds is inflated before the codec sees it; the
codec then finds blocks that are only stored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

fast: Any = zlib
with suppress(ImportError):
    from zlib_ng import zlib_ng

    fast = zlib_ng

#: How much is read at one time.
_PIECE: Final = 64 << 10
#: What a stored block holds at most (RFC 1951, section 3.2.4).
_MOST_STORED: Final = (1 << 16) - 1
#: The first bytes of a zlib stream without a dictionary (RFC 1950, section 2.2).
_HEADER: Final = b"\x78\x01"


class Stored:
    """A zlib stream of the same bytes as another one, in blocks that are not compressed."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """
        :param read: gives some more of the other stream, at most so many bytes; none at its
            end, after which it is not called again.
        """
        self._read = read
        self._inflater: Any = None
        self._packed = b""
        self._checksum = 1
        self._ended = False

    def read(self) -> bytes:
        """
        Some more of the stream; nothing at its end, and where the other one is cut off.

        The checksum behind the other one is not looked at: what is before it may well be
        whole without it.

        :raises ValueError: if the other one is none.
        :raises Exception: if it is damaged.
        """
        if self._ended:
            return b""
        if self._inflater is None:
            return self._begin()
        while True:
            # Without more to inflate there may still be some that did not fit in before.
            data = self._inflater.decompress(self._packed, _MOST_STORED)
            self._packed = self._inflater.unconsumed_tail
            if data:
                self._checksum = fast.adler32(data, self._checksum)
                return _block(len(data)) + data
            if self._inflater.eof:
                self._ended = True
                return _block(0, last=True) + struct.pack(">I", self._checksum)
            self._packed = self._read(_PIECE)
            if not self._packed:
                self._ended = True
                return b""

    def _begin(self) -> bytes:
        """Read the header; what is behind it has no checksum of its own."""
        while len(self._packed) < 2:
            more = self._read(_PIECE)
            if not more:
                self._ended = True
                return b""
            self._packed += more
        method, flags = self._packed[:2]
        # The window is of 32 KiB at the most, so this bit is never set.
        if method & 0x8F != zlib.DEFLATED or flags & 32 or (method << 8 | flags) % 31:
            raise ValueError("not a zlib stream")
        self._packed = self._packed[2:]
        self._inflater = fast.decompressobj(-zlib.MAX_WBITS)
        return _HEADER


def _block(length: int, *, last: bool = False) -> bytes:
    """What comes before the bytes of a stored block."""
    return struct.pack("<?HH", last, length, length ^ _MOST_STORED)
