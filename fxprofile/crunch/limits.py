"""
How much one image may cost.

The numbers travel from the pool to the helper as JSON; they do not change after that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from fxprofile.model.keys import VARIANTS

#: The most bytes that one encoded picture may have, by the name of its variant.
#: The worst 600 pixel picture, noise with alpha, has 1.4 MB.
MAX_BYTES: Final[Mapping[str, int]] = {
    "default": 256 << 10,
    "small": 64 << 10,
    "large": 2 << 20,
}

#: The most bytes of the header of a result.
MAX_HEADER: Final = 4 << 10

#: The most bytes of a whole result file, for each format in it.
MAX_RESULT: Final = 3 << 20

#: Largest first: each size is made of the one before it.
SIZES: Final = tuple(sorted(VARIANTS, key=lambda name: -VARIANTS[name][1]))

#: Words of markup that a header may have before the picture begins.  A real photo has
#: some dozens; without a limit, Pillow spends seconds of Python on a file of nothing else.
MAX_SEGMENTS: Final = 4096

#: Bytes that belong to nothing, before the first scan of a JPEG.
MAX_PADDING: Final = 64 << 10


@dataclass(frozen=True)
class Limits:
    """
    What one image may take; the settings of the same names in ``crunch``.

    :ivar timeout: wall seconds.
    :ivar cpu: seconds of processor time.
    :ivar memory: bytes of address space.
    :ivar max_pixels: of the source.
    :ivar max_side: of the source, in pixels.
    :ivar max_scans: of a progressive JPEG.
    :ivar heic: whether HEIC is decoded too; its decoder, an optional package, starts a
        thread, so the sandbox then lets a child start some.
    :ivar formats: of :data:`fxprofile.model.keys.FORMATS`, in which the pictures are wanted
        besides PNG.
    """

    timeout: float = 15.0
    cpu: int = 10
    memory: int = 1 << 30
    max_pixels: int = 50_000_000
    max_side: int = 16384
    max_scans: int = 100
    heic: bool = False
    formats: tuple[str, ...] = ()

    @property
    def max_result(self) -> int:
        """The most bytes that a child may write."""
        return MAX_RESULT * (1 + len(self.formats))

    def encode(self) -> str:
        """The limits as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Limits:
        """Read what :meth:`encode` wrote."""
        members: dict[str, Any] = json.loads(text)
        return cls(**members | {"formats": tuple(members["formats"])})


class Refused(Exception):
    """
    The image is at fault.

    :ivar reason: one word of :data:`fxprofile.model.avatars.REASONS`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
