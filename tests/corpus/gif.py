"""GIFs."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from tests.corpus import Entry, entry
from tests.corpus.drawing import both, drawing, has_mode, has_sides, photo, saved, shows


def plain() -> bytes:
    return saved(drawing(300, 200), "GIF")


def frames(count: int) -> bytes:
    first = drawing(64, 48)
    others = [Image.new("RGB", (64, 48), (n % 256, 0, 99)) for n in range(count - 1)]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=20)
    return file.getvalue()


def transparent() -> bytes:
    image = drawing(300, 200).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    return saved(image, "GIF", transparency=image.getpixel((10, 10)))


def canvas(width: int, height: int) -> bytes:
    """Return a file with another canvas (GIF89a, section 18)."""
    data = plain()
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def large_frame() -> bytes:
    """Return a small canvas with a frame of 60000 x 60000 (section 20)."""
    data = canvas(8, 8)
    at = data.index(b",\0\0\0\0")
    return data[: at + 5] + struct.pack("<HH", 60000, 60000) + data[at + 9 :]


def comments(count: int) -> bytes:
    data = plain()
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:at] + b"!\xfe\x01A\0" * count + data[at:]


def without_frames() -> bytes:
    # Of its palette there are as many entries as its flags say (CompuServe, section 18).
    return plain()[: 13 + (6 << (plain()[10] & 7))] + b";"


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    yield entry("GIF", plain, check=both(shows(), has_mode("RGB")))
    yield entry("GIF, 3 frames", lambda: frames(3), check=shows())
    yield entry("GIF, 2,500 frames", lambda: frames(2500), check=shows(), slow=True)
    yield entry("GIF, transparent", transparent, check=has_mode("RGBA"))
    yield entry(
        "GIF, interlaced", lambda: saved(drawing(300, 200), "GIF", interlace=1), check=shows()
    )
    yield entry("GIF, canvas of 65535 x 65535", lambda: canvas(65535, 65535), "too_many_pixels")
    yield entry("GIF, frame of 60000 x 60000", large_frame, "too_many_pixels")
    yield entry("GIF, cut", lambda: plain()[: len(plain()) // 2], "corrupt")
    yield entry("GIF, no frames", without_frames, "corrupt")
    yield entry("GIF, signature only", lambda: b"GIF89a", "corrupt")
    yield entry("GIF, a script", lambda: b"GIF89a/*" + b" " * 100 + b"*/=1;alert(1)", "corrupt")
    yield entry("GIF, canvas of 0 x 0", lambda: canvas(0, 0), check=shows())
    yield entry("GIF, 400,000 comments", lambda: comments(400_000), check=shows())
    yield entry("GIF, 2,000,000 comments", lambda: comments(2_000_000), check=shows(), slow=True)
    yield entry("GIF, photo", lambda: saved(photo(), "GIF"), check=has_sides(default=(200, 125)))


def seeds() -> dict[str, bytes]:
    """Return small honest images."""
    return {"gif": saved(photo(48, 36), "GIF"), "gif frames": frames(3)}
