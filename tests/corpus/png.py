"""PNGs, most of them written by hand, since no encoder makes them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.corpus import Entry, Pictures, entry
from tests.corpus.drawing import (
    CORNERS,
    NARROWED,
    STORED,
    both,
    drawing,
    exif,
    has_mode,
    has_sides,
    photo,
    saved,
    shows,
)
from tests.corpus.jpeg import srgb, wide_gamut

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xae\x42\x60\x82"


def chunk(name: bytes, body: bytes = b"", *, right: bool = True) -> bytes:
    """Return a chunk, with a right or a wrong checksum."""
    checksum = zlib.crc32(name + body) ^ (not right)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    """Return IHDR (W3C PNG, 11.2.1)."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def rows(width: int, height: int, channels: int, pixel: bytes) -> bytes:
    """Return the rows of a picture of one colour."""
    return (b"\0" + pixel * width) * height


def plain() -> bytes:
    return saved(drawing(), "PNG")


def with_chunks(*chunks: bytes, data: bytes | None = None) -> bytes:
    """Insert chunks after the header of a file."""
    data = plain() if data is None else data
    return data[:33] + b"".join(chunks) + data[33:]


def handmade(ihdr: bytes, *chunks: bytes, body: bytes) -> bytes:
    """Return a file of these parts."""
    return b"".join((SIGNATURE, ihdr, *chunks, chunk(b"IDAT", zlib.compress(body)), END))


def corner_rows(size: int, pixels: tuple[bytes, bytes, bytes, bytes]) -> bytes:
    """Return the rows of a picture of four corners, in any pixel format."""
    half = size // 2
    top = b"\0" + pixels[0] * half + pixels[1] * half
    bottom = b"\0" + pixels[2] * half + pixels[3] * half
    return top * half + bottom * half


def deep_grey() -> bytes:
    """Return 16-bit grey: black, a third, two thirds, white."""
    values = (0, 0x5555, 0xAAAA, 0xFFFF)
    body = corner_rows(100, tuple(struct.pack(">H", v) for v in values))  # type: ignore[arg-type]
    return handmade(header(100, 100, 16, 0), body=body)


def deep_grey_with_key() -> bytes:
    """Return 16-bit grey with a transparent value, and its neighbour that is opaque."""
    values = (0, 0x5555, 0x5556, 0xFFFF)
    body = corner_rows(100, tuple(struct.pack(">H", v) for v in values))  # type: ignore[arg-type]
    return handmade(header(100, 100, 16, 0), chunk(b"tRNS", b"\x55\x55"), body=body)


def deep_colour() -> bytes:
    """Return 16-bit RGBA."""
    pixels = [struct.pack(">4H", *(v * 257 for v in (*colour, 255))) for colour in CORNERS[:3]]
    pixels.append(struct.pack(">4H", 0xFFFF, 0xFFFF, 0xFFFF, 0x8080))
    return handmade(header(100, 100, 16, 6), body=corner_rows(100, tuple(pixels)))  # type: ignore[arg-type]


def with_key() -> bytes:
    """Return RGB with a transparent colour."""
    body = corner_rows(100, tuple(bytes(colour) for colour in CORNERS))  # type: ignore[arg-type]
    return handmade(header(100, 100), chunk(b"tRNS", struct.pack(">3H", *CORNERS[0])), body=body)


def animation(count: int) -> bytes:
    """Return an animation with the default image first."""
    data = plain()
    control = struct.pack(">IIIIIHHBB", 0, 800, 500, 0, 0, 1, 10, 0, 0)
    extra = [chunk(b"acTL", struct.pack(">II", count, 0)), chunk(b"fcTL", control)]
    rest = []
    frame = zlib.compress(rows(8, 8, 3, b"\xff\0\xff"))
    for number in range(1, count):
        control = struct.pack(">IIIIIHHBB", 2 * number - 1, 8, 8, 0, 0, 1, 10, 0, 0)
        rest.append(chunk(b"fcTL", control))
        rest.append(chunk(b"fdAT", struct.pack(">I", 2 * number) + frame))
    return data[:33] + b"".join(extra) + data[33:-12] + b"".join(rest) + END


def text_bomb() -> bytes:
    return with_chunks(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)))


def text_bombs() -> bytes:
    return with_chunks(*[chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 20), 9))] * 100)


def profile_bomb() -> bytes:
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(500)) + packer.flush()
    return with_chunks(chunk(b"iCCP", b"icc\0\0" + body))


def wrong_trailer() -> bytes:
    """Return all pixels with a wrong checksum of the zlib stream (RFC 1950, section 2.2)."""
    body = bytearray(zlib.compress(rows(64, 64, 3, b"\x10\x20\x30")))
    body[-1] ^= 0xFF
    return b"".join((SIGNATURE, header(64, 64), chunk(b"IDAT", bytes(body)), END))


def no_trailer() -> bytes:
    """Return all pixels without the checksum of the zlib stream."""
    body = zlib.compress(rows(64, 64, 3, b"\x10\x20\x30"))[:-4]
    return b"".join((SIGNATURE, header(64, 64), chunk(b"IDAT", body), END))


def too_much_data() -> bytes:
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    return b"".join((SIGNATURE, header(16, 16), chunk(b"IDAT", body), END))


def large_and_empty() -> bytes:
    packer = zlib.compressobj(9)
    row = bytes(1 + 30000 // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(300)) + packer.flush()
    return b"".join((SIGNATURE, header(30000, 30000, 1, 0), chunk(b"IDAT", body), END))


def no_palette() -> bytes:
    return handmade(header(100, 100, 8, 3), body=rows(100, 100, 1, b"\x40"))


def oriented() -> bytes:
    return saved(drawing().transpose(STORED[6]), "PNG", exif=exif(6))


def oriented_late() -> bytes:
    """Return a file with EXIF after the pixels."""
    data = saved(drawing().transpose(STORED[6]), "PNG")
    return data[:-12] + chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0")) + END


def hidden_colour() -> bytes:
    """Return a photo under transparent pixels."""
    image = photo(300, 200).convert("RGBA")
    image.putalpha(0)
    image.paste((200, 10, 10, 255), (0, 0, 100, 100))
    return saved(image, "PNG")


def _nothing_hidden(pictures: Pictures) -> None:
    for name, picture in pictures.items():
        for pixel in picture.convert("RGBA").get_flattened_data():
            assert pixel[3] or pixel[:3] == (0, 0, 0), f"{name} shows {pixel}"


def _is_grey_scale(pictures: Pictures) -> None:
    shows(((0,) * 3, (85,) * 3, (170,) * 3, (255,) * 3), 2)(pictures)


def _only_the_key_is_clear(pictures: Pictures) -> None:
    image = pictures["large"].convert("LA")
    pixels = [image.getpixel((x, y)) for y in (25, 75) for x in (25, 75)]
    assert pixels == [(0, 255), (0, 0), (85, 255), (255, 255)], pixels


def _half_white(pictures: Pictures) -> None:
    shows((*CORNERS[:3], (255, 255, 255, 128)), 3)(pictures)


def _first_corner_clear(pictures: Pictures) -> None:
    shows(((0, 0, 0, 0), *((*colour, 255) for colour in CORNERS[1:])), 3)(pictures)


def entries() -> Iterator[Entry]:
    """Yield all entries."""
    yield entry("PNG", plain, check=both(shows(), has_mode("RGB")))
    translucent = drawing(300, 200, "RGBA")
    translucent.putalpha(Image.linear_gradient("L").resize((300, 200)))
    yield entry("PNG, RGBA", lambda: saved(translucent, "PNG"), check=has_mode("RGBA"))
    yield entry(
        "PNG, opaque RGBA",
        lambda: saved(drawing(mode="RGBA"), "PNG"),
        check=both(shows(), has_mode("RGB")),
    )
    yield entry("PNG, LA", lambda: saved(translucent.convert("LA"), "PNG"), check=has_mode("RGBA"))
    palette = drawing(300, 200).quantize(4)
    yield entry("PNG, palette", lambda: saved(palette, "PNG"), check=shows())
    yield entry(
        "PNG, transparent palette",
        lambda: saved(palette, "PNG", transparency=0),
        check=has_mode("RGBA"),
    )
    for bits in (1, 2, 4):
        yield entry(
            f"PNG, palette of {bits} bits",
            lambda b=bits: saved(drawing(300, 200).quantize(2**b), "PNG", bits=b),
        )
    yield entry("PNG, 1 bit", lambda: saved(drawing(300, 200, "1"), "PNG"))
    yield entry("PNG, key colour", with_key, check=_first_corner_clear)
    yield entry("PNG, 16-bit grey", deep_grey, check=_is_grey_scale)
    yield entry("PNG, 16-bit grey with a key", deep_grey_with_key, check=_only_the_key_is_clear)
    yield entry("PNG, 16-bit RGBA", deep_colour, check=_half_white)
    yield entry(
        "PNG, interlaced", lambda: handmade(header(1, 1, interlace=1), body=b"\0\x01\x02\x03")
    )
    yield entry(
        "PNG, sRGB profile",
        lambda: saved(drawing(), "PNG", icc_profile=srgb()),
        check=shows(),
        absent=b"iCCP",
    )
    yield entry(
        "PNG, wide gamut",
        lambda: saved(drawing(), "PNG", icc_profile=wide_gamut()),
        check=shows(NARROWED),
        absent=b"acsp",
    )
    yield entry("PNG, animation of 3 frames", lambda: animation(3), check=shows())
    yield entry("PNG, animation of 3,000 frames", lambda: animation(3000), check=shows())
    yield entry("PNG, text bomb", text_bomb, slow=True)
    yield entry("PNG, 100 text bombs", text_bombs)
    yield entry("PNG, profile bomb", profile_bomb, slow=True)
    yield entry(
        "PNG, wrong checksum in IHDR",
        lambda: SIGNATURE + chunk(b"IHDR", plain()[16:29], right=False) + plain()[33:],
        "corrupt",
    )
    yield entry(
        "PNG, wrong checksum in tEXt",
        lambda: with_chunks(chunk(b"tEXt", b"a\0b", right=False)),
    )
    yield entry("PNG, wrong trailer in IDAT", wrong_trailer)
    yield entry("PNG, no trailer in IDAT", no_trailer)
    yield entry("PNG, 30000 x 30000 of 1 bit", large_and_empty, "too_many_pixels")
    yield entry(
        "PNG, 16000 x 1",
        lambda: saved(Image.new("RGB", (16000, 1), (9, 9, 200)), "PNG"),
        check=has_sides(large=(600, 1), small=(100, 1)),
    )
    yield entry(
        "PNG, 1 x 16000",
        lambda: saved(Image.new("RGB", (1, 16000), (9, 9, 200)), "PNG"),
        check=has_sides(large=(1, 600), small=(1, 100)),
    )
    yield entry("PNG, 16385 x 1", lambda: saved(Image.new("RGB", (16385, 1)), "PNG"), "too_wide")
    yield entry(
        "PNG, 1 x 1",
        lambda: saved(Image.new("RGB", (1, 1)), "PNG"),
        check=has_sides(large=(1, 1), small=(1, 1)),
    )
    yield entry(
        "PNG, 601 x 600",
        lambda: saved(drawing(601, 600), "PNG"),
        check=has_sides(large=(600, 599), default=(200, 200)),
    )
    yield entry("PNG, width 0", lambda: handmade(header(0, 8), body=b""), "corrupt")
    yield entry(
        "PNG, colour type 5", lambda: handmade(header(8, 8, 8, 5), body=bytes(400)), "corrupt"
    )
    yield entry(
        "PNG, no such filter",
        lambda: handmade(header(8, 8), body=(b"\x09" + bytes(24)) * 8),
        "corrupt",
    )
    yield entry("PNG, cut in half", lambda: saved(photo(), "PNG")[:100_000], "corrupt")
    yield entry(
        "PNG, too little data", lambda: handmade(header(64, 64), body=bytes(500)), "corrupt"
    )
    yield entry("PNG, signature only", lambda: SIGNATURE, "corrupt")
    yield entry("PNG, no IEND", lambda: plain()[:-12], check=shows())
    yield entry("PNG, a chunk of 2 GB", lambda: with_chunks(b"\x7f\xff\xff\xfftEXt"), "corrupt")
    yield entry(
        "PNG, a script",
        lambda: with_chunks(chunk(b"tEXt", b"Comment\0<script>alert(1)</script>")),
        check=shows(),
        absent=b"alert",
    )
    yield entry(
        "PNG, script after the end",
        lambda: plain() + b"<script>alert(1)</script>",
        check=shows(),
        absent=b"alert",
    )
    yield entry("PNG, orientation 6", oriented, check=shows(sides=(600, 375)))
    yield entry(
        "PNG, orientation behind the pixels", oriented_late, check=has_sides(large=(375, 600))
    )
    yield entry("PNG, 100,000 chunks", lambda: with_chunks(chunk(b"teSt") * 100_000), check=shows())
    yield entry(
        "PNG, 830,000 chunks",
        lambda: with_chunks(chunk(b"teSt") * 830_000),
        check=shows(),
        slow=True,
    )
    yield entry("PNG, no palette", no_palette, "corrupt")
    yield entry("PNG, 300 MB of data for 16 x 16", too_much_data, slow=True)
    yield entry("PNG, hidden colour", hidden_colour, check=_nothing_hidden)
    yield entry(
        "PNG, 49 million pixels of RGBA",
        lambda: saved(Image.new("RGBA", (7000, 7000), (9, 99, 200, 99)), "PNG", compress_level=1),
        check=has_sides(large=(600, 600)),
        slow=True,
    )
    yield entry(
        "PNG, 49 million pixels of 16 bits",
        lambda: handmade(header(7000, 7000, 16, 0), body=rows(7000, 7000, 2, b"\x80\x80")),
        check=shows(((128,) * 3,) * 4, 1),
        slow=True,
    )


def seeds() -> dict[str, bytes]:
    """Return small honest images."""
    small = photo(40, 30)
    return {
        "png": saved(small, "PNG", exif=exif(3), icc_profile=srgb()),
        "png alpha": saved(small.convert("RGBA"), "PNG"),
        "png palette": saved(small.quantize(16), "PNG", transparency=3),
        "png deep": deep_grey(),
    }
