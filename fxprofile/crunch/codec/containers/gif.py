"""
GIF (GIF89a, CompuServe 1990): the first frame, on a transparent canvas.

Pillow fills the area outside the first frame with a colour of the palette, lets a frame
enlarge the canvas, and refuses a file that ends after its first frame.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from fxprofile.crunch.codec.containers.contents import Box, Buffer, Contents
from fxprofile.crunch.limits import Limits, Refused

_EXTENSION, _IMAGE, _TRAILER = b"\x21", b"\x2c", b"\x3b"
#: The label of a graphic control extension, and its length.
_CONTROL: Final = b"\xf9\4"


def read_gif(data: Buffer, limits: Limits) -> Contents:
    """
    Read a GIF up to the end of its first frame.

    :raises Refused: if there is no frame.
    """
    width, height = _pair(data, 6)
    colours = _table(data[10:11])
    control = b""
    at = 13 + colours
    while (block := data[at : at + 1]) not in (b"", _IMAGE, _TRAILER):
        if block != _EXTENSION:
            at += 1
            continue
        if data[at + 1 : at + 3] == _CONTROL:
            control = data[at : at + 8]
        at, _ = _end_of_blocks(data, at + 2)
    if block != _IMAGE or at + 11 > len(data):
        raise Refused("corrupt", "no frame")
    left, top = _pair(data, at + 1)
    across, down = _pair(data, at + 5)
    start = at + 10 + _table(data[at + 9 : at + 10])
    end, cut = _end_of_blocks(data, start + 1)
    if width < across or height < down:
        # Some encoders do not set the size of the canvas; browsers use that of the frame.
        width, height, left, top = across, down, 0, 0
    frame: Box | None = (left, top, left + across, top + down)
    if frame == (0, 0, width, height):
        frame = None
    sides = across.to_bytes(2, "little") + down.to_bytes(2, "little")
    view = memoryview(data)
    clean: list[bytes | memoryview] = [
        *(data[:6], sides, data[10:13], view[13 : 13 + colours], control),
        *(_IMAGE, bytes(4), sides, data[at + 9 : at + 10]),
    ]
    if cut is None:
        clean += [view[at + 10 : end], _TRAILER]
    else:
        # The decoder ignores a block that is shorter than its declared length.
        length = max(0, end - cut - 1)
        clean += [view[at + 10 : cut], bytes((length,)), view[cut + 1 : end], b"\0", _TRAILER]
    return Contents(
        kind="gif",
        canvas=(width, height),
        stream=BytesIO(b"".join(clean)),
        frame=frame,
        is_truncated=cut is not None,
    )


def _pair(data: Buffer, at: int) -> tuple[int, int]:
    return (
        int.from_bytes(data[at : at + 2], "little"),
        int.from_bytes(data[at + 2 : at + 4], "little"),
    )


def _table(flags: bytes) -> int:
    """Return the length in bytes of the colour table that a packed field declares."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _end_of_blocks(data: Buffer, at: int) -> tuple[int, int | None]:
    """Return the end of a sequence of data sub-blocks; if it is truncated, also its last block."""
    last = at
    while at < len(data):
        if not data[at]:
            return at + 1, None
        last, at = at, at + 1 + data[at]
    return len(data), last
