"""
What an upload claims to be, from its first bytes.

This is all that the web role ever looks at, so there is no decoder in here: Pillow's
own header parsers can be made to burn seconds.
"""

from __future__ import annotations

from typing import Final

#: How many bytes :func:`sniff` wants; fewer will do if the upload has no more.
SIGNATURE_BYTES: Final = 32

#: What :func:`sniff` can answer, ``heic`` aside, and the media type of each.
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
#: Brands that only say that this is a picture in an ISO base media file.
_CONTAINER_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})


def sniff(first_bytes: bytes, *, heic: bool = False) -> str | None:
    """
    Tell the type of an image.

    :param first_bytes: the first :data:`SIGNATURE_BYTES` of it, or all there are.
    :param heic: whether HEIC is wanted too; it needs an optional decoder.
    :returns: ``jpeg``, ``png``, ``gif``, ``webp``, ``avif`` or ``heic``; None for
        whatever else.  A type is a claim: only decoding tells whether it is true.
    """
    if first_bytes.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if first_bytes.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if first_bytes.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if first_bytes.startswith(b"RIFF") and first_bytes[8:12] == b"WEBP":
        return "webp" if first_bytes[12:16] in _WEBP_CHUNKS else None
    if first_bytes[4:8] == b"ftyp":
        return _iso_brand(first_bytes, heic)
    return None


def _iso_brand(first_bytes: bytes, heic: bool) -> str | None:
    """ISO/IEC 14496-12, section 4.3: the major brand decides, then the compatible ones."""
    end = min(int.from_bytes(first_bytes[:4], "big"), SIGNATURE_BYTES)
    brands = [first_bytes[i : i + 4] for i in (8, *range(16, end - 3, 4))]
    if brands[0] not in _AVIF_BRANDS | _HEIC_BRANDS | _CONTAINER_BRANDS:
        return None
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "avif"
        if brand in _HEIC_BRANDS:
            return "heic" if heic else None
    return None
