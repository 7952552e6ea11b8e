"""
WebP (RFC 9649): the picture, or the first frame of an animation, without metadata.

Pillow allocates memory for the canvas that a file claims, before the caller can check it, and
refuses a file whose RIFF size is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Final

from fxprofile.crunch.codec.containers.contents import (
    MAX_SEGMENTS,
    Box,
    Buffer,
    Colour,
    Contents,
)
from fxprofile.crunch.codec.containers.exif import orientation
from fxprofile.crunch.limits import Limits, Refused
from fxprofile.crunch.signature import webp_sides

_ALPHA: Final = 0x10


def read_webp(data: Buffer, limits: Limits) -> Contents:
    """
    Read a WebP.

    :raises Refused: if there is no picture, or if there are too many chunks.
    """
    found: dict[bytes, memoryview] = {}
    for name, body in _walk(memoryview(data)[12:]):
        found.setdefault(name, body)
    picture = found
    frame: Box | None = None
    if b"VP8X" in found and b"ANMF" in found:
        control = found[b"ANMF"]
        picture = dict(_walk(control[16:]))
        left, top, across, down = (_number(control, at) for at in (0, 3, 6, 9))
        frame = 2 * left, 2 * top, 2 * left + across + 1, 2 * top + down + 1
    name = b"VP8L" if b"VP8L" in picture else b"VP8 "
    sides = webp_sides(name, picture.get(name, b""))
    if sides is None:
        raise Refused("corrupt", "no picture")
    canvas = sides
    if frame is not None:
        canvas = _number(found[b"VP8X"], 4) + 1, _number(found[b"VP8X"], 7) + 1
        if frame == (0, 0, *canvas) or sides != (across + 1, down + 1):
            frame, canvas = None, sides
    pieces: list[bytes | memoryview] = []
    if b"ALPH" in picture and name == b"VP8 ":
        extended = struct.pack("<I", _ALPHA) + b"".join(
            (side - 1).to_bytes(3, "little") for side in sides
        )
        pieces += _chunk(b"VP8X", extended) + _chunk(b"ALPH", picture[b"ALPH"])
    pieces += _chunk(name, picture[name])
    length = 4 + sum(map(len, pieces))
    exif, icc = (bytes(found.get(key, b"")) for key in (b"EXIF", b"ICCP"))
    return Contents(
        kind="webp",
        canvas=canvas,
        stream=BytesIO(b"".join([b"RIFF", struct.pack("<I", length), b"WEBP", *pieces])),
        frame=frame,
        orientation=orientation(exif),
        colour=Colour(icc=icc or None),
    )


def _walk(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the body of each chunk."""
    for _ in range(MAX_SEGMENTS):
        if len(data) < 8:
            return
        name, length = bytes(data[:4]), int.from_bytes(data[4:8], "little")
        yield name, data[8 : 8 + length]
        data = data[8 + length + length % 2 :]
    raise Refused("too_large", f"more than {MAX_SEGMENTS} chunks")


def _chunk(name: bytes, body: bytes | memoryview) -> list[bytes | memoryview]:
    return [name, struct.pack("<I", len(body)), body, bytes(len(body) % 2)]


def _number(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")
