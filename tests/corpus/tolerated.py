"""
Images as users have them: with damage that no pixel depends on, and with orientations and
colours that browsers support.  The expected pictures are those of browsers and libvips.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from tests.corpus import Entry, Pictures, avif, entry, gif, jpeg, png, webp
from tests.corpus.drawing import (
    BLUE,
    CORNERS,
    GREEN,
    RED,
    STORED,
    drawing,
    exif,
    photo,
    saved,
    shows,
)

#: The colours of the corners in sRGB if the stored ones are Display P3, or linear light.
P3_CORNERS = ((240, 0, 0), (0, 204, 0), (37, 50, 219), (250, 250, 250))
LINEAR_CORNERS = ((239, 96, 96), (96, 229, 110), (110, 122, 234), (253, 253, 253))
#: The corners with red and green exchanged.
SWAPPED_CORNERS = ((30, 220, 30), (200, 30, 40), (50, 40, 210), (250, 250, 250))
P3_POINTS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
CLEAR = (0, 0, 0, 0)

#: Every ancillary chunk that is registered, and one that is not.
ANCILLARY = (
    *(b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"cICP", b"acTL"),
    *(b"eXIf", b"bKGD", b"sBIT", b"tIME", b"hIST", b"sPLT", b"mDCV", b"cLLI", b"prVt"),
)


def _profile(primaries: Sequence[float], description: bytes) -> bytes:
    """Return an ICC profile (ICC.1:2001-04) of these primaries with a gamma of 2.2."""
    xyz = _to_d50(primaries)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(description) + 1) + description + bytes(80)
    text += bytes(-len(text) % 4)
    tags = [(b"desc", text), (b"wtpt", _xyz((0.9642, 1, 0.8249)))]
    tags += [
        (name, _xyz(column))
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz.T, strict=True)
    ]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags:
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    head = bytes(4) + struct.pack(">4sI", b"lcms", 0x02400000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D) + bytes(48)
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def _to_d50(primaries: Sequence[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    bradford = np.array(
        ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
    )
    matrix = np.array(
        [(x, y, 1 - x - y) for x, y in zip(primaries[::2], primaries[1::2], strict=True)]
    ).T
    white = np.array((0.3127 / 0.329, 1, 0.3583 / 0.329))
    matrix = matrix * np.linalg.solve(matrix, white)
    scale = (bradford @ (0.9642, 1, 0.8249)) / (bradford @ white)
    return np.linalg.inv(bradford) @ np.diag(scale) @ bradford @ matrix


def display_p3() -> bytes:
    """Return the Display P3 profile of Android phones, which has sRGB in its name."""
    return _profile((0.68, 0.32, 0.265, 0.69, 0.15, 0.06), b"Display P3 Gamut with sRGB Transfer")


def swapped() -> bytes:
    """Return a profile that is named sRGB, with the primaries red and green exchanged."""
    return _profile((0.3, 0.6, 0.64, 0.33, 0.15, 0.06), b"sRGB IEC61966-2.1")


def _with_profile(profile: bytes, *, right: bool = True, method: bytes = b"\0") -> bytes:
    body = b"icc\0" + method + zlib.compress(profile, 9)
    return png.with_chunks(png.chunk(b"iCCP", body, right=right))


def _padded(profile: bytes) -> bytes:
    """Return a profile padded to 1.5 MB, the size of a printer's."""
    whole = profile + bytes(1_500_000)
    return struct.pack(">I", len(whole)) + whole[4:]


def _text(size: int) -> bytes:
    return png.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * size))


def _xmp(orientation: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf'
        b'-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>' % orientation
    )


def _raw_profile() -> bytes:
    body = exif(6).removeprefix(b"Exif\0\0").hex().encode()
    return png.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(body) // 2, body))


def _bad_entry_first() -> bytes:
    """Return EXIF whose first entry refers to data outside it, before an orientation of 6."""
    entries = struct.pack(">HHII", 0x010F, 2, 100, 0xFFFF0000)
    entries += struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + entries + bytes(4)


def _grey(depth: int, key: int, values: Sequence[int]) -> bytes:
    """Return four corners in grey of 1, 2 or 4 bits, of which one is transparent."""
    per = 8 // depth
    body = png.corner_rows(16 * per, tuple(bytes([_packed(v, depth)]) for v in values))  # type: ignore[arg-type]
    # corner_rows counts bytes across and rows down.
    return png.handmade(
        png.header(16 * per * per, 16 * per, depth, 0),
        png.chunk(b"tRNS", struct.pack(">H", key)),
        body=body,
    )


def _packed(value: int, depth: int) -> int:
    return sum(value << shift for shift in range(0, 8, depth))


def _deep_colour_with_key() -> bytes:
    pixels = [struct.pack(">3H", *(v * 257 for v in colour)) for colour in CORNERS]
    key = png.chunk(b"tRNS", pixels[0])
    return png.handmade(png.header(100, 100, 16, 2), key, body=png.corner_rows(100, tuple(pixels)))  # type: ignore[arg-type]


def _small_frame(form: str) -> bytes:
    """Return an image with a first frame of 32 x 16 on a canvas of 96 x 64."""
    if form == "gif":
        image = Image.new("P", (32, 16), 1)
        image.putpalette([0, 255, 0, 255, 0, 0])
        data = saved(image, "GIF")
        at = data.index(b"\x2c")
        moved = data[:at] + b"\x2c" + struct.pack("<HH", 16, 8) + data[at + 5 :]
        return moved[:6] + struct.pack("<HH", 96, 64) + moved[10:]
    inner = saved(Image.new("RGB", (32, 16), RED), "WEBP", lossless=True)[12:]
    frame = b"".join(number.to_bytes(3, "little") for number in (8, 4, 31, 15, 100)) + b"\0" + inner
    chunk = b"ANMF" + struct.pack("<I", len(frame)) + frame
    return webp.extended(96, 64, b"ANIM\x06\0\0\0" + bytes(6) + chunk, flags=0x02)


def _frame_beyond_canvas() -> bytes:
    """Return a GIF with a canvas of 40 x 25, smaller than its frame."""
    data = saved(drawing(80, 50).quantize(8), "GIF")
    return data[:6] + struct.pack("<HH", 40, 25) + data[10:]


def _hidden_image(*, number: int = 0, count: int = 1) -> bytes:
    """Return an animation whose default image is not part of it."""
    control = struct.pack(">IIIIIHHBB", number, 400, 500, 400, 0, 1, 10, 0, 0)
    frame = zlib.compress(png.rows(400, 500, 3, bytes(BLUE)))
    parts = [png.chunk(b"fcTL", control)]
    parts += [
        png.chunk(b"fdAT", struct.pack(">I", number + 1 + i) + piece)
        for i, piece in enumerate((frame[:30], frame[30:]))
    ]
    data = png.with_chunks(png.chunk(b"acTL", struct.pack(">II", count, 0)))
    return data[:-12] + b"".join(parts) + png.END


def _property(name: bytes, body: bytes) -> bytes:
    """Return an AVIF whose item has another property (ISO/IEC 23008-12, section 9.3.1)."""
    data = bytearray(avif.plain())
    box = struct.pack(">I", len(body) + 8) + name + body
    _insert(data, data.index(b"ipco") - 4, box, (b"meta", b"iprp", b"ipco"))
    at = data.index(b"ipma") + 4
    count = data[at + 10]
    start = data.index(b"ipco") + 4
    number, end = 0, data.index(b"ipco") - 4 + int.from_bytes(data[start - 8 : start - 4], "big")
    while start < end:
        start += int.from_bytes(data[start : start + 4], "big")
        number += 1
    data[at + 10] = count + 1
    whole = (b"meta", b"iprp", b"ipma")
    _insert(data, at - 8, bytes([0x80 | number]), whole, inside=at + 11 + count)
    return bytes(data)


def _insert(
    data: bytearray, box: int, body: bytes, around: Sequence[bytes], *, inside: int | None = None
) -> None:
    """Insert at the end of a box, or inside it, and adjust the sizes and offsets."""
    end = inside or box + int.from_bytes(data[box : box + 4], "big")
    data[end:end] = body
    for name in around:
        at = data.index(name) - 4
        size = int.from_bytes(data[at : at + 4], "big") + len(body)
        data[at : at + 4] = struct.pack(">I", size)
    at = data.index(b"iloc") + 4
    # Version 0, offsets of four bytes, one item with one extent.
    start = at + 4 + 2 + 2 + 2 + 2 + 2
    offset = int.from_bytes(data[start : start + 4], "big") + len(body)
    data[start : start + 4] = struct.pack(">I", offset)


def _code_points(primaries: int, transfer: int) -> bytes:
    data = avif.plain()
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def _late_brand() -> bytes:
    data = avif.plain()
    rest = data[int.from_bytes(data[:4], "big") :]
    brands = [b"mif1", b"\0\0\0\0", b"mif1", b"miaf", b"MA1B", *[b"abcd"] * 12, b"avif"]
    head = b"ftyp" + b"".join(brands)
    moved = bytearray(struct.pack(">I", len(head) + 4) + head + rest)
    at = moved.index(b"iloc") + 18
    shift = len(moved) - len(data)
    offset = int.from_bytes(moved[at : at + 4], "big") + shift
    moved[at : at + 4] = struct.pack(">I", offset)
    return bytes(moved)


def _apple() -> bytes:
    """Return an iPhone-optimised PNG: blue first, alpha premultiplied, no zlib header."""
    body = b""
    for y in range(100):
        colours = CORNERS[2 * (y >= 50) : 2 * (y >= 50) + 2]
        half = [bytes((*(v // 2 for v in colour[::-1]), 128)) * 50 for colour in colours]
        body += b"\0" + b"".join(half)
    packer = zlib.compressobj(wbits=-15)
    data = packer.compress(body) + packer.flush()
    head = png.SIGNATURE + png.chunk(b"CgBI", b"\x50\0\x20\x02") + png.header(100, 100, 8, 6)
    return head + png.chunk(b"IDAT", data) + png.END


def _cut(data: bytes, count: int, tail: bytes = b"") -> bytes:
    return data[: len(data) - count] + tail


def _has_clear_ground(pictures: Pictures) -> None:
    image = pictures["large"].convert("RGBA")
    assert image.size == (96, 64), image.size
    assert image.getpixel((24, 14))[0] > 200  # type: ignore[index]
    assert image.getpixel((80, 50)) == CLEAR


def _png_entries() -> Iterator[Entry]:
    upright = shows(sides=(600, 375))
    numbers = random.Random(1)
    for name in ANCILLARY:
        for what, body in (("empty", b""), ("short", b"a"), ("long", numbers.randbytes(3000))):
            chunk = png.chunk(name, body)
            yield entry(
                f"PNG, {what} {name.decode()}", lambda c=chunk: png.with_chunks(c), check=upright
            )  # type: ignore[misc]
        chunk = png.chunk(name, b"abc\0\0xyz", right=False)
        yield entry(
            f"PNG, {name.decode()} with a wrong CRC",
            lambda c=chunk: png.with_chunks(c),
            check=upright,
        )  # type: ignore[misc]
    yield entry("PNG, profile with a wrong CRC", lambda: _with_profile(display_p3(), right=False))
    yield entry(
        "PNG, profile with an unknown compression method",
        lambda: _with_profile(display_p3(), method=b"\1"),
        check=upright,
    )
    yield entry(
        "PNG, profile of 1.5 MB",
        lambda: _with_profile(_padded(display_p3())),
        check=shows(P3_CORNERS),
    )
    yield entry("PNG, text of 1.5 MB", lambda: png.with_chunks(_text(1_500_000)), check=upright)
    yield entry(
        "PNG, unknown critical chunk", lambda: png.with_chunks(png.chunk(b"ABCD", b"x")), "corrupt"
    )
    yield entry("PNG, palette with a wrong CRC", lambda: _palette(right=False), "corrupt")
    yield entry("PNG, truncated palette", lambda: _palette(cut=1), "corrupt")
    yield entry(
        "PNG, oriented by XMP only",
        lambda: png.with_chunks(png.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _xmp(6))),
        check=upright,
    )
    yield entry(
        "PNG, oriented by a raw profile only",
        lambda: png.with_chunks(_raw_profile()),
        check=upright,
    )
    for depth in (1, 2, 4):
        most = (1 << depth) - 1
        values = (0, most, most // 3, most - most // 3)
        greys = [(v * 255 // most,) * 3 + (0 if v == most else 255,) for v in values]
        wanted = [CLEAR if grey[3] == 0 else grey for grey in greys]
        yield entry(
            f"PNG, transparent colour in {depth}-bit grey",
            lambda d=depth, m=most, v=values: _grey(d, m, v),
            check=shows(wanted),
        )  # type: ignore[misc]
    yield entry(
        "PNG, transparent colour in 16-bit RGB",
        _deep_colour_with_key,
        check=shows((CLEAR, *((*c, 255) for c in CORNERS[1:]))),
    )
    yield entry("PNG, hidden default image", _hidden_image, check=shows((CLEAR, (*BLUE, 255)) * 2))
    yield entry(
        "PNG, hidden default image and a wrong number",
        lambda: _hidden_image(number=3),
        check=upright,
    )
    yield entry(
        "PNG, hidden default image and a negative number of frames",
        lambda: _hidden_image(count=0x80000001),
        check=upright,
    )
    yield entry("PNG, iPhone-optimised", _apple, check=shows(tuple((*c, 128) for c in CORNERS)))
    yield entry(
        "PNG, other profile named sRGB",
        lambda: _with_profile(swapped()),
        check=shows(SWAPPED_CORNERS, 20),
    )
    yield entry(
        "PNG, gamma of linear light",
        lambda: png.with_chunks(png.chunk(b"gAMA", struct.pack(">I", 100_000))),
        check=shows(LINEAR_CORNERS),
    )
    gamma = png.chunk(b"gAMA", struct.pack(">I", 45455))
    yield entry(
        "PNG, chromaticities of Display P3",
        lambda: png.with_chunks(gamma, _scaled_points()),
        check=shows(P3_CORNERS),
    )
    yield entry(
        "PNG, code points of Display P3",
        lambda: png.with_chunks(png.chunk(b"cICP", bytes((12, 13, 0, 1)))),
        check=shows(P3_CORNERS),
    )
    yield entry(
        "PNG, code points of linear light",
        lambda: png.with_chunks(png.chunk(b"cICP", bytes((1, 8, 0, 1)))),
        check=shows(LINEAR_CORNERS),
    )


def _scaled_points() -> bytes:
    return png.chunk(b"cHRM", struct.pack(">8I", *P3_POINTS))


def _palette(*, right: bool = True, cut: int = 0) -> bytes:
    body = png.corner_rows(100, (b"\0", b"\1", b"\2", b"\3"))
    colours = b"".join(map(bytes, CORNERS))
    palette = png.chunk(b"PLTE", colours[: len(colours) - cut], right=right)
    return png.handmade(png.header(100, 100, 8, 3), palette, body=body)


def _jpeg_entries() -> Iterator[Entry]:
    upright = shows(sides=(600, 375))
    for name, code, body in (
        ("JFIF", 0xE0, b"JFIF\0\1"),
        ("Adobe", 0xEE, b"Adobe\0d"),
        ("ICC", 0xE2, b"ICC_PROFILE\0\1"),
        ("Exif", 0xE1, b"Exif\0\0MM\0*\0"),
        ("MPF", 0xE2, b"MPF\0II*\0\xff\xff"),
    ):
        segment = jpeg.segment(code, body)
        yield entry(
            f"short {name}", lambda s=segment: jpeg.with_segments(jpeg.plain(), s), check=upright
        )  # type: ignore[misc]
    yield entry(
        "short JFIF only",
        lambda: b"\xff\xd8" + jpeg.segment(0xE0, b"JFIF\0\1") + jpeg.plain()[20:],
        check=upright,
    )
    yield entry("three bytes missing", lambda: _cut(jpeg.plain(), 3), check=upright)
    yield entry("zeros instead of an end", lambda: _cut(jpeg.plain(), 2, bytes(40)), check=upright)
    yield entry(
        "a tenth missing",
        lambda: _cut(saved(photo(), "JPEG"), len(saved(photo(), "JPEG")) // 10),
        "corrupt",
    )
    progressive = saved(photo(), "JPEG", progressive=True)
    yield entry("progressive without an end", lambda: _cut(progressive, 2))
    yield entry("progressive, ten bytes missing", lambda: _cut(progressive, 12, bytes(8)))
    yield entry(
        "progressive, half missing", lambda: _cut(progressive, len(progressive) // 2), "corrupt"
    )
    yield entry(
        "oriented by XMP only",
        lambda: jpeg.with_segments(
            jpeg.plain(), jpeg.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _xmp(6))
        ),
        check=upright,
    )
    rotated = saved(drawing().transpose(STORED[6]), "JPEG", quality=90)
    yield entry(
        "oriented after an invalid EXIF entry",
        lambda: jpeg.with_segments(rotated, jpeg.segment(0xE1, _bad_entry_first())),
        check=upright,
    )
    yield entry(
        "Display P3 with sRGB in its name",
        lambda: saved(drawing(), "JPEG", quality=95, icc_profile=display_p3()),
        check=shows(P3_CORNERS, 20),
    )
    yield entry(
        "lossless", lambda: jpeg.plain().replace(b"\xff\xc0", b"\xff\xc3", 1), "unsupported"
    )


def _other_entries() -> Iterator[Entry]:
    yield entry("GIF, cut after its first frame", lambda: _cut(gif.plain(), 1), check=shows())
    yield entry("GIF, last bytes missing", lambda: _cut(gif.plain(), 4), check=shows())
    yield entry(
        "GIF, last block cut",
        lambda: _cut(saved(photo(200, 120).quantize(64), "GIF", interlace=0), 10),
    )
    yield entry(
        "GIF, half missing", lambda: _cut(saved(photo().quantize(64), "GIF"), 100_000), "corrupt"
    )
    yield entry(
        "GIF, frame smaller than its canvas", lambda: _small_frame("gif"), check=_has_clear_ground
    )
    yield entry(
        "WebP, frame smaller than its canvas", lambda: _small_frame("webp"), check=_has_clear_ground
    )
    yield entry(
        "GIF, frame larger than its canvas",
        _frame_beyond_canvas,
        check=shows(sides=(80, 50)),
    )
    yield entry(
        "AVIF, oriented by XMP only",
        lambda: saved(drawing(), "AVIF", quality=90, speed=10, xmp=_xmp(6)),
        check=shows(tolerance=20, sides=(600, 375)),
    )
    yield entry(
        "AVIF, code points of Display P3", lambda: _code_points(12, 13), check=shows(P3_CORNERS, 20)
    )
    yield entry(
        "AVIF, code points of linear light",
        lambda: _code_points(1, 8),
        check=shows(LINEAR_CORNERS, 20),
    )
    aperture = struct.pack(">IIIIiIiI", 400, 1, 250, 1, -200, 1, -125, 1)
    yield entry(
        "AVIF, clean aperture",
        lambda: _property(b"clap", aperture),
        check=shows((RED,) * 4, 20, sides=(400, 250)),
    )
    invalid = struct.pack(">IIIIiIiI", 0, 1, 250, 0, -200, 1, -125, 1)
    yield entry(
        "AVIF, invalid clean aperture",
        lambda: _property(b"clap", invalid),
        check=shows(tolerance=20),
    )
    yield entry(
        "AVIF, mirrored",
        lambda: _property(b"imir", b"\1"),
        check=shows((GREEN, RED, CORNERS[3], BLUE), 20),
    )
    yield entry("AVIF, brand late in its list", _late_brand, check=shows(tolerance=20))
    yield entry("AVIF, 17000 x 100", lambda: avif.sides_patched(17000, 100), "too_wide", "corrupt")
    yield entry("AVIF, 17000 x 17000", lambda: avif.sides_patched(17000, 17000), "too_many_pixels")


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    yield from _png_entries()
    yield from _jpeg_entries()
    yield from _other_entries()
