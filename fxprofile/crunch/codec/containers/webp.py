"""
WebP (RFC 9649): the picture, or the first frame of an animation, without the rest.

Pillow's opener reserves memory for the canvas that a file claims, and refuses one whose
RIFF size is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from fxprofile.crunch.codec.containers.contents import (
    MAX_SEGMENTS,
    Box,
    Buffer,
    Colour,
    Contents,
    Pieces,
)
from fxprofile.crunch.codec.containers.exif import orientation
from fxprofile.crunch.limits import Limits, Refused

_ALPHA: Final = 0x10


def read_webp(data: Buffer, limits: Limits) -> Contents:
    """
    Read a WebP.

    :raises Refused: if there is no picture, or if there are too many chunks.
    """
    found: dict[bytes, tuple[int, int]] = {}
    for name, at, end in _walk(data, 12, len(data)):
        found.setdefault(name, (at, end))
    frame: Box | None = None
    canvas: tuple[int, int] | None = None
    picture = found
    if b"VP8X" in found and b"ANMF" in found:
        at, end = found[b"ANMF"]
        canvas = _sides(data, found[b"VP8X"][0] + 4)
        left, top = 2 * _number(data, at), 2 * _number(data, at + 3)
        across, down = _sides(data, at + 6)
        frame = (left, top, left + across, top + down)
        picture = {name: (s, e) for name, s, e in _walk(data, at + 16, end)}
    name = b"VP8L" if b"VP8L" in picture else b"VP8 "
    if name not in picture:
        raise Refused("corrupt", "no picture")
    at, end = picture[name]
    sides = _sides_of_lossless(data[at : at + 5]) if name == b"VP8L" else _sides_of_lossy(data, at)
    if frame is not None and (frame == (0, 0, *(canvas or ())) or sides != _size(frame)):
        frame, canvas = None, sides
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    if b"ALPH" in picture and name == b"VP8 ":
        extended = struct.pack("<I", _ALPHA) + b"".join(
            (side - 1).to_bytes(3, "little") for side in sides
        )
        pieces += _chunk(b"VP8X", memoryview(extended))
        pieces += _chunk(b"ALPH", view[slice(*picture[b"ALPH"])])
    pieces += _chunk(name, view[at:end])
    length = 4 + sum(map(len, pieces))
    exif, icc = (data[slice(*found.get(key, (0, 0)))] for key in (b"EXIF", b"ICCP"))
    return Contents(
        kind="webp",
        canvas=canvas or sides,
        stream=Pieces([b"RIFF", struct.pack("<I", length), b"WEBP", *pieces]),
        frame=frame,
        orientation=orientation(exif),
        colour=Colour(icc=icc or None),
    )


def _walk(data: Buffer, at: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Give the name, start and end of each chunk."""
    for _ in range(MAX_SEGMENTS):
        if at + 8 > stop:
            return
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        yield name, at, min(at + length, stop)
        at += length + length % 2
    raise Refused("too_large", f"more than {MAX_SEGMENTS} chunks")


def _chunk(name: bytes, body: memoryview) -> list[bytes | memoryview]:
    return [name, struct.pack("<I", len(body)), body, bytes(len(body) % 2)]


def _number(data: Buffer, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _sides(data: Buffer, at: int) -> tuple[int, int]:
    return _number(data, at) + 1, _number(data, at + 3) + 1


def _size(frame: Box) -> tuple[int, int]:
    return frame[2] - frame[0], frame[3] - frame[1]


def _sides_of_lossy(data: Buffer, at: int) -> tuple[int, int]:
    """Read the sides of a VP8 key frame (RFC 6386, section 9.1)."""
    if data[at + 3 : at + 6] != b"\x9d\x01\x2a":
        raise Refused("corrupt", "no key frame")
    width, height = struct.unpack("<HH", data[at + 6 : at + 10].ljust(4, b"\0"))
    return width & 0x3FFF, height & 0x3FFF


def _sides_of_lossless(head: bytes) -> tuple[int, int]:
    """Read the sides of a lossless picture (RFC 9649, section 3.4)."""
    if len(head) < 5 or head[0] != 0x2F:
        raise Refused("corrupt", "no lossless header")
    bits = int.from_bytes(head[1:], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
