"""What a container reader finds: a clean stream for the decoder, and what else decides the look."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from mmap import mmap
from typing import Final

Buffer = bytes | mmap

#: The most segments, chunks or boxes that are read.  A real photo has some dozens; without a
#: limit, a file of nothing else takes seconds.
MAX_SEGMENTS: Final = 4096

#: Left, upper, right and lower edge, in pixels of the stored picture.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Colour:
    """
    What a container says of its colours; the first of these that is set counts.

    :ivar cicp: the code points (ITU-T H.273) of the primaries and of the transfer
        characteristics, of a PNG ``cICP`` chunk or an ``nclx`` box.
    :ivar icc: an ICC profile.
    :ivar gamma: the exponent that a PNG ``gAMA`` chunk states, such as 0.45455.
    :ivar chromaticities: x and y of white, red, green and blue, as a PNG ``cHRM`` chunk
        states them; used with ``gamma`` only.
    """

    cicp: tuple[int, int] | None = None
    icc: bytes | None = None
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None


@dataclass
class Contents:
    """
    A picture in its container.

    :ivar kind: the type, as :func:`fxprofile.crunch.signature.sniff` names it.
    :ivar canvas: width and height of the whole picture, as stored.
    :ivar stream: what the decoder gets: the pixels and what they need, nothing else.
    :ivar frame: where the decoded frame lies on a transparent canvas; None if it is the canvas.
    :ivar orientation: the EXIF value (CIPA DC-008, section 4.6.5) to undo after decoding.
    :ivar crop: the only part of the picture that its owner shows; None for all of it.
    :ivar is_scalable: whether the decoder can decode at a fraction of the size in constant
        memory, as it can a baseline JPEG.
    :ivar is_progressive: whether all coefficients are in memory at once.
    :ivar mcu: the size of a minimum coded unit if the end of a JPEG is missing.
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
    is_scalable: bool = False
    is_progressive: bool = False
    mcu: tuple[int, int] | None = None
    is_truncated: bool = False
    is_apple: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height of the visible part, as stored."""
        left, top, right, bottom = self.crop or (0, 0, *self.canvas)
        return right - left, bottom - top
