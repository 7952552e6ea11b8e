"""
JPEG (ITU-T T.81): the segments before the first scan are read; what pixels need is kept.

Pillow refuses a picture for a damaged APPn segment that no pixel depends on, and skips
padding byte by byte; libjpeg needs an EOI marker, which many files have lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from fxprofile.crunch.codec.containers.contents import (
    MAX_SEGMENTS,
    Buffer,
    Colour,
    Contents,
)
from fxprofile.crunch.codec.containers.exif import orientation
from fxprofile.crunch.limits import Limits, Refused

#: The most bytes between segments.
_MAX_PADDING: Final = 64 << 10

_SOI, _EOI, _SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
#: The tables that decoding needs: DHT, DAC, DQT, DNL, DRI.
_TABLES: Final = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD})
#: The frame headers SOF0 to SOF15; the codes of DHT, JPG and DAC lie among them.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_UNSUPPORTED: Final = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
}
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
#: Markers without a length: TEM, RST0 to RST7, SOI, EOI.
_BARE: Final = frozenset({0x01, *range(0xD0, 0xDA)})

#: A marker and the last fill byte before it (ITU-T T.81, B.1.1.2).  A "+" after the fill
#: byte would make the search quadratic in the number of fill bytes.
_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
#: A marker that ends a scan: any but TEM and the restart markers, which are part of it.
_AFTER_SCAN: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7\x01])")


def read_jpeg(data: Buffer, limits: Limits) -> Contents:
    """
    Read a JPEG up to its first scan.

    :raises Refused: if there is no scan or no supported frame header, if there are too many
        segments, fill bytes or scans, or if whole scans are missing.
    """
    head: list[bytes] = []
    jfif = adobe = exif = b""
    icc: dict[int, bytes] = {}
    frame: tuple[int, bytes] | None = None
    at, padding = 2, 0
    for _ in range(MAX_SEGMENTS):
        match = _MARKER.search(data, at)
        padding += (match.end() if match else len(data)) - at - 2
        if padding > _MAX_PADDING:
            raise Refused("too_large", "too many bytes between segments")
        if match is None or match[0] == _EOI:
            raise Refused("corrupt", "no scan")
        code, start, at = match[1][0], match.end() - 2, match.end()
        if code == _SOS:
            break
        if code in _BARE:
            continue
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        body = data[start + 4 : at]
        if code in _FRAMES:
            frame = code, body
        if code in _TABLES or code in _FRAMES:
            head.append(data[start:at])
        elif code == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14:
            jfif = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
        elif code == 0xE1 and body.startswith(b"Exif\0") and not exif:
            exif = body
        elif code == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            icc.setdefault(body[12] if len(body) > 13 else 0, body[14:])
        elif code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = data[start:at]
    else:
        raise Refused("too_large", f"more than {MAX_SEGMENTS} segments")
    if frame is None:
        raise Refused("corrupt", "no frame header")
    contents = _frame(*frame, scan=data[at + 2 : at + 3])
    contents.is_truncated = data.rfind(_EOI, start) < 0
    end = _EOI if contents.is_truncated else b""
    clean = b"".join([_SOI, jfif, adobe, *head, memoryview(data)[start:], end])
    # Each scan begins with these two bytes; most files have so few that none need be parsed.
    if clean.count(b"\xff\xda") > limits.max_scans:
        _check_scans(data, start, limits.max_scans)
    if contents.is_truncated and not _all_scans_begun(data, start, frame[1]):
        raise Refused("corrupt", "missing scans")
    contents.stream = BytesIO(clean)
    contents.orientation = orientation(exif)
    contents.colour = Colour(icc=b"".join(icc[number] for number in sorted(icc)) or None)
    return contents


def _frame(code: int, body: bytes, scan: bytes) -> Contents:
    """
    Read a frame header (ITU-T T.81, B.2.2).

    :param scan: the number of components in the first scan.
    """
    if code in _UNSUPPORTED:
        raise Refused("unsupported", f"{_UNSUPPORTED[code]} JPEG")
    if len(body) < 6 or not body[5] or len(body) < 6 + 3 * body[5]:
        raise Refused("corrupt", "frame header too short")
    if body[0] != 8:
        raise Refused("unsupported", f"{body[0]}-bit JPEG")
    sampling = [body[7 + 3 * number] for number in range(body[5])]
    across, down = max(s >> 4 for s in sampling), max(s & 15 for s in sampling)
    # Of a sequential picture too, all coefficients are kept if there are several scans.
    progressive = code in _PROGRESSIVE or scan < body[5:6]
    return Contents(
        kind="jpeg",
        canvas=(int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")),
        stream=BytesIO(),
        mcu=None if progressive else (8 * max(1, across), 8 * max(1, down)),
    )


def _check_scans(data: Buffer, first: int, max_scans: int) -> None:
    """
    Refuse a JPEG with too many scans.

    Each scan of a progressive JPEG costs a pass over all its pixels and may be less than a
    hundred bytes long: ten megabytes can hold an hour of work.
    """
    segments = MAX_SEGMENTS + 2 * max_scans
    for number, _ in enumerate(_scans(data, first, segments), 1):
        if number > max_scans:
            raise Refused("too_large", f"more than {max_scans} scans")


def _scans(data: Buffer, at: int, most: int) -> Iterator[bytes]:
    """Yield the header of each scan (ITU-T T.81, B.2.3) until the end of the picture."""
    for _ in range(most):
        match = _AFTER_SCAN.search(data, at)
        if match is None or match[0] == _EOI:
            return
        code, at = match[1][0], match.end()
        length = 0 if code in _BARE else max(2, int.from_bytes(data[at : at + 2], "big"))
        if code == _SOS:
            yield data[at + 2 : at + length]
        at += length
    raise Refused("too_large", "too many segments")


def _all_scans_begun(data: Buffer, first: int, frame: bytes) -> bool:
    """
    Return whether a truncated picture lacks only the rest of its last scan.

    Then every block is present; the last ones of a progressive picture have less detail.
    """
    bits = {frame[6 + 3 * number]: [99] * 64 for number in range(frame[5])}
    for header in _scans(data, first, MAX_SEGMENTS):
        if len(header) < 4 or len(header) < 4 + 2 * header[0]:
            continue
        low, high, approximation = header[1 + 2 * header[0] :][:3]
        for number in range(header[0]):
            for index in range(low, min(high, 63) + 1):
                if header[1 + 2 * number] in bits:
                    bits[header[1 + 2 * number]][index] = approximation & 15
    return all(left == 0 for component in bits.values() for left in component)
