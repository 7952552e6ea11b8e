"""
The targets of the fuzzer: assertions about our own parsers for arbitrary bytes.

Each target fails if a parser raises another error than its own, or returns something else
than a slower implementation, or Pillow.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress

from PIL import Image

from fxprofile.crunch import result, signature
from fxprofile.crunch.codec import deflate, job
from fxprofile.crunch.codec.containers import READERS
from fxprofile.crunch.codec.containers.contents import MAX_SEGMENTS
from fxprofile.crunch.limits import MAX_BYTES, Limits, Refused
from fxprofile.model.keys import FORMATS, VARIANTS
from tests.corpus import seeds
from tests.corpus.drawing import photo
from tests.corpus.jpeg import many_scans
from tests.corpus.webp import extended, lossless_header

#: Low, so that a small file can exceed it.
MAX_SCANS = 2
#: The most pixels of files that Pillow opens here; it allocates what a file claims.
MOST_PIXELS = 1 << 20


def sniff(data: bytes) -> None:
    """Only the first bytes count, and only known types are returned."""
    for heic in (False, True):
        kind = signature.sniff(data, heic=heic)
        assert kind is None or kind in signature.MEDIA_TYPES or (heic and kind == "heic")
        assert len(data) < signature.SIGNATURE_BYTES or kind == signature.sniff(
            data[: signature.SIGNATURE_BYTES], heic=heic
        )
    if kind == "webp":
        signature.webp_sides(data[12:16], data[20:30])


def jpeg(data: bytes) -> None:
    """Scans are counted as a reader that goes byte by byte counts them."""
    data = b"\xff\xd8\xff" + data
    scans = _scans(data)
    try:
        READERS["jpeg"](data, Limits(max_scans=MAX_SCANS))
    except Refused as refused:
        # The other limits take more than this to reach.
        if len(data) < MAX_SEGMENTS and refused.reason == "too_large":
            assert scans > MAX_SCANS
    else:
        assert scans <= MAX_SCANS


def container(data: bytes) -> None:
    """Each reader reads or refuses any bytes, and what it leaves is clean."""
    kind = signature.sniff(data[: signature.SIGNATURE_BYTES], heic=True)
    if kind is None:
        return
    try:
        contents = READERS[kind](data, Limits(heic=True))
    except Refused:
        return
    clean = contents.stream.read()
    assert len(clean) <= len(data) + 200
    assert contents.orientation in range(1, 9)
    if kind in ("png", "webp"):
        assert contents.frame or READERS[kind](clean, Limits()).canvas == contents.canvas


def _scans(data: bytes) -> int:
    """Count scans in the simplest way (ITU-T T.81, B.1.1 and B.2)."""
    at, scans = 2, 0
    while at + 1 < len(data):
        code = data[at + 1]
        if data[at] != 0xFF or code in (0x00, 0xFF):
            at += 1
            continue
        at += 2
        if code == 0xD9:
            return scans
        scans += code == 0xDA
        if code != 0x01 and code not in range(0xD0, 0xD9):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return scans


def webp(data: bytes) -> None:
    """What the codec makes of a clean stream has the sides that the reader found."""
    try:
        contents = READERS["webp"](data, Limits())
    except Refused:
        return
    if contents.frame is None and contents.canvas[0] * contents.canvas[1] <= MOST_PIXELS:
        assert _opened(contents.stream.read(), "WEBP") in (None, contents.canvas)


def _opened(data: bytes, form: str) -> tuple[int, int] | None:
    """Return the sides of a picture according to Pillow, if it opens it."""
    try:
        with Image.open(io.BytesIO(data), formats=(form,)) as image:
            return image.size
    except Exception:
        return None


def decode(data: bytes) -> None:
    """An accepted result file is valid to the last byte."""
    try:
        outcome = result.decode(data)
    except result.InvalidResult:
        return
    if outcome.reason is None:
        assert set(outcome.pictures["png"]) == set(VARIANTS)
    for form, pictures in outcome.pictures.items():
        for name, (variant, body) in pictures.items():
            assert 0 < max(variant.width, variant.height) <= VARIANTS[name][1], form
            assert variant.bytes == len(body) <= MAX_BYTES[name]
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()


def png(data: bytes) -> None:
    """An accepted PNG has the same sides in Pillow, if Pillow opens it."""
    # Wrong checksums are found at once, so that nothing after them would be tested.
    data = _with_checksums(data)
    try:
        sides = result.check_png(data)
    except result.InvalidResult:
        return
    if 0 < sides[0] * sides[1] <= MOST_PIXELS:
        assert _opened(data, "PNG") in (None, sides)


def stored(data: bytes) -> None:
    """Data inflated in pieces equals what zlib inflates at once."""
    header = int.from_bytes(data[:2], "big")
    wanted: bytes | None = b""
    if len(data) >= 2:
        try:
            # A header without a dictionary, and a stream without its checksum.
            wanted = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[2:])
        except zlib.error:
            wanted = None
        if header & 0x8F20 != zlib.DEFLATED << 8 or header % 31:
            wanted = None
    found: bytes | None = None
    with suppress(ValueError, deflate.library.error):
        pieces = deflate.StoredStream(io.BytesIO(data).read)
        found = zlib.decompressobj().decompress(b"".join(iter(pieces.read, b"")))
    assert found == wanted


def _with_checksums(data: bytes) -> bytes:
    """Return the data with the right checksum in each chunk."""
    whole, at = bytearray(data), 8
    while at + 12 <= len(whole):
        end = at + 8 + int.from_bytes(whole[at : at + 4], "big")
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = zlib.crc32(whole[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(whole)


def other_formats(data: bytes) -> None:
    """An accepted WebP or AVIF has the same sides in Pillow."""
    for form in FORMATS.keys() - {"png"}:
        try:
            sides = result.CHECKS[form](data)
        except result.InvalidResult:
            continue
        if 0 < sides[0] * sides[1] <= MOST_PIXELS:
            assert _opened(data, form.upper()) in (None, sides)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sniff": sniff,
    "jpeg": jpeg,
    "container": container,
    "webp": webp,
    "stored": stored,
    "result": decode,
    "png": png,
    "other_formats": other_formats,
}


def beginnings(name: str) -> Iterator[bytes]:
    """Yield honest inputs of a target."""
    honest = seeds()
    images = {size: photo(40, 30) for size in VARIANTS}
    made = {form: job.encode_sizes(images, form) for form in FORMATS}
    if name == "sniff":
        yield from (data[: signature.SIGNATURE_BYTES] for data in honest.values())
    elif name == "container":
        yield from honest.values()
    elif name == "jpeg":
        yield from (data[3:] for kind, data in honest.items() if kind.startswith("jpeg"))
        yield many_scans(5, side=16)[3:]
    elif name == "webp":
        yield from (data for kind, data in honest.items() if kind.startswith("webp"))
        yield from (extended(9, 9), lossless_header(9, 9))
    elif name == "result":
        yield job.encode_result(result.CrunchOutcome(reason="corrupt", detail="cut"))
        for forms in (["png"], list(FORMATS)):
            pictures = {form: made[form] for form in forms}
            outcome = result.CrunchOutcome(kind="png", sides=(40, 30), pictures=pictures)
            yield job.encode_result(outcome)
    elif name == "stored":
        yield from (zlib.compress(images["small"].tobytes(), level) for level in (0, 1, 9))
    elif name == "png":
        for image in (photo(40, 30), photo(8, 6).quantize(4).convert("RGBA")):
            yield job.encode(image, "png")
    else:
        for mode in ("RGB", "RGBA"):
            for form in FORMATS.keys() - {"png"}:
                yield job.encode(photo(40, 30).convert(mode), form)
