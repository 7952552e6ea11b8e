"""JPEGs."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from collections.abc import Iterator
from functools import cache

from PIL import Image, ImageCms

from tests.corpus import Entry, entry
from tests.corpus.drawing import NARROWED, STORED, drawing, exif, has_sides, photo, saved, shows


def segment(code: int, body: bytes) -> bytes:
    """Return a marker segment."""
    return struct.pack(">BBH", 0xFF, code, len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """Insert segments after the first two bytes of a file."""
    return b"".join((data[:2], *segments, data[2:]))


def plain() -> bytes:
    return saved(drawing(), "JPEG", quality=92)


def oriented(orientation: int) -> bytes:
    image = drawing()
    if orientation in STORED and orientation != 1:
        image = image.transpose(STORED[orientation])
    return saved(image, "JPEG", quality=92, exif=exif(orientation))


def with_exif(body: bytes) -> bytes:
    return with_segments(plain(), segment(0xE1, b"Exif\0\0" + body))


def located() -> bytes:
    found = Image.Exif()
    found[0x010E] = "221B Baker Street, London"
    found.get_ifd(0x8825).update({1: "N", 2: (51.0, 31.0, 25.0), 3: "W", 4: (0.0, 9.0, 30.0)})
    return saved(drawing(), "JPEG", quality=92, exif=found.tobytes())


def circular_exif() -> bytes:
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    return with_exif(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8))


def greedy_exif() -> bytes:
    directory = struct.pack("<H", 1) + struct.pack("<HHII", 0x010E, 2, 0xFFFFFFFF, 8)
    return with_exif(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0))


def random_exif() -> bytes:
    return with_exif(b"II*\0\x08\0\0\0" + random.Random(17).randbytes(3000))


@cache
def wide_gamut() -> bytes:
    """Return an ICC profile whose gamut is much wider than that of sRGB."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    for number in range(count):
        tag, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if tag == b"gXYZ":
            # That of Adobe RGB, adapted to D50.
            struct.pack_into(
                ">3i", profile, offset + 8, *(int(v * 65536) for v in (0.2053, 0.6257, 0.0609))
            )
        elif tag == b"rXYZ":
            struct.pack_into(
                ">3i", profile, offset + 8, *(int(v * 65536) for v in (0.6097, 0.3111, 0.0195))
            )
        elif tag == b"bXYZ":
            struct.pack_into(
                ">3i", profile, offset + 8, *(int(v * 65536) for v in (0.1492, 0.0632, 0.7446))
            )
        elif tag == b"desc":
            # The description must not name the sRGB profile that it is made from.
            text = "Wide!".encode("utf-16-be")
            body = b"mluc" + struct.pack(">4I2s2sII", 0, 1, 12, 0, b"en", b"US", len(text), 28)
            body = (
                b"mluc\0\0\0\0"
                + struct.pack(">II", 1, 12)
                + b"enUS"
                + struct.pack(">II", len(text), 28)
                + text
            )
            assert len(body) <= size
            profile[offset : offset + size] = body.ljust(size, b"\0")
    return bytes(profile)


def with_profile(profile: bytes) -> bytes:
    return saved(drawing(), "JPEG", quality=92, icc_profile=profile)


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def sides_patched(data: bytes, width: int, height: int) -> bytes:
    """Return a file that claims other sides (ITU-T T.81, B.2.2)."""
    found = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", data)
    assert found is not None
    at = found.end()
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def scan_per_component() -> bytes:
    """Return a sequential JPEG whose components have a scan each (ITU-T T.81, A.2.2)."""
    planes = [saved(plane, "JPEG", quality=92) for plane in drawing().convert("YCbCr").split()]
    head, frame = planes[0].index(b"\xff\xda"), planes[0].index(b"\xff\xc0")
    sides = planes[0][frame + 5 : frame + 9]
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    data = planes[0][:frame] + segment(0xC0, b"\x08" + sides + b"\x03" + components)
    data += planes[0][frame + 13 : head]
    for number, plane in enumerate(planes, 1):
        # A grey picture is coded like one component of another.
        coded = plane[plane.index(b"\xff\xda") + 10 : -2]
        data += segment(0xDA, bytes((1, number, 0, 0, 63, 0))) + coded
    return data + b"\xff\xd9"


def two_pictures() -> bytes:
    file = io.BytesIO()
    drawing().save(file, "MPO", quality=92, save_all=True, append_images=[photo()])
    return file.getvalue()


def with_attachment() -> bytes:
    file = io.BytesIO(plain())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("evil.html", "<script>alert(1)</script>")
    return file.getvalue() + b"<?php system('id'); ?>"


def scratched() -> bytes:
    """Return a file with 200 bytes of its scan changed."""
    data, numbers = bytearray(saved(photo(), "JPEG")), random.Random(32)
    start = data.index(b"\xff\xda") + 20
    for _ in range(200):
        at = numbers.randrange(start, len(data) - 2)
        if 0xFF not in data[at - 1 : at + 2]:
            data[at] = numbers.randrange(0xFF)
    return bytes(data)


@cache
def _progressive(side: int) -> tuple[bytes, bytes]:
    """Return a progressive file without its end, and its last scan."""
    data = saved(Image.new("L", (side, side), 130), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2], data[last:-2]


def many_scans(count: int, side: int = 5480) -> bytes:
    start, scan = _progressive(side)
    return start + scan * (count - start.count(b"\xff\xda")) + b"\xff\xd9"


def hidden_scans() -> bytes:
    """Return a file with scans after a comment that looks like the end."""
    start, scan = _progressive(640)
    return start + segment(0xFE, b"\xff\xd9") + scan * 200 + b"\xff\xd9"


def thumbnail_scans() -> bytes:
    """Return an honest file whose comments look like scans."""
    return with_segments(plain(), *(segment(0xFE, b"\xff\xda" * 1000) for _ in range(3)))


def precision_patched() -> bytes:
    data = plain()
    at = data.index(b"\xff\xc0\x00\x11\x08")
    return data[: at + 4] + b"\x0c" + data[at + 5 :]


def quantization_of_zeros() -> bytes:
    data = plain()
    at = data.index(b"\xff\xdb") + 5
    return data[:at] + bytes(64) + data[at + 64 :]


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    upright = shows(sides=(600, 375))
    yield entry("a scan per component", scan_per_component, check=shows())
    yield entry("baseline", plain, check=upright)
    yield entry("progressive", lambda: saved(drawing(), "JPEG", progressive=True), check=upright)
    yield entry("grayscale", lambda: saved(photo().convert("L"), "JPEG"))
    yield entry(
        "cmyk", lambda: saved(drawing(mode="CMYK"), "JPEG", quality=95), check=shows(tolerance=20)
    )
    for number in range(1, 9):
        yield entry(f"orientation {number}", lambda n=number: oriented(n), check=upright)
    for number in (0, 9):
        yield entry(f"orientation {number}", lambda n=number: oriented(n), check=upright)
    yield entry("location", located, check=upright, absent=b"Baker Street")
    yield entry("circular EXIF", circular_exif, check=upright)
    yield entry("random EXIF", random_exif, check=upright)
    yield entry("greedy EXIF", greedy_exif, check=upright)
    yield entry("sRGB profile", lambda: with_profile(srgb()), check=upright, absent=b"acsp")
    yield entry(
        "wide gamut profile",
        lambda: with_profile(wide_gamut()),
        # The same values, in a space with a wider gamut.
        check=shows(NARROWED),
        absent=b"acsp",
    )
    yield entry("LAB profile", lambda: with_profile(lab()), check=upright)
    yield entry(
        "garbage profile", lambda: with_profile(random.Random(21).randbytes(5000)), check=upright
    )
    yield entry("cut in the middle", lambda: plain()[: len(plain()) // 2], "corrupt")
    yield entry("no end", lambda: plain()[:-2], check=upright)
    yield entry("attachment", with_attachment, check=upright, absent=b"alert")
    yield entry("65500 x 65500", lambda: sides_patched(plain(), 65500, 65500), "too_many_pixels")
    yield entry("16385 wide", lambda: sides_patched(plain(), 16385, 8), "too_wide")
    yield entry("height 0", lambda: sides_patched(plain(), 800, 0), "corrupt")
    yield entry(
        "8000 x 5000 with the data of 800 x 500",
        lambda: sides_patched(plain(), 8000, 5000),
    )
    yield entry("two pictures", two_pictures, check=upright)
    yield entry("header only", lambda: plain()[:20], "corrupt")
    yield entry("three bytes", lambda: b"\xff\xd8\xff", "corrupt")
    yield entry(
        "150 segments, 10 MB",
        lambda: with_segments(plain(), *(segment(0xE5, b"A" * 65000) for _ in range(150))),
        check=upright,
    )
    yield entry(
        "2,000,000 segments",
        lambda: with_segments(plain(), segment(0xE5, b"A") * 2_000_000),
        "too_large",
    )
    yield entry(
        "10 MB of fill bytes", lambda: b"\xff\xd8" + b"\xff" * (10 << 20) + plain()[2:], "too_large"
    )
    yield entry("10 MB of zeros", lambda: b"\xff\xd8\xff" + bytes(10 << 20), "too_large", "corrupt")
    yield entry("scratched", scratched)
    yield entry("2,000 scans", lambda: many_scans(2000), "too_large")
    yield entry("50 scans", lambda: many_scans(50), slow=True)
    yield entry("hidden scans", hidden_scans, "too_large")
    yield entry("comments like scans", thumbnail_scans, check=upright)
    yield entry("12 bits", precision_patched, "unsupported")
    yield entry("quantization of zeros", quantization_of_zeros)
    yield entry(
        "one pixel",
        lambda: saved(drawing(2, 2).crop((0, 0, 1, 1)), "JPEG"),
        check=has_sides(large=(1, 1)),
    )
    yield entry(
        "50 million pixels",
        lambda: saved(Image.new("RGB", (8192, 6100), (9, 99, 200)), "JPEG"),
        check=has_sides(large=(600, 447)),
        slow=True,
    )


def seeds() -> dict[str, bytes]:
    """Return small honest images."""
    small = photo(48, 36)
    return {
        "jpeg": saved(small, "JPEG", exif=exif(6)),
        "jpeg progressive": saved(small, "JPEG", progressive=True, icc_profile=srgb()),
        "jpeg cmyk": saved(small.convert("CMYK"), "JPEG"),
    }
