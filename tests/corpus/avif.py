"""AVIFs."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from tests.corpus import Entry, entry
from tests.corpus.drawing import NARROWED, STORED, drawing, exif, has_mode, photo, saved, shows
from tests.corpus.jpeg import wide_gamut


def plain() -> bytes:
    return saved(drawing(), "AVIF", quality=90, speed=10)


def translucent() -> bytes:
    image = drawing(300, 200, "RGBA")
    image.putalpha(Image.linear_gradient("L").resize((300, 200)))
    return saved(image, "AVIF", quality=90, speed=10)


def sequence() -> bytes:
    file = io.BytesIO()
    others = [Image.new("RGB", (800, 500), (n, 0, 99)) for n in range(3)]
    drawing().save(file, "AVIF", save_all=True, append_images=others, quality=90, speed=10)
    return file.getvalue()


def sides_patched(width: int, height: int) -> bytes:
    """Return a file that claims other sides (ISO/IEC 23008-12, 6.5.3)."""
    data = plain()
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    yield entry("AVIF", plain, check=shows(tolerance=20))
    yield entry("AVIF, alpha", translucent, check=has_mode("RGBA"))
    yield entry("AVIF, sequence", sequence, check=shows(tolerance=20))
    # Pillow writes the orientation as irot and imir.
    yield entry(
        "AVIF, oriented",
        lambda: saved(drawing().transpose(STORED[6]), "AVIF", quality=90, speed=10, exif=exif(6)),
        check=shows(tolerance=20, sides=(600, 375)),
    )
    yield entry(
        "AVIF, wide gamut",
        lambda: saved(drawing(), "AVIF", icc_profile=wide_gamut(), quality=90, speed=10),
        check=shows(NARROWED, 20),
        absent=b"acsp",
    )
    yield entry("AVIF, cut", lambda: plain()[: len(plain()) // 2], "corrupt")
    yield entry(
        "AVIF, 65535 x 65535", lambda: sides_patched(65535, 65535), "corrupt", "too_many_pixels"
    )
    yield entry("AVIF, 16000 x 16000", lambda: sides_patched(16000, 16000), "too_many_pixels")
    yield entry("AVIF, brand only", lambda: plain()[:32], "corrupt")
    yield entry(
        "AVIF, 49 million pixels",
        lambda: saved(Image.new("RGB", (7000, 7000), (9, 99, 200)), "AVIF", quality=20, speed=10),
        check=shows(((9, 99, 200),) * 4, 8),
        slow=True,
    )
    yield entry("HEIC", lambda: plain().replace(b"ftypavif", b"ftypheic", 1), "unsupported")
    yield entry(
        "HEIC by a later brand",
        lambda: struct.pack(">I", 28) + b"ftypmif1\0\0\0\0mif1heicmiaf" + plain()[28:],
        "unsupported",
    )


def seeds() -> dict[str, bytes]:
    """Return small honest images."""
    return {"avif": saved(photo(48, 36), "AVIF", speed=10, exif=exif(5))}
