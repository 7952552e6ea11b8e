"""
AVIF and HEIC (ISO/IEC 14496-12, 23008-12; MIAF, 23000-22): what the primary item says of itself.

The decoders give pixels as they are stored.  Pillow turns them by XMP and by EXIF, which MIAF
forbids, and leaves in what a clean aperture cuts away.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor
from typing import Final

from fxprofile.crunch.codec.containers.contents import (
    MAX_SEGMENTS,
    Box,
    Buffer,
    Cicp,
    Colour,
    Contents,
    Pieces,
)
from fxprofile.crunch.limits import Limits, Refused

#: The corners of a picture, as an EXIF orientation has to show them.
_ORIENTATIONS: Final = {
    ((0, 1), (2, 3)): 1,
    ((1, 0), (3, 2)): 2,
    ((3, 2), (1, 0)): 3,
    ((2, 3), (0, 1)): 4,
    ((0, 2), (1, 3)): 5,
    ((2, 0), (3, 1)): 6,
    ((3, 1), (2, 0)): 7,
    ((1, 3), (0, 2)): 8,
}

_Properties = dict[bytes, bytes]


def read_avif(data: Buffer, limits: Limits) -> Contents:
    """
    Read an AVIF.

    :raises Refused: if the primary item has no size, or if there are too many boxes.
    """
    contents, properties = _read(data, "avif")
    contents.crop = _clean_aperture(properties.get(b"clap", b""), *contents.canvas)
    contents.orientation = _orientation(properties)
    return contents


def read_heic(data: Buffer, limits: Limits) -> Contents:
    """
    Read a HEIC, whose decoder crops and turns by itself.

    :raises Refused: if the primary item has no size, or if there are too many boxes.
    """
    return _read(data, "heic")[0]


def _read(data: Buffer, kind: str) -> tuple[Contents, _Properties]:
    properties = dict(_primary_properties(data))
    size = properties.get(b"ispe", b"")
    if len(size) < 12:
        raise Refused("corrupt", "the primary item has no size")
    width, height = struct.unpack(">II", size[4:12])
    colour = Colour(icc=properties.get(b"prof"), cicp=_code_points(properties.get(b"nclx", b"")))
    if colour.icc:
        colour = Colour(icc=colour.icc)
    stream = Pieces([memoryview(data)])
    return Contents(kind=kind, canvas=(width, height), stream=stream, colour=colour), properties


def _primary_properties(data: Buffer) -> Iterator[tuple[bytes, bytes]]:
    """Give the properties of the primary item; ``colr`` by the type of colour."""
    meta = dict(_boxes(data, *_find(data, 0, len(data), b"meta", skip=4)))
    at, end = meta.get(b"pitm", (0, 0))
    wide = data[at : at + 1] != b"\0"
    primary = int.from_bytes(data[at + 4 : at + (8 if wide else 6)], "big")
    shared: list[tuple[bytes, int, int]] = []
    for name, (start, stop) in _boxes(data, *meta.get(b"iprp", (0, 0))):
        if name == b"ipco":
            shared = [(n, s, e) for n, (s, e) in _boxes(data, start, stop)]
    for name, (start, stop) in _boxes(data, *meta.get(b"iprp", (0, 0))):
        if name == b"ipma":
            for index in _associations(data[start:stop], primary):
                if 0 < index <= len(shared):
                    name, at, end = shared[index - 1]
                    body = data[at:end]
                    if name != b"colr":
                        yield name, body
                    elif body[:4] == b"rICC":
                        yield b"prof", body[4:]
                    else:
                        yield body[:4], body[4:]


def _find(data: Buffer, at: int, stop: int, wanted: bytes, *, skip: int) -> tuple[int, int]:
    for name, (start, end) in _boxes(data, at, stop):
        if name == wanted:
            return start + skip, end
    return 0, 0


def _boxes(data: Buffer, at: int, stop: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Give the type of each box, and where its body is (ISO/IEC 14496-12, section 4.2)."""
    for _ in range(MAX_SEGMENTS):
        if at + 8 > stop:
            return
        length, name, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = min(at + length, stop) if length else stop
        if end < at + head:
            return
        yield name, (at + head, end)
        at = end
    raise Refused("too_large", f"more than {MAX_SEGMENTS} boxes")


def _associations(body: bytes, item: int) -> list[int]:
    """Return the numbers of the properties of an item (ISO/IEC 23008-12, section 9.3.1)."""
    id_size = 2 if body[:1] == b"\0" else 4
    wide = bool(body[3:4] and body[3] & 1)
    at = 8
    for _ in range(min(int.from_bytes(body[4:8], "big"), MAX_SEGMENTS)):
        if at + id_size >= len(body):
            break
        found, count = int.from_bytes(body[at : at + id_size], "big"), body[at + id_size]
        at += id_size + 1
        size = 2 if wide else 1
        if found == item:
            mask = 0x7FFF if wide else 0x7F
            starts = range(at, at + count * size, size)
            return [int.from_bytes(body[s : s + size], "big") & mask for s in starts]
        at += count * size
    return []


def _code_points(body: bytes) -> Cicp | None:
    return Cicp(*struct.unpack(">HH", body[:4])) if len(body) >= 4 else None


def _clean_aperture(body: bytes, width: int, height: int) -> Box | None:
    """
    Return what a clean aperture leaves (ISO/IEC 14496-12, section 12.1.4), rounded inwards.

    One that makes no sense leaves nothing to go by, so it is not applied; browsers do so.
    """
    if len(body) < 32:
        return None
    numbers = struct.unpack(">IIIIiIiI", body[:32])
    if not all(numbers[1::2]):
        return None
    across, down, right, lower = (
        Fraction(a, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)
    )
    left, top = (width - across) / 2 + right, (height - down) / 2 + lower
    box = ceil(left), ceil(top), floor(left + across), floor(top + down)
    inside = 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    return box if inside else None


def _orientation(properties: _Properties) -> int:
    """Return the orientation: first ``irot``, then ``imir`` (MIAF, section 7.3.6.7)."""
    grid: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3))
    for _ in range((properties.get(b"irot") or b"\0")[0] & 3):
        grid = tuple(zip(*grid, strict=True))[::-1]
    mirror = properties.get(b"imir")
    if mirror:
        grid = tuple(row[::-1] for row in grid) if mirror[0] & 1 else grid[::-1]
    return _ORIENTATIONS[grid]  # type: ignore[index]
