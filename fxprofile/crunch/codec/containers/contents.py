"""The result of a container reader: a clean stream for the decoder, and how to show its pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import Final

Buffer = bytes | mmap

#: The most segments, chunks or boxes that are read.  A real photo has a few dozen; without a
#: limit, a file that consists of empty ones would take seconds.
MAX_SEGMENTS: Final = 4096

#: Left, upper, right and lower edge, in pixels of the stored picture.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Colour:
    """
    The colour space that a container declares; the first attribute that is set applies.

    :ivar cicp: the code points (ITU-T H.273) of the primaries and of the transfer
        characteristics, from a PNG ``cICP`` chunk or an ``nclx`` box.
    :ivar icc: an ICC profile.
    :ivar gamma: the exponent of a PNG ``gAMA`` chunk, such as 0.45455.
    :ivar chromaticities: x and y of white, red, green and blue, from a PNG ``cHRM`` chunk;
        used only together with ``gamma``.
    """

    cicp: tuple[int, int] | None = None
    icc: bytes | None = None
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None


@dataclass
class Contents:
    """
    The contents of a container: a stream for the decoder, and what its metadata declares.

    :ivar kind: the type, as :func:`fxprofile.crunch.signature.sniff` names it.
    :ivar canvas: width and height of the whole picture in pixels, before it is oriented.
    :ivar stream: the input of the decoder: the compressed pixels and what decoding needs.
    :ivar frame: the position of the decoded frame on a transparent canvas; None if the frame
        fills the canvas.
    :ivar orientation: the EXIF value (CIPA DC-008, section 4.6.5) to undo after decoding.
    :ivar crop: the visible part of the picture; None for all of it.
    :ivar mcu: width and height in pixels of a minimum coded unit of a sequential JPEG, which
        can be decoded at a fraction of its size in constant memory; None if it is another
        type, or a JPEG whose coefficients are all kept in memory.
    :ivar is_truncated: whether the end of the compressed pixels is missing.
    :ivar is_apple: whether this is an iPhone-optimised PNG: blue first, alpha premultiplied.
    """

    kind: str
    canvas: tuple[int, int]
    stream: BytesIO
    frame: Box | None = None
    orientation: int = 1
    colour: Colour = field(default_factory=Colour)
    crop: Box | None = None
    mcu: tuple[int, int] | None = None
    is_truncated: bool = False
    is_apple: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of the visible part in pixels, before it is oriented."""
        left, top, right, bottom = self.crop or (0, 0, *self.canvas)
        return right - left, bottom - top
