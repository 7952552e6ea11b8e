"""
AVIF and HEIC (ISO/IEC 14496-12, 23008-12; MIAF, 23000-22): the properties of the primary item.

Pillow orients an AVIF by its EXIF and XMP, which MIAF forbids, and ignores its clean aperture;
so these properties are read here and applied after decoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from math import ceil, floor
from typing import Final

from fxprofile.crunch.codec.containers.contents import (
    MAX_SEGMENTS,
    Box,
    Buffer,
    Colour,
    Contents,
)
from fxprofile.crunch.limits import Limits, Refused

_NOTHING: Final = memoryview(b"")

#: The EXIF orientation by the number of quarter turns anticlockwise (``irot``), which are
#: applied first: not mirrored; then mirrored top to bottom, and left to right (``imir``).
_ROTATED: Final = (1, 8, 3, 6)
_MIRRORED: Final = ((4, 5, 2, 7), (2, 7, 4, 5))


def read_avif(data: Buffer, limits: Limits) -> Contents:
    """
    Read an AVIF.

    :raises Refused: if the primary item declares no size, or if there are too many boxes.
    """
    properties = _primary_properties(memoryview(data))
    size = properties.get(b"ispe", _NOTHING)
    if len(size) < 12:
        raise Refused("corrupt", "the primary item has no size")
    width, height = struct.unpack(">II", size[4:12])
    icc = properties.get(b"prof") or properties.get(b"rICC")
    code_points = properties.get(b"nclx", _NOTHING)[:4]
    if icc:
        colour = Colour(icc=bytes(icc))
    else:
        colour = Colour(cicp=struct.unpack(">HH", code_points) if len(code_points) == 4 else None)
    return Contents(
        kind="avif",
        canvas=(width, height),
        stream=BytesIO(data[:]),
        orientation=_orientation(properties),
        colour=colour,
        crop=_clean_aperture(properties.get(b"clap", _NOTHING), width, height),
    )


def read_heic(data: Buffer, limits: Limits) -> Contents:
    """
    Read a HEIC, whose decoder crops and orients by itself.

    :raises Refused: if the primary item declares no size, or if there are too many boxes.
    """
    return replace(read_avif(data, limits), kind="heic", crop=None, orientation=1)


def _primary_properties(data: memoryview) -> Mapping[bytes, memoryview]:
    """Return the properties of the primary item; a ``colr`` is keyed by its colour type."""
    # A full box begins with four bytes of version and flags.
    full = next((body for name, body in _boxes(data) if name == b"meta"), _NOTHING)
    meta = dict(_boxes(full[4:]))
    item = meta.get(b"pitm", _NOTHING)
    primary = int.from_bytes(item[4 : 6 if item[:1].tobytes() == b"\0" else 8], "big")
    boxes = list(_boxes(meta.get(b"iprp", _NOTHING)))
    shared = [box for name, body in boxes if name == b"ipco" for box in _boxes(body)]
    properties = {}
    for body in (body for name, body in boxes if name == b"ipma"):
        for index in _associations(body, primary):
            if 0 < index <= len(shared):
                name, value = shared[index - 1]
                if name == b"colr":
                    name, value = bytes(value[:4]), value[4:]
                properties[name] = value
    return properties


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and the body of each box (ISO/IEC 14496-12, section 4.2)."""
    for _ in range(MAX_SEGMENTS):
        if len(data) < 8:
            return
        length, name, head = int.from_bytes(data[:4], "big"), bytes(data[4:8]), 8
        if length == 1:
            length, head = int.from_bytes(data[8:16], "big"), 16
        end = min(length or len(data), len(data))
        if end < head:
            return
        yield name, data[head:end]
        data = data[end:]
    raise Refused("too_large", f"more than {MAX_SEGMENTS} boxes")


def _associations(body: memoryview, item: int) -> list[int]:
    """Return the property indices of an item (ISO/IEC 23008-12, section 9.3.1)."""
    id_size = 2 if body[:1].tobytes() == b"\0" else 4
    size = 2 if body[3:4] and body[3] & 1 else 1
    at = 8
    for _ in range(min(int.from_bytes(body[4:8], "big"), MAX_SEGMENTS)):
        if at + id_size >= len(body):
            break
        found, count = int.from_bytes(body[at : at + id_size], "big"), body[at + id_size]
        at += id_size + 1
        end = at + count * size
        if found == item:
            # The highest bit marks a property that a reader must support.
            mask = (1 << 8 * size - 1) - 1
            return [int.from_bytes(body[s : s + size], "big") & mask for s in range(at, end, size)]
        at = end
    return []


def _clean_aperture(body: memoryview, width: int, height: int) -> Box | None:
    """
    Return the box of a clean aperture (ISO/IEC 14496-12, section 12.1.4), rounded inwards.

    An invalid clean aperture is ignored, as in browsers.
    """
    if len(body) < 32:
        return None
    numbers = struct.unpack(">IIIIiIiI", body[:32])
    if not all(numbers[1::2]):
        return None
    across, down, right, lower = map(Fraction, numbers[::2], numbers[1::2])
    left, top = (width - across) / 2 + right, (height - down) / 2 + lower
    box = ceil(left), ceil(top), floor(left + across), floor(top + down)
    inside = 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    return box if inside else None


def _orientation(properties: Mapping[bytes, memoryview]) -> int:
    """Return the orientation: first ``irot``, then ``imir`` (MIAF, section 7.3.6.7)."""
    turns = (properties.get(b"irot") or b"\0")[0] & 3
    mirror = properties.get(b"imir")
    return _MIRRORED[mirror[0] & 1][turns] if mirror else _ROTATED[turns]
