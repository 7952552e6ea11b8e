"""
Read and check the result file that a child wrote, and judge how its image came out.

A result file is four bytes of length, a header in JSON of at most 4 KiB, and the pictures
one after the other, largest first, PNG first.  The child may by then run the code of an
attacker, so the file is parsed as data, never unpickled, and nothing in it is trusted: only
pictures that this module understands down to the last byte are published.  No library does
that: decoders accept far more than our encoders write.

What a child wrote before it was killed, or crashed, is ignored.
"""

from __future__ import annotations

import json
import signal
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fxprofile.crunch.commands import ChildExit
from fxprofile.crunch.limits import MAX_BYTES, MAX_HEADER, SIZES, Limits
from fxprofile.crunch.signature import webp_sides
from fxprofile.model.avatars import BLURHASH, Pictures, Variant
from fxprofile.model.keys import FORMATS, VARIANTS

#: The length of the header, at the beginning of a result file.
LENGTH: Final = struct.Struct(">I")
#: How many characters of a detail are kept.
MAX_DETAIL: Final = 200

#: The types of image that a child may name.
_KINDS: Final = ("jpeg", "png", "gif", "webp", "avif", "heic")
#: Reasons that a child may give for which the image is at fault.
_PERMANENT: Final = ("unsupported", "corrupt", "too_many_pixels", "too_wide", "too_large")

#: Above this share of the memory limit, "corrupt" may mean "out of memory": several
#: decoders do not tell the two apart.
_NEAR_LIMIT: Final = 0.8

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: The PNG chunks that we write, in their order.
_PNG_CHUNKS: Final = (b"IHDR", b"sRGB", b"PLTE", b"tRNS", b"IDAT", b"IEND")
#: The PNG colour types, and the bit depths that we write of each.
_BIT_DEPTHS: Final = {0: (8,), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}

#: The sequences of WebP chunks that we write.
_WEBP_CHUNKS: Final = (
    [b"VP8 "],
    [b"VP8L"],
    [b"VP8X", b"ALPH", b"VP8 "],
    [b"VP8X", b"VP8L"],
)

#: The AVIF boxes that may be in ``meta``, and the item properties that may be in ``ipco``
#: (ISO/IEC 14496-12, 8.11; ISO/IEC 23008-12, 6.5; AV1 Image File Format, 2).
_META_BOXES: Final = frozenset({b"hdlr", b"pitm", b"iloc", b"iinf", b"iprp", b"iref"})
_PROPERTIES: Final = frozenset({b"ispe", b"pixi", b"av1C", b"colr", b"auxC"})
#: The largest AVIF box that may contain text: brands, a handler's or an item's name.
_MAX_TEXT_BOX: Final = 64


class InvalidResult(Exception):
    """A child wrote something that is not a result file."""


@dataclass(frozen=True)
class CrunchOutcome:
    """
    The outcome of an image.

    :ivar reason: one word of :data:`fxprofile.model.avatars.REASONS`; None on success.
    :ivar detail: for operators.
    :ivar kind: the type of the image; empty if unknown.
    :ivar sides: of the source, in pixels; 0 if unknown.
    :ivar peak: the peak of the child's address space, in bytes; 0 if unknown.
    :ivar placeholder: a BlurHash of the picture; empty if there is none.
    :ivar pictures: by format, PNG first, then by the names of
        :data:`fxprofile.model.keys.VARIANTS`; empty if there is a reason.
    """

    reason: str | None = None
    detail: str = ""
    kind: str = ""
    sides: tuple[int, int] = (0, 0)
    peak: int = 0
    placeholder: str = ""
    pictures: Mapping[str, Pictures] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """
    The outcome of an image and what it cost.

    :ivar outcome: the pictures, or the reason why there are none.
    :ivar permanent: whether the image is at fault, if there is a reason.
    :ivar cpu: processor time, in seconds.
    :ivar wall: wall clock, in seconds, from the fork to the end of the child.
    :ivar resident: the peak of the memory in use, in bytes.
    """

    outcome: CrunchOutcome
    permanent: bool
    cpu: float = 0.0
    wall: float = 0.0
    resident: int = 0


def judge(end: ChildExit, written: CrunchOutcome | str, limits: Limits) -> Report:
    """
    Combine what a child wrote with how it ended.

    :param end: from the helper, which a child cannot influence.
    :param written: the child's result, or what is wrong with it.
    """
    outcome = _outcome(end, written, limits)
    permanent = outcome.reason in _PERMANENT
    return Report(outcome, permanent, end["cpu"], end["wall"], end["resident"])


def _outcome(end: ChildExit, written: CrunchOutcome | str, limits: Limits) -> CrunchOutcome:
    if end["ended"] == "timeout":
        return CrunchOutcome("timeout", f"not finished after {limits.timeout} seconds")
    if end["ended"]:
        return CrunchOutcome("crashed", end["ended"])
    if end["status"] != 0:
        return _death(end, limits)
    if isinstance(written, str):
        return CrunchOutcome("crashed", f"invalid result: {written}")
    used = max(written.peak - end["base"], end["resident"])
    if written.reason == "corrupt" and used > _NEAR_LIMIT * limits.memory:
        return replace(written, reason="memory")
    return written


def _death(end: ChildExit, limits: Limits) -> CrunchOutcome:
    """Return why a child ended that neither exited with 0 nor was killed by its helper."""
    stderr = ascii(end["stderr"][-200:].decode("utf-8", "replace"))[1:-1]
    if end["status"] > 0:
        return CrunchOutcome("crashed", f"exit status {end['status']} {stderr}".strip())
    number = -end["status"]
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    out_of_time = number == signal.SIGKILL and end["cpu"] >= limits.cpu
    if number in (signal.SIGXCPU, signal.SIGALRM) or out_of_time:
        return CrunchOutcome("timeout", f"{name} after {end['cpu']:.1f} seconds of processor time")
    if number == signal.SIGKILL or end["resident"] > _NEAR_LIMIT * limits.memory:
        # Our processes did not kill it; the kernel does when memory runs out.
        detail = f"{name} with {end['resident'] >> 20} MiB in use {stderr}"
        return CrunchOutcome("memory", detail.strip())
    return CrunchOutcome("crashed", f"{name} {stderr}".strip())


def decode(data: bytes) -> CrunchOutcome:
    """
    Read and check a result file.

    :raises InvalidResult: if anything in it differs from what
        :mod:`fxprofile.crunch.codec.job` writes.
    """
    header, bodies = _split(data)
    kind, sides = header.get("kind"), header.get("sides")
    if not isinstance(sides, list) or len(sides) != 2:
        raise InvalidResult("sides are not two numbers")
    width, height = (_number(side, 0, 1 << 32, "side") for side in sides)
    outcome = CrunchOutcome(
        kind=kind if kind in _KINDS else "",
        sides=(width, height),
        peak=_number(header.get("peak"), 0, 1 << 50, "peak"),
    )
    if "reason" in header:
        reason, detail = header["reason"], header.get("detail", "")
        if reason not in (*_PERMANENT, "memory"):
            raise InvalidResult("unknown reason")
        if not isinstance(detail, str) or bodies:
            raise InvalidResult("more than a reason")
        return replace(outcome, reason=reason, detail=ascii(detail[:MAX_DETAIL])[1:-1])
    placeholder = header.get("placeholder")
    if not isinstance(placeholder, str) or (placeholder and not BLURHASH.fullmatch(placeholder)):
        raise InvalidResult("the placeholder is not a BlurHash")
    pictures = _pictures(header.get("pictures"), bodies)
    return replace(outcome, placeholder=placeholder, pictures=pictures)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header, and the bytes after it."""
    if len(data) < LENGTH.size:
        raise InvalidResult("no header" if data else "empty")
    (length,) = LENGTH.unpack_from(data)
    if not 0 < length <= MAX_HEADER or LENGTH.size + length > len(data):
        raise InvalidResult("impossible length of the header")
    try:
        header = json.loads(data[LENGTH.size : LENGTH.size + length])
    except (ValueError, RecursionError):
        raise InvalidResult("the header is not JSON") from None
    if not isinstance(header, dict) or header.get("v") != 1:
        raise InvalidResult("the header is not an object of version 1")
    return header, data[LENGTH.size + length :]


def _number(value: object, least: int, most: int, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InvalidResult(f"{what} is not a number from {least} to {most}")
    return value


def _pictures(described: object, bodies: bytes) -> dict[str, Pictures]:
    """Return the checked pictures of all formats."""
    if not isinstance(described, dict) or not described.keys() <= FORMATS.keys():
        raise InvalidResult("unknown formats")
    if list(described)[:1] != ["png"]:
        raise InvalidResult("PNG is not the first format")
    pictures: dict[str, Pictures] = {}
    sides: dict[str, tuple[int, int]] = {}
    at = 0
    for form, members in described.items():
        if not isinstance(members, dict) or members.keys() != VARIANTS.keys():
            raise InvalidResult("the pictures are not " + ", ".join(VARIANTS))
        made = {}
        for name in SIZES:
            variant = _variant(name, members[name])
            body = bodies[at : at + variant.bytes]
            at += variant.bytes
            found = CHECKS[form](body)
            if found != (variant.width, variant.height):
                raise InvalidResult(f"the sides of {name} are not those in the header")
            if found != sides.setdefault(name, found):
                raise InvalidResult(f"the sides of {name} in {form} are not those of its PNG")
            made[name] = (variant, body)
        pictures[form] = made
    if at != len(bodies):
        raise InvalidResult("bytes before or after the pictures")
    return pictures


def _variant(name: str, numbers: object) -> Variant:
    if not isinstance(numbers, list) or len(numbers) != 3:
        raise InvalidResult(f"{name} is not three numbers")
    box = VARIANTS[name][1]
    return Variant(
        width=_number(numbers[0], 1, box, f"width of {name}"),
        height=_number(numbers[1], 1, box, f"height of {name}"),
        bytes=_number(numbers[2], 1, MAX_BYTES[name], f"bytes of {name}"),
    )


def check_png(body: bytes) -> tuple[int, int]:
    """
    Check a PNG without decoding it: its chunks, their order and their checksums.

    :returns: its width and height.
    :raises InvalidResult: if :mod:`fxprofile.crunch.codec.png` would not write it.
    """
    if not body.startswith(_PNG_SIGNATURE):
        raise InvalidResult("not a PNG")
    chunks: dict[bytes, bytes] = {}
    at, expected = len(_PNG_SIGNATURE), iter(_PNG_CHUNKS)
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(body):
            raise InvalidResult("a chunk is cut off")
        if zlib.crc32(memoryview(body)[at + 4 : end]) != int.from_bytes(body[end : end + 4], "big"):
            raise InvalidResult("wrong checksum of a chunk")
        name = body[at + 4 : at + 8]
        # This moves on in the expected chunks: each may come once, in their order.
        if name not in expected:
            raise InvalidResult(f"unexpected chunk {name!r}")
        chunks[name] = body[at + 8 : end]
        at = end + 4
    if not chunks.keys() >= {b"IHDR", b"IDAT", b"IEND"} or chunks[b"IEND"]:
        raise InvalidResult("a chunk is missing")
    return _check_png_chunks(chunks)


def _check_png_chunks(chunks: Mapping[bytes, bytes]) -> tuple[int, int]:
    try:
        width, height, bit_depth, colour_type, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    except struct.error:
        raise InvalidResult("wrong length of IHDR") from None
    # The methods of compression, filtering and interlacing.
    if bit_depth not in _BIT_DEPTHS.get(colour_type, ()) or any(methods):
        raise InvalidResult("a kind of PNG that we do not write")
    palette, alpha = chunks.get(b"PLTE"), chunks.get(b"tRNS")
    if (palette is not None) != (colour_type == 3):
        raise InvalidResult("a palette that is missing or not needed")
    if palette is not None:
        colours, rest = divmod(len(palette), 3)
        if rest or not 1 <= colours <= 1 << bit_depth:
            raise InvalidResult("impossible length of PLTE")
        if alpha is not None and not 1 <= len(alpha) <= colours:
            raise InvalidResult("impossible length of tRNS")
    elif alpha is not None:
        raise InvalidResult("tRNS without a palette")
    if chunks.get(b"sRGB", b"\0") != b"\0":
        raise InvalidResult("an sRGB chunk that we do not write")
    return width, height


def check_webp(body: bytes) -> tuple[int, int]:
    """
    Check a WebP without decoding it (RFC 9649, section 2): its chunks and their lengths.

    :returns: its width and height.
    :raises InvalidResult: if our encoder would not write it.
    """
    if body[:4] != b"RIFF" or body[8:12] != b"WEBP":
        raise InvalidResult("not a WebP")
    if int.from_bytes(body[4:8], "little") != len(body) - 8:
        raise InvalidResult("wrong length of the WebP")
    at, chunks = 12, []
    while at < len(body):
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        chunks.append(body[at : at + 4])
        at += 8 + length + length % 2
    if at != len(body) or chunks not in _WEBP_CHUNKS:
        raise InvalidResult("WebP chunks that we do not write")
    # Of the flags before the canvas, only that of alpha; three bytes are reserved.
    if chunks[0] == b"VP8X" and (
        int.from_bytes(body[16:20], "little") != 10 or body[20] & ~0x10 or any(body[21:24])
    ):
        raise InvalidResult("more than a picture in the WebP")
    canvas = webp_sides(chunks[0], body[20:30])
    if canvas is None:
        raise InvalidResult("no sides in the WebP")
    return canvas


def check_avif(body: bytes) -> tuple[int, int]:
    """
    Check an AVIF without decoding it: its boxes, items and properties.

    :returns: its width and height.
    :raises InvalidResult: if our encoder would not write it.
    """
    boxes = list(_boxes(body, 0, len(body)))
    if [name for name, _, _ in boxes] != [b"ftyp", b"meta", b"mdat"]:
        raise InvalidResult("AVIF boxes that we do not write")
    (_, start, end), (_, meta, meta_end), _ = boxes
    if body[start : start + 4] != b"avif" or end - start > _MAX_TEXT_BOX:
        raise InvalidResult("not an AVIF")
    # A full box: four bytes of version and flags come first.
    found = list(_boxes(body, meta + 4, meta_end))
    members = {name: (first, last) for name, first, last in found}
    # Of two boxes with the same name, a decoder might use the one that is not checked here.
    if len(members) != len(found) or not members.keys() <= _META_BOXES:
        raise InvalidResult("meta boxes that we do not write")
    if not {b"hdlr", b"iinf", b"iprp"} <= members.keys():
        raise InvalidResult("a meta box is missing")
    start, end = members[b"hdlr"]
    if body[start + 8 : start + 12] != b"pict" or end - start > _MAX_TEXT_BOX:
        raise InvalidResult("not the handler of a picture")
    _check_items(body, *members[b"iinf"])
    return _check_properties(body, *members[b"iprp"])


def _check_items(body: bytes, start: int, end: int) -> None:
    """Check that every item is a coded picture: no EXIF, no XMP."""
    # A full box of version 0, and the number of its items.
    count = int.from_bytes(body[start + 4 : start + 6], "big")
    items = list(_boxes(body, start + 6, end))
    if body[start : start + 1] != b"\0" or len(items) != count or not 1 <= count <= 2:
        raise InvalidResult("items that we do not write")
    for name, first, last in items:
        # A full box of version 2: number, protection and type of the item.
        version, kind = body[first : first + 1], body[first + 8 : first + 12]
        if (name, version, kind) != (b"infe", b"\x02", b"av01") or last - first > _MAX_TEXT_BOX:
            raise InvalidResult("an item that is not a picture")


def _check_properties(body: bytes, start: int, end: int) -> tuple[int, int]:
    """Return the sides that the properties of all items state."""
    boxes = list(_boxes(body, start, end))
    if [name for name, _, _ in boxes] != [b"ipco", b"ipma"]:
        raise InvalidResult("property boxes that we do not write")
    sides = set()
    for name, first, last in _boxes(body, *boxes[0][1:]):
        if name not in _PROPERTIES or last - first > _MAX_TEXT_BOX:
            raise InvalidResult("a property that we do not write")
        if name == b"colr" and body[first : first + 4] != b"nclx":
            raise InvalidResult("a colour profile")
        if name == b"ispe":
            width, height = (int.from_bytes(body[first + i : first + i + 4], "big") for i in (4, 8))
            sides.add((width, height))
    if len(sides) != 1:
        raise InvalidResult("items of different sides, or of none")
    return sides.pop()


def _boxes(body: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each box, and where its content begins and ends."""
    while start < end:
        length = int.from_bytes(body[start : start + 4], "big")
        if not 8 <= length <= end - start:
            raise InvalidResult("impossible length of a box")
        yield body[start + 4 : start + 8], start + 8, start + length
        start += length


#: The check of each output format.
CHECKS: Final = {"png": check_png, "webp": check_webp, "avif": check_avif}
