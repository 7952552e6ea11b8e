"""
Decoding of a container's contents; all limits are checked before any pixel is decoded.

Only the child of one job decodes untrusted bytes.  The helper imports this module, so that
all codecs are loaded before a child enters its sandbox.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401 - the AVIF decoder needs it while it opens a file
    WebPImagePlugin,
    _imaging,
    features,
)

from fxprofile.crunch.codec.containers import read_container
from fxprofile.crunch.codec.containers.contents import Buffer, Contents
from fxprofile.crunch.codec.deflate import StoredStream
from fxprofile.crunch.limits import Limits, Refused

#: Bytes of address space per pixel of the source in the worst case, by type.  The decoders
#: of WebP and AVIF hold several copies of the whole picture.
_BYTES_PER_PIXEL: Final = {"jpeg": 8, "png": 12, "gif": 12, "webp": 13, "avif": 12, "heic": 12}

#: The share of rows or blocks that may be missing at the end of a picture, and the number
#: that is always tolerated.  So few are hardly visible.
_MAY_BE_MISSING: Final = 0.01, 2

#: The grey that a JPEG decoder writes for missing blocks, and the tolerance of a comparison.
_MISSING_GREY, _NEAR = 128, 2


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG whose rows are inflated by :mod:`fxprofile.crunch.codec.deflate`."""

    def load_prepare(self) -> None:
        super().load_prepare()
        self._stored = StoredStream(super().load_read)

    def load_read(self, read_bytes: int) -> bytes:
        return self._stored.read()


class Gif(GifImagePlugin.GifImageFile):
    """A GIF whose pixels have a given palette index before they are decoded."""

    ground: int | None = None

    def load_prepare(self) -> None:
        super().load_prepare()
        if self.ground is not None:
            self.im.paste(self.ground, (0, 0, *self.size))


class WebP(WebPImagePlugin.WebPImageFile):
    """A WebP whose pixels stay where its decoder has put them: it writes four bytes for each."""

    def load(self) -> _imaging.PixelAccess | None:
        if self._im is None:
            pixels, _, _ = self._get_next()
            self.im = _imaging.map_buffer(pixels, self.size, "raw", 0, (self.mode, 0, 1))
            self.readonly = 1
        return Image.Image.load(self)


_DECODERS: Final[Mapping[str, type[ImageFile.ImageFile]]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngFile,
    "gif": Gif,
    "webp": WebP,
    "avif": AvifImagePlugin.AvifImageFile,
}


def prepare(limits: Limits) -> None:
    """
    Configure Pillow once, in the process from which the children are forked.

    :raises ImportError: if HEIC is enabled and its decoder is not installed.
    """
    # One thread per picture: a child may not start threads, and other cores handle other
    # pictures.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.preinit()
    # Limits are checked before a decoder is called.
    Image.MAX_IMAGE_PIXELS = None
    # A single file can cause a hundred thousand warnings.
    warnings.simplefilter("ignore")
    if limits.heic:
        import pillow_heif

        # These threads would be in addition to the one that its decoder always starts.
        pillow_heif.options.DECODE_THREADS = 0


def open_contents(data: Buffer, limits: Limits) -> Contents:
    """
    Read the container of an image, and check the width and height that it claims.

    :raises Refused: if the image is not supported, is damaged, or exceeds a limit.
    """
    contents = read_container(data, limits)
    left, top, right, bottom = contents.frame or (0, 0, *contents.canvas)
    most = limits.max_pixels
    if contents.kind == "jpeg":
        most = limits.max_pixels_baseline if contents.mcu else limits.max_pixels_progressive
    for width, height in contents.canvas, (right - left, bottom - top):
        if width < 1 or height < 1:
            raise Refused("corrupt", f"{width} x {height} pixels")
        if width * height > most:
            raise Refused("too_many_pixels", f"{width} x {height}")
        if max(width, height) > limits.max_side:
            raise Refused("too_wide", f"{width} x {height}")
    return contents


def open_image(contents: Contents) -> Image.Image:
    """
    Open the clean stream with its decoder, which does not decode pixels yet.

    :raises Exception: any error of the decoder; see :func:`refusal`.
    """
    length = contents.stream.seek(0, os.SEEK_END)
    contents.stream.seek(0)
    if contents.kind == "heic":
        from pillow_heif import HeifImageFile

        turned = HeifImageFile(contents.stream)
        # The decoder has already cropped and oriented the picture.
        contents.canvas = turned.size
        return turned
    image = _DECODERS[contents.kind](contents.stream)
    # In one buffer: the arithmetic decoder of libjpeg cannot suspend to wait for more input.
    image.decodermaxblock = length
    return image


def decode(image: Image.Image, contents: Contents) -> None:
    """
    Decode the pixels.

    :raises Refused: if too much of the end is missing.
    :raises Exception: any error of the decoder; see :func:`refusal`.
    """
    if contents.kind == "gif" and contents.is_truncated:
        _decode_gif(image, contents)
        return
    image.load()
    if contents.is_truncated and contents.mcu is not None:
        _check_missing(*_missing_blocks(image, contents.canvas, contents.mcu))


def _decode_gif(image: Image.Image, contents: Contents) -> None:
    """Decode a truncated GIF on two backgrounds; pixels that differ were not decoded."""
    other = open_image(contents)
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        for ground, picture in enumerate((image, other)):
            picture.ground = ground  # type: ignore[attr-defined]
            picture.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    missing = (np.asarray(image) != np.asarray(other)).any(axis=1)
    _check_missing(int(missing.sum()), len(missing))


def _missing_blocks(
    image: Image.Image, canvas: tuple[int, int], mcu: tuple[int, int]
) -> tuple[int, int]:
    """
    Return the number of blocks missing at the end of a JPEG, and the number of all blocks.

    :param image: the decoded picture, possibly at a fraction of its size.
    """
    columns, rows = (
        np.minimum((np.arange(-(-side // block)) + 0.5) * block, side - 1) * size // side
        for side, block, size in zip(canvas, mcu, image.size, strict=True)
    )
    centres = np.asarray(image)[rows.astype(int)][:, columns.astype(int)]
    differences = np.abs(centres.astype(int) - _MISSING_GREY).reshape(len(rows) * len(columns), -1)
    there = np.flatnonzero(differences.max(axis=1) > _NEAR)
    last = int(there[-1]) if len(there) else -1
    return len(differences) - 1 - last, len(differences)


def _check_missing(missing: int, of: int) -> None:
    share, few = _MAY_BE_MISSING
    if missing > max(few, share * of):
        raise Refused("corrupt", "the end is missing")


def refusal(error: Exception, contents: Contents, limits: Limits) -> Exception:
    """
    Return the error to report for an error of a decoder.

    A decoder may report an intact image as damaged if the memory of the child is not enough.

    :returns: a :class:`Refused`, or a MemoryError.
    """
    if isinstance(error, (Refused, MemoryError)):
        return error
    width, height = contents.canvas
    needed = width * height * _BYTES_PER_PIXEL[contents.kind]
    if needed > limits.memory and contents.mcu is None:
        return MemoryError(str(error))
    return Refused("corrupt", f"{type(error).__name__}: {error}")


def versions() -> str:
    """Return the names and versions of the codecs, one per line."""
    names = ("pil", "libjpeg_turbo", "zlib", "webp", "avif", "littlecms2")
    return "\n".join(f"{name} {features.version(name) or 'missing'}" for name in names)
