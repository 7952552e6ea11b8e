"""
What has to be known of a file before Pillow may open it.

A decoder's header parser can be the costly part: some read a JPEG's segments byte by
byte in Python, some reserve memory for whatever canvas a file claims.  Nothing here
allocates, and no loop has more turns than its limit.
"""

from __future__ import annotations

import re
from mmap import mmap

from fxprofile.crunch.limits import MAX_PADDING, MAX_SEGMENTS, Refused

Buffer = bytes | mmap

#: A marker's code with the last of the fill bytes before it (ITU-T T.81, B.1.1.2).
#: A "+" after the fill byte would make the search quadratic in the length of the fill.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
#: A marker that may end a scan: not a restart, which belongs to it.
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
    # A real scan has these two bytes, so this is at least the number of scans, and
    # for an honest file nothing more has to be read.
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
    """Where the first scan begins, None if there is none."""
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
    """How often this occurs, counted to one more than is enough."""
    found = 0
    while found <= enough and (start := data.find(needle, start)) >= 0:
        found += 1
        start += len(needle)
    return found


def webp_sides(first_bytes: bytes) -> tuple[int, int] | None:
    """
    The canvas of a WebP, from its first 30 bytes (RFC 9649, section 2).

    :returns: None if they do not tell.
    """
    chunk, body = first_bytes[12:16], first_bytes[20:30]
    if chunk == b"VP8 " and len(body) == 10 and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return width, height
    if chunk == b"VP8X" and len(body) == 10:
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if chunk == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
