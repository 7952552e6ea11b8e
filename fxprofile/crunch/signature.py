"""
The type and canvas that an upload claims, from its first bytes.

The web role looks at nothing else of an upload, so there is no decoder in here: Pillow's own
header parsers can be made to run for seconds.
"""

from __future__ import annotations

from typing import Final

#: How many bytes :func:`sniff` needs; fewer are enough if the upload has no more.
SIGNATURE_BYTES: Final = 256

#: The types that :func:`sniff` returns, ``heic`` aside, and their media types.
MEDIA_TYPES: Final = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
}

_WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})

#: How files of other types begin that people take for pictures.
_UNSUPPORTED: Final = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "Photoshop"),
    (b"%PDF-", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
)


def sniff(first_bytes: bytes, *, heic: bool = False) -> str | None:
    """
    Return the type of an image.

    :param first_bytes: its first :data:`SIGNATURE_BYTES`, or all of it.
    :param heic: whether HEIC is accepted too; it needs an optional decoder.
    :returns: ``jpeg``, ``png``, ``gif``, ``webp``, ``avif`` or ``heic``; None for anything
        else.  The type is a claim: only decoding shows whether it is true.
    """
    if first_bytes.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if first_bytes.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if first_bytes.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if first_bytes.startswith(b"RIFF") and first_bytes[8:12] == b"WEBP":
        return "webp" if first_bytes[12:16] in _WEBP_CHUNKS else None
    return _iso_brand(first_bytes, heic)


def name_of_unsupported(first_bytes: bytes) -> str:
    """Return the name of a well-known type that is not accepted; empty for other bytes."""
    if _iso_brand(first_bytes, heic=True) == "heic":
        return "HEIC"
    for beginning, name in _UNSUPPORTED:
        if first_bytes.startswith(beginning):
            return name
    return ""


def _iso_brand(first_bytes: bytes, heic: bool) -> str | None:
    """Read the major and the compatible brands (ISO/IEC 14496-12, section 4.3)."""
    if first_bytes[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(first_bytes[:4], "big"), SIGNATURE_BYTES)
    brands = [first_bytes[i : i + 4] for i in (8, *range(16, end - 3, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "avif"
        if brand in _HEIC_BRANDS:
            return "heic" if heic else None
    return None


def webp_sides(name: bytes, body: bytes | memoryview) -> tuple[int, int] | None:
    """
    Return the width and height that a chunk of a WebP states (RFC 9649, section 2).

    :param name: of the chunk: ``VP8X`` states those of the canvas, ``VP8`` and ``VP8L`` those
        of a picture.
    :param body: at least its first ten bytes, if it has that many.
    :returns: None if they do not say.
    """
    if name == b"VP8 " and len(body) >= 10 and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return width, height
    if name == b"VP8X" and len(body) >= 10:
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None
