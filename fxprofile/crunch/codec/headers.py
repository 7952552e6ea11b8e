"""
Limits on a JPEG that are checked before Pillow opens it.

A decoder's header parser can be the expensive part: Pillow reads the segments of a JPEG byte
by byte in Python, and decodes each scan over all pixels.  Nothing here allocates, and each
loop is bounded.  No library counts scans without decoding them.
"""

from __future__ import annotations

import re
from mmap import mmap
from typing import Final

from fxprofile.crunch.limits import Refused

Buffer = bytes | mmap

#: Segments that a file may have before its first scan.  A real photo has some dozens;
#: without a limit, Pillow spends seconds of Python on a file that has only those.
MAX_SEGMENTS: Final = 4096
#: Bytes outside of any segment that a file may have before its first scan.
MAX_PADDING: Final = 64 << 10

#: The code of a marker with the last of the fill bytes before it (ITU-T T.81, B.1.1.2).
#: A "+" after the fill byte would make the search quadratic in the length of the fill.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
#: A marker that may end a scan: not a restart marker, which belongs to it.
_AFTER_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7\x01])")

_SOS, _EOI = 0xDA, 0xD9
#: Markers without a length: TEM, RST0 to RST7, SOI, EOI.
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})


def check_jpeg(data: Buffer, *, max_scans: int) -> None:
    """
    Refuse a JPEG with too many scans, segments or fill bytes.

    Each scan of a progressive JPEG costs a pass over all its pixels and may be less
    than a hundred bytes long: ten megabytes can hold an hour of work.

    :raises Refused: ``too_large``.
    """
    first = _first_scan(data)
    if first is None:
        return
    # A scan begins with these two bytes, so there are at most so many scans, and of an
    # honest file nothing more has to be read.
    if _count(data, b"\xff\xda", first, max_scans) <= max_scans:
        return
    scans, segments, at = 0, 0, first
    while match := _AFTER_SCAN.search(data, at):
        code, at = match[1][0], match.end()
        if code == _EOI:
            break
        if code == _SOS:
            scans += 1
            if scans > max_scans:
                raise Refused("too_large", f"more than {max_scans} scans")
        segments += 1
        if segments > MAX_SEGMENTS + 2 * max_scans:
            raise Refused("too_large", "too many segments")
        if code not in _BARE:
            at += _length(data, at)


def _first_scan(data: Buffer) -> int | None:
    """Return where the first scan begins, or None if there is none."""
    at = 2
    padding = 0
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        padding += (match.end() if match else len(data)) - at - 2
        if padding > MAX_PADDING:
            raise Refused("too_large", "too many bytes between segments")
        if match is None or match[1][0] == _EOI:
            return None
        if match[1][0] == _SOS:
            return match.end() - 2
        at = match.end()
        if match[1][0] not in _BARE:
            at += _length(data, at)
    raise Refused("too_large", f"more than {MAX_SEGMENTS} segments")


def _length(data: Buffer, at: int) -> int:
    return max(2, int.from_bytes(data[at : at + 2], "big"))


def _count(data: Buffer, needle: bytes, start: int, enough: int) -> int:
    """Count the occurrences of some bytes, up to one more than ``enough``."""
    found = 0
    while found <= enough and (start := data.find(needle, start)) >= 0:
        found += 1
        start += len(needle)
    return found
