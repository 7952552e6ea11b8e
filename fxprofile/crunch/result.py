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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fxprofile.crunch.limits import MAX_BYTES, MAX_HEADER, SIZES, Fit, Limits
from fxprofile.crunch.protocol import ChildExit
from fxprofile.crunch.signature import MEDIA_TYPES, webp_sides
from fxprofile.model.avatars import BLURHASH, DIGEST, Pictures, Variant
from fxprofile.model.keys import FORMATS, VARIANTS

#: The length of the header, at the beginning of a result file.
LENGTH: Final = struct.Struct(">I")
#: How many characters of a detail are kept.
MAX_DETAIL: Final = 200

#: The types of image that a child may name.
_KINDS: Final = (*MEDIA_TYPES, "heic")
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
    :ivar pixels: the digest of the largest picture's pixels, as the child reports it; empty if
        there is a reason.
    :ivar pictures: by format, PNG first, then by the names of
        :data:`fxprofile.model.keys.VARIANTS`; empty if there is a reason.
    """

    reason: str | None = None
    detail: str = ""
    kind: str = ""
    sides: tuple[int, int] = (0, 0)
    peak: int = 0
    placeholder: str = ""
    pixels: str = ""
    pictures: Mapping[str, Pictures] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """
    The outcome of an image and what it cost.

    :ivar outcome: the pictures, or the reason why there are none.
    :ivar cpu: processor time, in seconds.
    :ivar wall: wall clock, in seconds, from the fork to the end of the child.
    :ivar resident: the peak of the memory in use, in bytes.
    :ivar permanent: whether there is a reason for which the image is at fault.
    :ivar starved: whether the child timed out because other processes had the processor.
    """

    outcome: CrunchOutcome
    cpu: float = 0.0
    wall: float = 0.0
    resident: int = 0
    permanent: bool = False
    starved: bool = False


def judge(end: ChildExit, written: CrunchOutcome | str, limits: Limits) -> Report:
    """
    Combine what a child wrote with how it ended.

    :param end: from the helper, which a child cannot influence.
    :param written: the child's result, or what is wrong with it.
    """
    outcome = _outcome(end, written, limits)
    return Report(
        outcome,
        end["cpu"],
        end["wall"],
        end["resident"],
        permanent=outcome.reason in _PERMANENT,
        starved=end["ended"] == "starved",
    )


def _outcome(end: ChildExit, written: CrunchOutcome | str, limits: Limits) -> CrunchOutcome:
    if end["ended"] in ("timeout", "starved"):
        took = f"{limits.timeout} seconds, {end['cpu']:.1f} of them on a processor"
        return CrunchOutcome("timeout", f"not finished after {took}")
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


def decode(data: bytes, fit: Fit = "inside") -> CrunchOutcome:
    """
    Read and check a result file.

    :param fit: with ``cover``, every picture must be square.
    :raises InvalidResult: if anything in it differs from what
        :mod:`fxprofile.crunch.codec.job` writes.
    """
    header, bodies = _split(data)
    kind, placeholder = header.get("kind"), header.get("placeholder")
    width, height = _numbers(header.get("sides"), 0, (1 << 32, 1 << 32), "sides")
    (peak,) = _numbers([header.get("peak")], 0, (1 << 50,), "peak")
    outcome = CrunchOutcome(kind=kind if kind in _KINDS else "", sides=(width, height), peak=peak)
    if "reason" in header:
        reason, detail = header["reason"], header.get("detail", "")
        _require(reason in (*_PERMANENT, "memory"), "unknown reason")
        _require(isinstance(detail, str) and not bodies, "more than a reason")
        return replace(outcome, reason=reason, detail=ascii(detail[:MAX_DETAIL])[1:-1])
    if not isinstance(placeholder, str) or (placeholder and not BLURHASH.fullmatch(placeholder)):
        raise InvalidResult("the placeholder is not a BlurHash")
    pixels = header.get("pixels")
    if not isinstance(pixels, str) or not DIGEST.fullmatch(pixels):
        raise InvalidResult("the digest of the pixels is not a SHA-256 in hex")
    pictures = _pictures(header.get("pictures"), bodies)
    if fit == "cover":
        sides = ((v.width, v.height) for made in pictures.values() for v, _ in made.values())
        _require(all(width == height for width, height in sides), "a picture is not square")
    return replace(outcome, placeholder=placeholder, pixels=pixels, pictures=pictures)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise InvalidResult(problem)


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header, and the bytes after it."""
    _require(len(data) >= LENGTH.size, "no header" if data else "empty")
    end = LENGTH.size + LENGTH.unpack_from(data)[0]
    most = min(len(data), LENGTH.size + MAX_HEADER)
    _require(LENGTH.size < end <= most, "impossible length of the header")
    try:
        header = json.loads(data[LENGTH.size : end])
    except (ValueError, RecursionError):
        raise InvalidResult("the header is not JSON") from None
    if not isinstance(header, dict) or header.get("v") != 1:
        raise InvalidResult("the header is not an object of version 1")
    return header, data[end:]


def _numbers(values: object, least: int, most: Sequence[int], what: str) -> list[int]:
    """Return a list of integers, if each is from the least to its own most."""
    if not isinstance(values, list) or len(values) != len(most):
        raise InvalidResult(f"{what}: not {len(most)} numbers")
    for value, limit in zip(values, most, strict=True):
        if type(value) is not int or not least <= value <= limit:
            raise InvalidResult(f"{what}: not a number from {least} to {limit}")
    return values


def _pictures(described: object, bodies: bytes) -> dict[str, Pictures]:
    """Return the checked pictures of all formats."""
    if not isinstance(described, dict) or not described.keys() <= FORMATS.keys():
        raise InvalidResult("unknown formats")
    _require(list(described)[:1] == ["png"], "PNG is not the first format")
    pictures: dict[str, Pictures] = {}
    at = 0
    for form, members in described.items():
        if not isinstance(members, dict) or members.keys() != VARIANTS.keys():
            raise InvalidResult("the pictures are not " + ", ".join(VARIANTS))
        made = {}
        for name in SIZES:
            box = VARIANTS[name][1]
            variant = Variant(*_numbers(members[name], 1, (box, box, MAX_BYTES[name]), name))
            body = bodies[at : at + variant.bytes]
            at += variant.bytes
            sides = CHECKS[form](body)
            _require(
                sides == (variant.width, variant.height),
                f"the sides of {name} are not those in the header",
            )
            made[name] = (variant, body)
        pictures[form] = made
        for name, (variant, _) in pictures["png"].items():
            other = made[name][0]
            _require(
                (other.width, other.height) == (variant.width, variant.height),
                f"the sides of {name} in {form} are not those of its PNG",
            )
    _require(at == len(bodies), "bytes before or after the pictures")
    return pictures


def check_png(body: bytes) -> tuple[int, int]:
    """
    Check a PNG without decoding it: its chunks, their order and their checksums.

    :returns: its width and height.
    :raises InvalidResult: if :mod:`fxprofile.crunch.codec.png` would not write it.
    """
    _require(body.startswith(_PNG_SIGNATURE), "not a PNG")
    chunks: dict[bytes, bytes] = {}
    at, expected = len(_PNG_SIGNATURE), iter(_PNG_CHUNKS)
    while at < len(body):
        name, end = body[at + 4 : at + 8], at + 8 + int.from_bytes(body[at : at + 4], "big")
        _require(end + 4 <= len(body), "a chunk is cut off")
        checksum = int.from_bytes(body[end : end + 4], "big")
        _require(zlib.crc32(memoryview(body)[at + 4 : end]) == checksum, "wrong checksum")
        # This moves on in the expected chunks: each may come once, in their order.
        _require(name in expected, f"unexpected chunk {name!r}")
        chunks[name] = body[at + 8 : end]
        at = end + 4
    _require(chunks.keys() >= {b"IHDR", b"IDAT", b"IEND"}, "a chunk is missing")
    _require(not chunks[b"IEND"], "content in IEND")
    _require(chunks.get(b"sRGB", b"\0") == b"\0", "an sRGB chunk that we do not write")
    _require(len(chunks[b"IHDR"]) == 13, "wrong length of IHDR")
    width, height, bit_depth, colour_type, *methods = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    # The methods of compression, filtering and interlacing.
    known = bit_depth in _BIT_DEPTHS.get(colour_type, ()) and not any(methods)
    _require(known, "a kind of PNG that we do not write")
    _require((b"PLTE" in chunks) == (colour_type == 3), "a palette that is missing or not needed")
    colours, rest = divmod(len(chunks.get(b"PLTE", b"")), 3)
    if colour_type == 3:
        _require(not rest and 1 <= colours <= 1 << bit_depth, "impossible length of PLTE")
    # Without a palette there are no colours, and any length is refused.
    if b"tRNS" in chunks:
        _require(1 <= len(chunks[b"tRNS"]) <= colours, "impossible length of tRNS")
    return width, height


def check_webp(body: bytes) -> tuple[int, int]:
    """
    Check a WebP without decoding it (RFC 9649, section 2): its chunks and their lengths.

    :returns: its width and height.
    :raises InvalidResult: if our encoder would not write it.
    """
    _require(body[:4] == b"RIFF" and body[8:12] == b"WEBP", "not a WebP")
    _require(int.from_bytes(body[4:8], "little") == len(body) - 8, "wrong length of the WebP")
    at, chunks = 12, []
    while at < len(body):
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        chunks.append(body[at : at + 4])
        at += 8 + length + length % 2
    _require(at == len(body) and chunks in _WEBP_CHUNKS, "WebP chunks that we do not write")
    if chunks[0] == b"VP8X":
        # Of the flags before the canvas, only that of alpha; three bytes are reserved.
        plain = body[16:20] == b"\x0a\0\0\0" and not body[20] & ~0x10 and not any(body[21:24])
        _require(plain, "more than a picture in the WebP")
    sides = webp_sides(chunks[0], body[20:30])
    if sides is None:
        raise InvalidResult("no sides in the WebP")
    return sides


def check_avif(body: bytes) -> tuple[int, int]:
    """
    Check an AVIF without decoding it: its boxes, items and properties.

    :returns: its width and height.
    :raises InvalidResult: if our encoder would not write it.
    """
    boxes = list(_boxes(body))
    names = [name for name, _ in boxes]
    _require(names == [b"ftyp", b"meta", b"mdat"], "AVIF boxes that we do not write")
    (_, brands), (_, meta), _ = boxes
    _require(brands[:4] == b"avif" and len(brands) <= _MAX_TEXT_BOX, "not an AVIF")
    # A full box: four bytes of version and flags come first.
    found = list(_boxes(meta[4:]))
    members = dict(found)
    # Of two boxes with the same name, a decoder might use the one that is not checked here.
    known = len(members) == len(found) and members.keys() <= _META_BOXES
    _require(known, "meta boxes that we do not write")
    _require(members.keys() >= {b"hdlr", b"iinf", b"iprp"}, "a meta box is missing")
    handler = members[b"hdlr"]
    is_picture = handler[8:12] == b"pict" and len(handler) <= _MAX_TEXT_BOX
    _require(is_picture, "not the handler of a picture")
    _check_items(members[b"iinf"])
    return _check_properties(members[b"iprp"])


def _check_items(body: bytes) -> None:
    """Check that every item is a coded picture: no EXIF, no XMP."""
    # A full box of version 0, and the number of its items.
    count = int.from_bytes(body[4:6], "big")
    items = list(_boxes(body[6:]))
    known = body[:1] == b"\0" and len(items) == count and 1 <= count <= 2
    _require(known, "items that we do not write")
    for name, item in items:
        # A full box of version 2: number, protection and type of the item.
        kind = name, item[:1], item[8:12]
        is_picture = kind == (b"infe", b"\x02", b"av01") and len(item) <= _MAX_TEXT_BOX
        _require(is_picture, "an item that is not a picture")


def _check_properties(body: bytes) -> tuple[int, int]:
    """Return the sides that the properties of all items state."""
    boxes = list(_boxes(body))
    names = [name for name, _ in boxes]
    _require(names == [b"ipco", b"ipma"], "property boxes that we do not write")
    sides = set()
    for name, value in _boxes(boxes[0][1]):
        known = name in _PROPERTIES and len(value) <= _MAX_TEXT_BOX
        _require(known, "a property that we do not write")
        _require(name != b"colr" or value[:4] == b"nclx", "a colour profile")
        if name == b"ispe":
            width, height = (int.from_bytes(value[i : i + 4], "big") for i in (4, 8))
            sides.add((width, height))
    _require(len(sides) == 1, "items of different sides, or of none")
    return sides.pop()


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each box."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        _require(8 <= length <= len(data) - at, "impossible length of a box")
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


#: The check of each output format.
CHECKS: Final = {"png": check_png, "webp": check_webp, "avif": check_avif}
