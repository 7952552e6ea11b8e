"""
What a child hands back, and the check of it.

Four bytes of length, a header in JSON of at most 4 KiB, then the three pictures, one
behind the other.  The child may by then be in the hands of whoever made the image, so
this is read as data, never as a program (a pickle is one), and believed in nothing:
what is published is what this check has understood down to the last byte.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fxprofile.crunch.codec import extras
from fxprofile.crunch.limits import MAX_BYTES, MAX_HEADER, SIZES
from fxprofile.model.avatars import REASONS, Pictures, Variant, is_placeholder
from fxprofile.model.keys import FORMATS, VARIANTS

_LENGTH: Final = struct.Struct(">I")
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: The colour types of PNG and the bit depths that we write of each.
_DEPTHS: Final = {0: (8,), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
#: The chunks that we write, in the order in which they come.
_CHUNKS: Final = (b"IHDR", b"sRGB", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_NEEDED: Final = frozenset({b"IHDR", b"IDAT", b"IEND"})
#: What a child may call the type of an image, in a log line.
_KINDS: Final = frozenset({"jpeg", "png", "gif", "webp", "avif", "heic"})
#: Reasons that a child may give.
_CHILD_REASONS: Final = frozenset(
    {"unsupported", "corrupt", "too_many_pixels", "too_large", "memory"}
)
_MOST_DETAIL: Final = 200


class BadResult(Exception):
    """What the child wrote is not a result."""


@dataclass(frozen=True)
class Outcome:
    """
    What came of an image.

    :ivar reason: one word of :data:`fxprofile.model.avatars.REASONS`; None if it went well.
    :ivar detail: for operators.
    :ivar kind: what the image was, as far as it was found out, else empty.
    :ivar sides: of the source, in pixels; 0 if unknown.
    :ivar peak: the most address space that the child had, in bytes; 0 if unknown.
    :ivar placeholder: a BlurHash of the picture; empty if there is none.
    :ivar pictures: for each name of :data:`fxprofile.model.keys.VARIANTS`, a PNG.
    :ivar extras: for each other format that was asked for, the same.
    """

    reason: str | None = None
    detail: str = ""
    kind: str = ""
    sides: tuple[int, int] = (0, 0)
    peak: int = 0
    placeholder: str = ""
    pictures: Pictures = field(default_factory=dict)
    extras: Mapping[str, Pictures] = field(default_factory=dict)


def encode(outcome: Outcome) -> bytes:
    """The result file for an outcome; in the child."""
    header: dict[str, Any] = {
        "v": 1,
        "kind": outcome.kind,
        "sides": outcome.sides,
        "peak": outcome.peak,
    }
    bodies = []
    if outcome.reason is not None:
        header["reason"] = outcome.reason
        header["detail"] = outcome.detail[:_MOST_DETAIL]
    else:
        header["placeholder"] = outcome.placeholder
        header["pictures"] = _described(outcome.pictures)
        header["extras"] = {form: _described(made) for form, made in outcome.extras.items()}
        bodies = [made[name][1] for made in _each_format(outcome) for name in SIZES]
    text = json.dumps(header).encode()
    return b"".join((_LENGTH.pack(len(text)), text, *bodies))


def _described(pictures: Pictures) -> dict[str, list[int]]:
    return {name: [v.width, v.height, v.bytes] for name, (v, _) in pictures.items()}


def _each_format(outcome: Outcome) -> list[Pictures]:
    return [outcome.pictures, *outcome.extras.values()]


def decode(data: bytes) -> Outcome:
    """
    Read and check a result file; in the parent.

    :raises BadResult: if anything about it is not as :func:`encode` and
        :mod:`fxprofile.crunch.codec.png` write it.
    """
    if len(data) < _LENGTH.size:
        raise BadResult("no header" if data else "nothing")
    (length,) = _LENGTH.unpack_from(data)
    if not 0 < length <= MAX_HEADER or _LENGTH.size + length > len(data):
        raise BadResult("the header has no possible length")
    try:
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
    except (ValueError, RecursionError):
        raise BadResult("the header is not JSON") from None
    if not isinstance(header, dict) or header.get("v") != 1:
        raise BadResult("the header is not an object of version 1")
    kind = header.get("kind")
    about = Outcome(
        kind=kind if isinstance(kind, str) and kind in _KINDS else "",
        sides=_sides(header.get("sides")),
        peak=_number(header.get("peak"), 0, 1 << 50, "peak"),
    )
    bodies = data[_LENGTH.size + length :]
    if "reason" in header:
        return _refused(header, about, bodies)
    pictures, at = _pictures(header.get("pictures"), bodies, 0, "png")
    described, others = header.get("extras"), {}
    if not isinstance(described, dict) or not described.keys() <= FORMATS.keys() - {"png"}:
        raise BadResult("formats that nobody asks for")
    for form, members in described.items():
        others[form], at = _pictures(members, bodies, at, form)
        for name, (variant, _) in others[form].items():
            if (variant.width, variant.height) != _sides_of(pictures[name]):
                raise BadResult(f"{name} has other sides in {form}")
    if at != len(bodies):
        raise BadResult("more or less than the pictures")
    return Outcome(
        kind=about.kind,
        sides=about.sides,
        peak=about.peak,
        placeholder=_placeholder(header.get("placeholder")),
        pictures=pictures,
        extras=others,
    )


def _refused(header: Mapping[str, Any], about: Outcome, bodies: bytes) -> Outcome:
    reason, detail = header["reason"], header.get("detail", "")
    if not isinstance(reason, str) or reason not in _CHILD_REASONS or reason not in REASONS:
        raise BadResult("the reason is none")
    if not isinstance(detail, str) or bodies:
        raise BadResult("a reason, and more than that")
    return Outcome(
        reason=reason,
        detail=ascii(detail[:_MOST_DETAIL])[1:-1],
        kind=about.kind,
        sides=about.sides,
        peak=about.peak,
    )


def _pictures(members: object, bodies: bytes, at: int, form: str) -> tuple[Pictures, int]:
    """The pictures of one format, which begin here, and where they end."""
    if not isinstance(members, dict) or set(members) != set(VARIANTS):
        raise BadResult("the pictures are not " + ", ".join(VARIANTS))
    pictures = {}
    for name in SIZES:
        numbers = members[name]
        if not isinstance(numbers, list) or len(numbers) != 3:
            raise BadResult(f"{name} is not three numbers")
        box = VARIANTS[name][1]
        variant = Variant(
            width=_number(numbers[0], 1, box, f"width of {name}"),
            height=_number(numbers[1], 1, box, f"height of {name}"),
            bytes=_number(numbers[2], 1, MAX_BYTES[name], f"bytes of {name}"),
        )
        body = bodies[at : at + variant.bytes]
        at += variant.bytes
        if _checked(body, form) != (variant.width, variant.height):
            raise BadResult(f"{name} has other sides than the header says")
        pictures[name] = (variant, body)
    return pictures, at


def _sides_of(picture: tuple[Variant, bytes]) -> tuple[int, int]:
    return picture[0].width, picture[0].height


def _checked(body: bytes, form: str) -> tuple[int, int]:
    if form == "png":
        return check_png(body)
    try:
        return extras.check(body, form)
    except (extras.BadPicture, IndexError) as error:
        raise BadResult(f"{form}: {error}") from None


def _placeholder(value: object) -> str:
    if value != "" and not is_placeholder(value):
        raise BadResult("the placeholder is no BlurHash")
    return str(value)


def _number(value: object, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise BadResult(f"{what} is not a number from {least} to {most}")
    return value


def _sides(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadResult("sides are not two numbers")
    width, height = (_number(side, 0, 1 << 32, "side") for side in value)
    return width, height


def check_png(body: bytes) -> tuple[int, int]:
    """
    Check a PNG without decoding it: chunks, their order and their checksums.

    :returns: its width and height.
    :raises BadResult: if it is not one that :mod:`fxprofile.crunch.codec.png` could write.
    """
    if not body.startswith(_SIGNATURE):
        raise BadResult("not a PNG")
    seen: dict[bytes, bytes] = {}
    at, place = len(_SIGNATURE), -1
    while b"IEND" not in seen:
        name, chunk = _chunk(body, at)
        if name not in _CHUNKS or _CHUNKS.index(name) <= place:
            raise BadResult(f"chunk {name!r} is not wanted there")
        place = _CHUNKS.index(name)
        seen[name] = chunk
        at += 12 + len(chunk)
    if at != len(body):
        raise BadResult("bytes after IEND")
    if not seen.keys() >= _NEEDED or seen[b"IEND"] or len(seen[b"IHDR"]) != 13:
        raise BadResult("a chunk is missing")
    return _check_chunks(seen)


def _chunk(body: bytes, at: int) -> tuple[bytes, bytes]:
    if at + 12 > len(body):
        raise BadResult("cut off")
    length = int.from_bytes(body[at : at + 4], "big")
    if length > len(body) - at - 12:
        raise BadResult("a chunk longer than the file")
    end = at + 8 + length
    if zlib.crc32(memoryview(body)[at + 4 : end]) != int.from_bytes(body[end : end + 4], "big"):
        raise BadResult("a wrong checksum")
    return body[at + 4 : at + 8], body[at + 8 : end]


def _check_chunks(seen: Mapping[bytes, bytes]) -> tuple[int, int]:
    width, height, depth, colour, packing, filtering, lacing = struct.unpack(
        ">IIBBBBB", seen[b"IHDR"]
    )
    if depth not in _DEPTHS.get(colour, ()) or (packing, filtering, lacing) != (0, 0, 0):
        raise BadResult("a kind of PNG that we do not write")
    palette, clear = seen.get(b"PLTE"), seen.get(b"tRNS")
    if (palette is not None) != (colour == 3):
        raise BadResult("a palette and no palette")
    if palette is not None:
        colours, rest = divmod(len(palette), 3)
        if rest or not 1 <= colours <= 1 << depth:
            raise BadResult("a palette of no possible length")
        if clear is not None and not 1 <= len(clear) <= colours:
            raise BadResult("tRNS of no possible length")
    elif clear is not None:
        raise BadResult("tRNS without a palette")
    if seen.get(b"sRGB", b"\0") != b"\0":
        raise BadResult("an sRGB chunk that we do not write")
    return width, height
