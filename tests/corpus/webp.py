"""WebPs."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from tests.corpus import Entry, entry
from tests.corpus.drawing import NARROWED, STORED, drawing, exif, has_mode, photo, saved, shows
from tests.corpus.jpeg import srgb, wide_gamut


def plain() -> bytes:
    return saved(drawing(), "WEBP", quality=95)


def translucent() -> bytes:
    image = drawing(300, 200, "RGBA")
    image.putalpha(Image.linear_gradient("L").resize((300, 200)))
    return saved(image, "WEBP", lossless=True)


def animation() -> bytes:
    file = io.BytesIO()
    others = [Image.new("RGB", (800, 500), (n, 0, 99)) for n in range(3)]
    drawing().save(file, "WEBP", save_all=True, append_images=others, quality=95)
    return file.getvalue()


def extended(width: int, height: int, inner: bytes = b"", flags: int = 0) -> bytes:
    """Return an extended file with this canvas (RFC 9649, 2.7.1)."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, flags) + sides + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def lossless_header(width: int, height: int) -> bytes:
    """Return a lossless file with these sides (section 3.4) and no picture."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(30)
    body = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    yield entry("WebP", plain, check=shows())
    yield entry(
        "WebP, lossless", lambda: saved(drawing(), "WEBP", lossless=True), check=shows(tolerance=4)
    )
    yield entry("WebP, alpha", translucent, check=has_mode("RGBA"))
    yield entry("WebP, animation", animation, check=shows())
    yield entry(
        "WebP, orientation 6",
        lambda: saved(drawing().transpose(STORED[6]), "WEBP", exif=exif(6), quality=95),
        check=shows(sides=(600, 375)),
        absent=b"EXIF",
    )
    yield entry(
        "WebP, sRGB profile",
        lambda: saved(drawing(), "WEBP", icc_profile=srgb(), quality=95),
        check=shows(),
        absent=b"acsp",
    )
    yield entry(
        "WebP, wide gamut",
        lambda: saved(drawing(), "WEBP", icc_profile=wide_gamut(), quality=95),
        check=shows(NARROWED),
    )
    yield entry("WebP, cut", lambda: plain()[: len(plain()) // 2], "corrupt")
    yield entry(
        "WebP, wrong length",
        lambda: b"RIFF\xff\xff\xff\x7f" + plain()[8:],
    )
    yield entry("WebP, header only", lambda: plain()[:30], "corrupt")
    yield entry("WebP, no sides", lambda: plain()[:18], "corrupt")
    yield entry("WebP, no known chunk", lambda: b"RIFF\x10\0\0\0WEBPJUNK\0\0\0\0", "unsupported")
    yield entry("WebP, canvas of 16384 x 16384", lambda: extended(16384, 16384), "corrupt")
    yield entry(
        "WebP, lossless 16383 x 16383", lambda: lossless_header(16383, 16383), "too_many_pixels"
    )
    yield entry("WebP, canvas of 7000 x 7000 and nothing", lambda: extended(7000, 7000), "corrupt")
    yield entry("WebP, canvas other than its picture", lambda: extended(900, 900, plain()[12:]))
    yield entry(
        "WebP, 49 million pixels",
        lambda: saved(Image.new("RGB", (7000, 7000), (9, 99, 200)), "WEBP", quality=20, method=0),
        check=shows(((9, 99, 200),) * 4, 6),
        slow=True,
    )


def seeds() -> dict[str, bytes]:
    """Return small honest images."""
    small = photo(48, 36)
    return {
        "webp": saved(small, "WEBP", exif=exif(8)),
        "webp lossless": saved(small.convert("RGBA"), "WEBP", lossless=True, icc_profile=srgb()),
    }
