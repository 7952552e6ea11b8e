"""
Pictures in other formats than PNG, for browsers that say they take them.

They are off by default.  Each has a tenth of the bytes of a photo's PNG; AVIF has the
fewest and takes the longest.  The check of what a child wrote is as strict as that of a
PNG: it knows the few parts that an encoder without metadata writes, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from fxprofile.crunch.codec.headers import webp_sides

if TYPE_CHECKING:
    from PIL import Image

#: How to encode each of :data:`fxprofile.model.keys.FORMATS` but PNG: about as good to the eye as
#: a JPEG of quality 85.
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    # Method 6 takes seconds for some pictures with alpha.
    "webp": {"quality": 85, "method": 2, "alpha_quality": 95},
    "avif": {"quality": 70, "speed": 8, "max_threads": 1},
}

_VP8X_LENGTH: Final = (10).to_bytes(4, "little")
_AVIF_BOXES: Final = (b"ftyp", b"meta", b"mdat")
#: What may be in ``meta``, and in what describes the items (ISO/IEC 14496-12, 8.11;
#: ISO/IEC 23008-12, 6.5; AV1 Image File Format, 2).
_META_BOXES: Final = frozenset({b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp", b"iref"})
_PROPERTIES: Final = frozenset({b"ispe", b"pixi", b"av1C", b"colr", b"auxC"})
#: The boxes around the properties, and which item has which.
_PROPERTY_BOXES: Final = [b"ipco", b"ipma"]
#: The most bytes of what has a text in it: brands, a handler's or an item's name.
_MOST_TEXT: Final = 64


class BadPicture(ValueError):
    """Not a picture that :func:`encode` could have written."""


def encode(image: Image.Image, form: str) -> bytes:
    """
    Encode a picture.

    :param image: of mode L, LA, RGB or RGBA.
    :param form: a name of :data:`fxprofile.model.keys.FORMATS` other than ``png``.
    """
    file = BytesIO()
    clear = image.mode in ("LA", "RGBA")
    picture = image.convert("RGBA" if clear else "RGB")
    # What the source said of itself: an encoder would write some of it down.
    picture.info.clear()
    picture.save(file, form.upper(), **_OPTIONS[form])
    return file.getvalue()


def check(body: bytes, form: str) -> tuple[int, int]:
    """
    Check a picture without decoding it.

    :returns: its width and height.
    :raises BadPicture: if it has any part that :func:`encode` would not write.
    """
    return _check_webp(body) if form == "webp" else _check_avif(body)


def _check_webp(body: bytes) -> tuple[int, int]:
    """RFC 9649, section 2."""
    if body[:4] != b"RIFF" or body[8:12] != b"WEBP":
        raise BadPicture("not a WebP")
    if int.from_bytes(body[4:8], "little") != len(body) - 8:
        raise BadPicture("another length than it says")
    at, seen = 12, []
    while at < len(body):
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        seen.append(body[at : at + 4])
        at += 8 + length + length % 2
    if at != len(body) or tuple(seen) not in (
        (b"VP8 ",),
        (b"VP8L",),
        (b"VP8X", b"ALPH", b"VP8 "),
        (b"VP8X", b"VP8L"),
    ):
        raise BadPicture("chunks that we do not write")
    # Of the flags in front of the canvas, only that of alpha; three bytes are not used.
    if seen[0] == b"VP8X" and (body[16:20] != _VP8X_LENGTH or body[20] & ~0x10 or any(body[21:24])):
        raise BadPicture("more than a picture")
    sides = webp_sides(body[:30])
    if sides is None:
        raise BadPicture("no sides")
    return sides


def _check_avif(body: bytes) -> tuple[int, int]:
    boxes = list(_boxes(body, 0, len(body)))
    if tuple(name for name, _, _ in boxes) != _AVIF_BOXES:
        raise BadPicture("boxes that we do not write")
    _, start, end = boxes[0]
    if body[start : start + 4] != b"avif" or end - start > _MOST_TEXT:
        raise BadPicture("not an AVIF")
    _, start, end = boxes[1]
    # A full box: four bytes of version and flags come first.
    found = list(_boxes(body, start + 4, end))
    members = {name: (first, last) for name, first, last in found}
    # Of two of a kind, others may look at the one that we do not.
    if len(members) != len(found) or not members.keys() <= _META_BOXES:
        raise BadPicture("descriptions that we do not write")
    if not {b"hdlr", b"iinf", b"iprp"} <= members.keys():
        raise BadPicture("descriptions missing")
    start, end = members[b"hdlr"]
    if body[start + 8 : start + 12] != b"pict" or end - start > _MOST_TEXT:
        raise BadPicture("not the handler of a picture")
    _check_items(body, *members[b"iinf"])
    return _property_sides(body, *members[b"iprp"])


def _check_items(body: bytes, start: int, end: int) -> None:
    """Every item is a coded picture: no EXIF, no XMP."""
    count = int.from_bytes(body[start + 4 : start + 6], "big")
    items = list(_boxes(body, start + 6, end))
    if body[start] != 0 or len(items) != count or not 1 <= count <= 2:
        raise BadPicture("items that we do not write")
    for name, first, last in items:
        # Version 2: the number, what protects it, and the type.
        if name != b"infe" or body[first] != 2 or body[first + 8 : first + 12] != b"av01":
            raise BadPicture("an item that is no picture")
        if last - first > _MOST_TEXT:
            raise BadPicture("an item with much to say")


def _property_sides(body: bytes, start: int, end: int) -> tuple[int, int]:
    around = list(_boxes(body, start, end))
    if [name for name, _, _ in around] != _PROPERTY_BOXES:
        raise BadPicture("properties in another form than ours")
    sides = set()
    for name, first, last in _boxes(body, *around[0][1:]):
        if name not in _PROPERTIES or last - first > _MOST_TEXT:
            raise BadPicture("a property that we do not write")
        if name == b"colr" and body[first : first + 4] != b"nclx":
            raise BadPicture("a profile")
        if name == b"ispe":
            width, height = (int.from_bytes(body[first + i : first + i + 4], "big") for i in (4, 8))
            sides.add((width, height))
    if len(sides) != 1:
        raise BadPicture("not the sides of one picture")
    return sides.pop()


def _boxes(body: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The name of each box, and where what is in it begins and ends."""
    while start < end:
        length = int.from_bytes(body[start : start + 4], "big")
        if not 8 <= length <= end - start:
            raise BadPicture("a box of no possible length")
        yield body[start + 4 : start + 8], start + 8, start + length
        start += length
