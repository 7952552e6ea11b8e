"""
The limits of one image, and the error of an image that is refused.

The limits travel from the pool to the helper as JSON; they do not change after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fxprofile.model.keys import VARIANTS

#: The largest size of one encoded picture in bytes, by the name of its variant.
#: The worst 600 pixel picture, noise with alpha, has 1.4 MB.
MAX_BYTES: Final[Mapping[str, int]] = {
    "default": 256 << 10,
    "small": 64 << 10,
    "large": 2 << 20,
}

#: The largest header of a result file, in bytes.
MAX_HEADER: Final = 4 << 10

#: The largest result file in bytes, for each format in it.
MAX_RESULT: Final = 3 << 20

#: The names of the variants, largest first: each size is made from the one before it.
SIZES: Final = tuple(sorted(VARIANTS, key=lambda name: -VARIANTS[name][1]))


#: How a picture is fitted into its box: whole, or as the square in its centre.
Fit = Literal["inside", "cover"]


@dataclass(frozen=True)
class Limits:
    """
    The limits of one image, and how it is crunched; the settings of the same names in ``crunch``.

    :ivar timeout: wall clock, in seconds.
    :ivar cpu: processor time, in seconds.
    :ivar memory: address space, in bytes.
    :ivar max_pixels: of the source, unless it is a JPEG.
    :ivar max_pixels_baseline: of a baseline JPEG, which is decoded at a fraction of its size.
    :ivar max_pixels_progressive: of a progressive JPEG, whose coefficients are all in memory.
    :ivar max_side: of the source, in pixels.
    :ivar max_scans: of a progressive JPEG.
    :ivar heic: whether HEIC is decoded too.  Its decoder, an optional package, always starts
        a thread; only a child whose image is HEIC may.
    :ivar fit: how pictures are fitted into their boxes.
    :ivar formats: the output formats besides PNG, of :data:`fxprofile.model.keys.FORMATS`.
    """

    timeout: float = 15.0
    cpu: int = 10
    memory: int = 1 << 30
    max_pixels: int = 50_000_000
    max_pixels_baseline: int = 250_000_000
    max_pixels_progressive: int = 120_000_000
    max_side: int = 16384
    max_scans: int = 100
    heic: bool = False
    fit: Fit = "inside"
    formats: tuple[str, ...] = ()

    @property
    def max_result(self) -> int:
        """The largest result file that a child may write, in bytes."""
        return MAX_RESULT * (1 + len(self.formats))


class Refused(Exception):
    """
    The image cannot be processed, however often it is tried.

    :ivar reason: one word of :data:`fxprofile.model.avatars.REASONS`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
