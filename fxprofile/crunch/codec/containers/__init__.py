"""
Tolerant readers of image containers, one module per format.

A reader walks its container once, drops everything that pixels, orientation and colour do not
need, repairs a missing end, and passes a clean stream to the decoder.  It decodes no pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fxprofile.crunch.codec.containers.contents import Buffer, Contents
from fxprofile.crunch.codec.containers.gif import read_gif
from fxprofile.crunch.codec.containers.isobmff import read_avif, read_heic
from fxprofile.crunch.codec.containers.jpeg import read_jpeg
from fxprofile.crunch.codec.containers.png import read_png
from fxprofile.crunch.codec.containers.webp import read_webp
from fxprofile.crunch.limits import Limits, Refused
from fxprofile.crunch.signature import SIGNATURE_BYTES, name_of_unsupported, sniff

READERS: Final[dict[str, Callable[[Buffer, Limits], Contents]]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "gif": read_gif,
    "webp": read_webp,
    "avif": read_avif,
    "heic": read_heic,
}


def read_container(data: Buffer, limits: Limits) -> Contents:
    """
    Read the container of an image.

    :raises Refused: if the format is not supported, if a part that the pixels need is
        damaged, or if the image exceeds a limit.
    """
    head = data[:SIGNATURE_BYTES]
    kind = sniff(head, heic=limits.heic)
    if kind is None:
        raise Refused("unsupported", name_of_unsupported(head))
    return READERS[kind](data, limits)
