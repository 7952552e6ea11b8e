"""
PNG (W3C Portable Network Graphics, third edition): the chunks that pixels and colours need.

A damaged ancillary chunk is dropped, as in browsers; Pillow would refuse the picture.
Damage in IHDR, in a palette that pixels refer to, or in the image data is refused.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from fxprofile.crunch.codec.containers.contents import Box, Buffer, Colour, Contents
from fxprofile.crunch.codec.containers.exif import orientation
from fxprofile.crunch.codec.png import SIGNATURE, chunk
from fxprofile.crunch.limits import Limits, Refused

#: The bit depths of each colour type (table 11.1).
_DEPTHS: Final = {
    0: (1, 2, 4, 8, 16),
    2: (8, 16),
    3: (1, 2, 4, 8),
    4: (8, 16),
    6: (8, 16),
}
_GREY, _RGB, _PALETTE = 0, 2, 3

#: The most bytes of an ICC profile; that of a printer may have several million.
_MAX_PROFILE: Final = 8 << 20

#: The chunks to keep if they are intact and precede the image data.
_READ: Final = frozenset(
    {b"PLTE", b"tRNS", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"acTL"}
)


@dataclass
class _Chunks:
    """
    The relevant chunks of a PNG, and the first frame of its animation.

    Image data stays where it is until it is joined: there may be much of it.
    """

    header: bytes = b""
    is_apple: bool = False
    before_image: dict[bytes, bytes] = field(default_factory=dict)
    image: list[memoryview] = field(default_factory=list)
    image_is_frame: bool = False
    frame: bytes = b""
    frame_chunks: int = 0
    frame_image: list[memoryview] = field(default_factory=list)


def read_png(data: Buffer, limits: Limits) -> Contents:
    """
    Read a PNG.

    :raises Refused: if the header or a palette that pixels refer to is damaged, if there is
        no image data, or if there is an unknown critical chunk.
    """
    chunks = _read(data)
    found = chunks.before_image
    width, height, depth, kind, compression, filtering, interlace = struct.unpack(
        ">IIBBBBB", chunks.header
    )
    if depth not in _DEPTHS.get(kind, ()) or compression or filtering or interlace > 1:
        raise Refused("corrupt", "invalid header")
    sides, image = (width, height), chunks.image
    frame = None
    # A number of frames with its highest bit set is none (section 7.1).
    if any(chunks.frame_image) and 0 < int.from_bytes(found.get(b"acTL", b"")[:4], "big") < 1 << 31:
        frame = _frame(chunks.frame, width, height)
    if frame is not None:
        sides, image = (frame[2] - frame[0], frame[3] - frame[1]), chunks.frame_image
    if not image:
        raise Refused("corrupt", "no image data")
    palette = found.get(b"PLTE", b"")
    if kind == _PALETTE and (len(palette) % 3 or not 0 < len(palette) <= 768):
        raise Refused("corrupt", "missing or invalid palette")
    clean = SIGNATURE + chunk(b"IHDR", struct.pack(">II", *sides) + chunks.header[8:])
    if kind == _PALETTE:
        clean += chunk(b"PLTE", palette)
    if transparency := _transparency(found.get(b"tRNS", b""), kind, depth, len(palette) // 3):
        clean += chunk(b"tRNS", transparency)
    # Apple's tools write raw deflate data, without the zlib header (RFC 1950).
    start = b"\x78\x01" if chunks.is_apple else b""
    length = len(start) + sum(map(len, image))
    clean += struct.pack(">I", length) + b"IDAT" + start
    return Contents(
        kind="png",
        canvas=(width, height),
        stream=BytesIO(b"".join((clean, *image, bytes(4), chunk(b"IEND", b"")))),
        frame=frame,
        orientation=orientation(found.get(b"eXIf", b"")),
        colour=_colour(found),
        is_apple=chunks.is_apple,
    )


def _read(data: Buffer) -> _Chunks:
    found = _Chunks()
    for name, body, checksum in _walk(data):
        if not found.header:
            if name == b"CgBI":
                found.is_apple = True
            elif name == b"IHDR" and len(body) == 13 and _is_intact(name, body, checksum):
                found.header = bytes(body)
            else:
                break
        elif name == b"IDAT":
            if body:
                found.image.append(body)
        elif name == b"fcTL":
            if found.frame or found.image_is_frame:
                continue
            if found.image:
                found.frame = bytes(body)
            found.image_is_frame = not found.image
        elif name == b"fdAT":
            # Sequence number 0 is that of the frame control chunk before it.
            if found.frame and body[:4] == (found.frame_chunks + 1).to_bytes(4, "big"):
                found.frame_chunks += 1
                found.frame_image.append(body[4:])
        elif name == b"IEND":
            break
        elif name in _READ:
            is_new = not found.image and name not in found.before_image
            if is_new and _is_intact(name, body, checksum):
                found.before_image[name] = bytes(body)
        elif not name[0] & 0x20:
            raise Refused("corrupt", f"unknown critical chunk {name.decode('ascii')}")
    if not found.header:
        raise Refused("corrupt", "no header")
    return found


def _walk(data: Buffer) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield the name, body and CRC of each chunk; image data may end with the file."""
    view, at = memoryview(data), len(SIGNATURE)
    while at + 8 <= len(data):
        name = data[at + 4 : at + 8]
        if not name.isalpha() or not name.isascii():
            return
        at, end = at + 8, at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) and name not in (b"IDAT", b"fdAT"):
            return
        yield name, view[at:end], view[end : end + 4]
        at = end + 4


def _is_intact(name: bytes, body: memoryview, checksum: memoryview) -> bool:
    return checksum == struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _frame(control: bytes, width: int, height: int) -> Box | None:
    """Return the box of a frame by its frame control chunk; None if the chunk is invalid."""
    if len(control) != 26 or any(control[:4]):
        return None
    across, down, left, top = struct.unpack(">4I", control[4:20])
    if not across or not down or left + across > width or top + down > height:
        return None
    return left, top, left + across, top + down


def _transparency(body: bytes, kind: int, depth: int, colours: int) -> bytes:
    """
    Return a ``tRNS`` chunk for the decoder; empty if there is no valid one.

    The decoder compares it with samples scaled to 8 bits, except in 16-bit greyscale.
    """
    if kind == _PALETTE:
        return body if len(body) <= colours else b""
    if len(body) != {_GREY: 2, _RGB: 6}.get(kind):
        return b""
    samples = struct.unpack(f">{len(body) // 2}H", body)
    if depth == 16:
        return body if kind == _GREY else struct.pack(">3H", *(sample >> 8 for sample in samples))
    most = (1 << depth) - 1
    return struct.pack(f">{len(samples)}H", *((s & most) * 255 // most for s in samples))


def _colour(found: dict[bytes, bytes]) -> Colour:
    """Return the colour space by precedence (section 4.3): cICP, iCCP, sRGB, then gAMA."""
    code_points = found.get(b"cICP", b"")
    if len(code_points) == 4:
        return Colour(cicp=(code_points[0], code_points[1]))
    if profile := _profile(found.get(b"iCCP", b"")):
        return Colour(icc=profile)
    gamma, points = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    if len(found.get(b"sRGB", b"")) == 1 or len(gamma) != 4 or not any(gamma):
        return Colour()
    numbers = (
        [value / 100_000 for value in struct.unpack(">8I", points)] if len(points) == 32 else []
    )
    return Colour(
        gamma=int.from_bytes(gamma, "big") / 100_000, chromaticities=tuple(numbers) or None
    )


def _profile(body: bytes) -> bytes | None:
    name, separator, rest = body.partition(b"\0")
    if not separator or len(name) > 79 or rest[:1] != b"\0":
        return None
    try:
        profile = zlib.decompressobj().decompress(rest[1:], _MAX_PROFILE + 1)
    except zlib.error:
        return None
    return profile if len(profile) <= _MAX_PROFILE else None
