"""
Open an image of a known type, and refuse it before a pixel is decoded.

Only the child of one job calls this with uploaded bytes; the helper imports it, so that all
codecs are loaded before the child locks itself.
"""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Final

# Imported because they register themselves, besides those of Image.preinit().
from PIL import (
    AvifImagePlugin,
    Image,
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)

from fxprofile.crunch.codec.deflate import StoredStream
from fxprofile.crunch.codec.headers import Buffer, check_jpeg
from fxprofile.crunch.limits import Limits, Refused
from fxprofile.crunch.signature import SIGNATURE_BYTES, sniff, webp_canvas

#: The most bytes of address space that a pixel of the source takes, by type: the decoders
#: of WebP and AVIF hold several copies of the whole picture.
_BYTES_PER_PIXEL: Final = {"jpeg": 8, "png": 12, "gif": 12, "webp": 17, "avif": 12, "heic": 12}


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG whose rows are inflated by :mod:`fxprofile.crunch.codec.deflate`."""

    def load_prepare(self) -> None:
        super().load_prepare()
        self._stored = StoredStream(super().load_read)

    def load_read(self, read_bytes: int) -> bytes:
        return self._stored.read()


def prepare(limits: Limits) -> None:
    """
    Configure Pillow, once, in the process that the children are forked from.

    :raises ImportError: if HEIC is enabled and its decoder is not installed.
    """
    # One thread per picture: the children may not start any, and the other cores work on
    # other pictures.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.preinit()
    Image.register_open("PNG", PngFile)
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    # A file can cause a hundred thousand warnings.
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    if limits.heic:
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener(thumbnails=False)


def open_image(data: Buffer, limits: Limits) -> tuple[str, Image.Image]:
    """
    Open an image without decoding it.

    :returns: its type, and the image.
    :raises Refused: if it is not an image, or exceeds a limit.
    :raises MemoryError: if there is too little memory.
    """
    kind = sniff(data[:SIGNATURE_BYTES], heic=limits.heic)
    enough_memory = True
    if kind is None:
        raise Refused("unsupported")
    if kind == "jpeg":
        check_jpeg(data, max_scans=limits.max_scans)
    elif kind == "webp":
        # Its decoder reserves memory for the canvas when it opens the file.
        canvas = webp_canvas(data[:SIGNATURE_BYTES])
        if canvas is None:
            raise Refused("corrupt", "no canvas size")
        _check_sides(*canvas, limits)
        enough_memory = is_enough_memory(kind, canvas, limits)
    try:
        file = BytesIO(data) if isinstance(data, bytes) else data
        form = "HEIF" if kind == "heic" else kind.upper()
        image = Image.open(file, formats=(form,))  # type: ignore[arg-type]
    except Exception as error:
        raise refusal(error, enough_memory=enough_memory) from error
    _check_sides(*image.size, limits)
    return kind, image


def _check_sides(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise Refused("corrupt", f"{width} x {height} pixels")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise Refused("too_many_pixels", f"{width} x {height}")


def is_enough_memory(kind: str, sides: tuple[int, int], limits: Limits) -> bool:
    """Return whether the memory of a child is enough to decode such an image."""
    return sides[0] * sides[1] * _BYTES_PER_PIXEL[kind] <= limits.memory


def refusal(error: Exception, *, enough_memory: bool) -> Exception:
    """
    Translate an error of a decoder.

    :param enough_memory: whether there was enough; if not, an image that a decoder calls
        damaged may be intact.
    :returns: a :class:`Refused`, or a MemoryError.
    """
    if isinstance(error, (Refused, MemoryError)):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return Refused("too_many_pixels", str(error))
    if not enough_memory:
        return MemoryError(str(error))
    if isinstance(error, UnidentifiedImageError):
        # Its text shows the object that held the bytes, and nothing else.
        return Refused("corrupt", "not the type of its first bytes")
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ValueError) and ("too large" in text or "Too much memory" in text):
        return Refused("too_large", text)
    return Refused("corrupt", text)


def versions() -> str:
    """Return the names and versions of the codecs, one per line."""
    names = ("pil", "libjpeg_turbo", "zlib", "webp", "avif", "littlecms2")
    return "\n".join(f"{name} {features.version(name) or 'missing'}" for name in names)
