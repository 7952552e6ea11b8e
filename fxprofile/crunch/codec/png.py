"""
A PNG encoder that looks at the picture before it chooses how to compress it.

A photo and a drawing want opposite things.  In a photo the matches that deflate
searches for are noise: leaving the search out is five times faster and makes smaller
files.  In a drawing they are everything: leaving it out makes a file up to eighty
times larger.  So of flat art all ways are tried, and of the rest a few rows tell the best.
The filters run in NumPy, one for all rows at a time, which takes a quarter of the time
that the codec needs for them.  Where zlib-ng is installed, it takes half the time for the
ways without a search, with the same bytes, and less for a search that finds more.

Every way is lossless.  The format is that of the W3C recommendation "Portable Network
Graphics", third edition.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fxprofile.crunch.codec.deflate import fast

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: The colour types by the number of channels, and their modes in Pillow.
_COLOUR_TYPES: Final = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}

_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4

#: Greys compress better as filtered bytes than through a palette, unless they are few.
_FEW_GREYS: Final = 16

#: Each way is tried on three bands of rows, each this part of the picture, so that
#: there is something above a row to match it, and of at least so many rows.
_BAND, _LEAST_ROWS = 30, 16

#: Ways to deflate filtered rows without a search: each byte by itself, or runs of bytes.
_BYTES, _RUNS = (1, zlib.Z_HUFFMAN_ONLY), (1, zlib.Z_RLE)
#: A search in full, and two that are quick enough to see whether that is worth a trial.
_SEARCH, _QUICK_SEARCH = (6, zlib.Z_DEFAULT_STRATEGY), (4, zlib.Z_DEFAULT_STRATEGY)
_QUICKEST_SEARCH: Final = (2, zlib.Z_DEFAULT_STRATEGY)
#: One that goes on, which pays in rows that no filter was used on.
_LONG_SEARCH: Final = (9, zlib.Z_DEFAULT_STRATEGY)
#: What it leaves, of most of them, of what the search in full does.
_LONG_GAIN: Final = 0.9
#: Among filtered bytes, which are nearly noise, a search takes long for what it finds.
_WORTH_THE_TIME: Final = 0.95
#: Of two ways that are so near to each other on a few rows, either may be better on all.
_AS_GOOD: Final = 1.15

#: Where fewer bytes than this go on what is before them, it is most likely a photo, which has
#: no use for runs; one of so few rows needs no further proof.
_FEW_RUNS, _FEW_ROWS = 0.03, 200
#: Where more do, it is flat art: each way is then quick, and a few rows tell little of it.
_MANY_RUNS: Final = 0.5
#: Looking for runs takes twice as long as none, so they must save as much as this.
_RUNS_PAY: Final = 0.99
#: Where they save less than this, a look that is even quicker shows most photos.
_RUNS_TELL: Final = 0.98

#: Bytes of rows that are filtered at one time: they stay near the processor.
_STRIP_BYTES: Final = 96 << 10


def encode(image: Image.Image) -> bytes:
    """
    Encode a picture losslessly.

    :param image: of mode L, LA, RGB or RGBA, eight bits a channel.
    :returns: a PNG with the chunks IHDR, sRGB, PLTE and tRNS where it has a palette,
        one IDAT, IEND.
    """
    colours = image.getcolors(_FEW_GREYS if image.mode == "L" else 256)
    if colours is not None:
        return _encode_palette(image, colours)
    body = _compress(np.asarray(image).reshape(image.height, -1), len(image.mode))
    return _file(image.width, image.height, 8, _COLOUR_TYPES[image.mode], body)


def _file(
    width: int, height: int, depth: int, colour: int, body: bytes, extra: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            # Without it some browsers leave the colours to the screen.
            _chunk(b"sRGB", b"\0"),
            extra,
            _chunk(b"IDAT", body),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    return b"".join(
        (
            struct.pack(">I", len(body)),
            name,
            body,
            struct.pack(">I", fast.crc32(body, fast.crc32(name))),
        )
    )


def _deflate(rows: Pixels, way: tuple[int, int], library: Any = zlib) -> bytes:
    """
    Deflate rows.

    :param way: the level and the strategy.
    """
    level, strategy = way
    packer = library.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
    packed: bytes = packer.compress(rows.data) + packer.flush()
    return packed


def _compress(rows: Pixels, channels: int) -> bytes:
    """Filter and deflate the rows of a picture without a palette."""
    filtered = _filtered(rows, channels)
    some = _bands(filtered)
    runs = _share_of_runs(some)
    if runs >= _MANY_RUNS:
        return min(
            _deflate(filtered, _RUNS, fast),
            _deflate(filtered, _SEARCH, fast),
            _deflate(_unfiltered(rows), _thorough(), fast),
            key=len,
        )
    if runs < _FEW_RUNS and len(rows) <= _FEW_ROWS:
        return _deflate(filtered, _BYTES, fast)
    sizes = {
        _BYTES: len(_deflate(some, _BYTES, fast)),
        _RUNS: len(_deflate(some, _RUNS, fast)) if runs >= _FEW_RUNS else math.inf,
    }
    best = _RUNS if sizes[_RUNS] < _RUNS_PAY * sizes[_BYTES] else _BYTES
    if _may_search(some, sizes):
        found = _searched(rows, filtered, some, sizes[best])
        if found:
            return min(found, key=len)
    return _deflate(filtered, best, fast)


def _thorough() -> tuple[int, int]:
    """The longest search that there is time for; zlib takes many times as long as zlib-ng."""
    return _SEARCH if fast is zlib else _LONG_SEARCH


def _searched(rows: Pixels, filtered: Pixels, some: Pixels, least: float) -> list[bytes]:
    """
    What searches make of the rows, if they promise anything.

    :param some: bands of the filtered rows.
    :param least: what the best way without a search makes of the bands, in bytes.
    """
    # More is often found in rows that no filter has made different from others.
    plain = float(len(_deflate(_unfiltered(_bands(rows)), _SEARCH, fast)))
    if _thorough() == _LONG_SEARCH:
        plain *= _LONG_GAIN
    searched = len(_deflate(some, _SEARCH, fast))
    good = _AS_GOOD * min(plain, searched)
    found = []
    if plain < min(least, good):
        found.append(_deflate(_unfiltered(rows), _thorough(), fast))
    if searched < min(_WORTH_THE_TIME * least, good):
        found.append(_deflate(filtered, _SEARCH, fast))
    return found


def _share_of_runs(rows: Pixels) -> float:
    """The share of bytes that are the same as the three before them."""
    line = rows.reshape(-1)
    same = line[1:] == line[:-1]
    return float(np.count_nonzero(same[2:] & same[1:-1] & same[:-2]) / line.size)


def _may_search(some: Pixels, sizes: Mapping[tuple[int, int], float]) -> bool:
    """
    Whether a search may find enough.

    :param some: bands of the filtered rows.
    :param sizes: what the ways without a search make of the bands, in bytes.
    """
    least = min(sizes.values())
    told = sizes[_RUNS] < _RUNS_TELL * sizes[_BYTES]
    if not told and len(_deflate(some, _QUICKEST_SEARCH, fast)) >= least:
        return False
    return len(_deflate(some, _QUICK_SEARCH, fast)) < least


def _bands(rows: Pixels) -> Pixels:
    """Three bands of rows; all of them if there are few."""
    height = len(rows)
    band = max(_LEAST_ROWS, height // _BAND)
    if height <= 3 * band:
        return rows
    starts = (height // 6, height // 2, height * 5 // 6)
    return np.concatenate([rows[start : start + band] for start in starts])


def _unfiltered(rows: Pixels) -> Pixels:
    """The rows, each behind a byte that says that it is not filtered."""
    plain = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)
    plain[:, 1:] = rows
    return plain


def _filtered(rows: Pixels, channels: int) -> Pixels:
    """
    Filter each row by whichever filter leaves the least (section 12.7 of the standard).

    :returns: the filtered rows, each behind the byte that names its filter.
    """
    height, length = rows.shape
    # With nothing around them, so that neighbours are the same rows a bit off.
    framed = np.zeros((height + 1, length + channels), np.uint8)
    framed[1:, channels:] = rows
    filtered = np.empty((height, length + 1), np.uint8)
    strip = max(1, _STRIP_BYTES // length)
    # A fresh process pays for each page that it touches first, so few are touched.
    scratch = np.empty((5, strip, length), np.uint8)
    for top in range(0, height, strip):
        part = framed[top : top + strip + 1]
        _filter_strip(part, channels, scratch[:, : len(part) - 1], filtered[top : top + strip])
    return filtered


def _filter_strip(framed: Pixels, channels: int, scratch: Pixels, filtered: Pixels) -> None:
    """Filter some rows, given with the row above them and the pixels to their left."""
    current, left = framed[1:, channels:], framed[1:, :-channels]
    above, diagonal = framed[:-1, channels:], framed[:-1, :-channels]
    best = np.full(len(current), np.iinfo(np.uint32).max, np.uint32)
    found, spare = scratch[:2]
    for number in (_SUB, _UP, _AVERAGE, _PAETH):
        if number == _SUB:
            np.subtract(current, left, out=found)
        elif number == _UP:
            np.subtract(current, above, out=found)
        elif number == _AVERAGE:
            # The mean without a carry into a ninth bit.
            np.bitwise_xor(left, above, out=found)
            np.right_shift(found, 1, out=found)
            found += np.bitwise_and(left, above, out=spare)
            np.subtract(current, found, out=found)
        else:
            np.subtract(current, _paeth(left, above, diagonal, scratch[1:]), out=found)
        # Of -128 it is 128, which is a byte again.
        np.absolute(found.view(np.int8), out=spare.view(np.int8))
        score = np.add.reduce(spare, axis=1, dtype=np.uint32)
        better = score < best
        best[better] = score[better]
        filtered[better, 0] = number
        filtered[better, 1:] = found[better]


def _paeth(left: Pixels, above: Pixels, diagonal: Pixels, scratch: Pixels) -> Pixels:
    """
    The Paeth predictor in eight bits.

    It is whichever of the three is nearest to p = left + above - diagonal, which needs
    nine.  But the lower of left and above is as far from p as the higher is from the
    diagonal, and the other way round; where the diagonal is not between the two, one
    of these is nothing, and the one farther from the diagonal is the nearest.

    :param scratch: four arrays of the same shape; the result is one of them.
    """
    low, high, to_low, to_high = scratch
    np.minimum(left, above, out=low)
    np.maximum(left, above, out=high)
    np.subtract(high, np.minimum(diagonal, high, out=to_low), out=to_low)
    np.subtract(np.maximum(diagonal, low, out=to_high), low, out=to_high)
    nearer = _select(to_low < to_high, low, high)
    least = np.minimum(to_low, to_high, out=high)
    most = np.maximum(to_low, to_high, out=to_low)
    return _select(least <= np.subtract(most, least, out=most), nearer, diagonal)


def _select(where: NDArray[np.bool_], yes: Pixels, no: Pixels) -> Pixels:
    """``np.where`` for bytes, several times as fast; the result is in ``yes``."""
    mask = where.view(np.uint8)
    np.negative(mask, out=mask)
    np.bitwise_xor(yes, no, out=yes)
    np.bitwise_and(yes, mask, out=yes)
    return np.bitwise_xor(yes, no, out=yes)


def _encode_palette(image: Image.Image, counted: Sequence[tuple[int, object]]) -> bytes:
    """Encode a picture of at most 256 colours by number."""
    width, height, channels = image.width, image.height, len(image.mode)
    colours = np.array([colour for _, colour in counted], np.uint8).reshape(-1, channels)
    if channels in (2, 4):
        # The transparent ones first: tRNS may then be short.
        colours = colours[np.argsort(colours[:, -1], kind="stable")]
    numbers = _numbers(_packed(image), colours @ (1 << 8 * np.arange(channels, dtype="<u4")))
    depth = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    rows = np.zeros((height, 1 + -(-width * depth // 8)), np.uint8)
    rows[:, 1:] = _bits(numbers.reshape(height, width), depth)
    red_green_blue = colours[:, :3] if channels >= 3 else colours[:, [0, 0, 0]]
    extra = _chunk(b"PLTE", red_green_blue.tobytes())
    if channels in (2, 4):
        alpha = colours[:, -1]
        seen_through = alpha[: np.count_nonzero(alpha < 255)]
        if len(seen_through):
            extra += _chunk(b"tRNS", seen_through.tobytes())
    return _file(width, height, depth, 3, _deflate(rows, _LONG_SEARCH, fast), extra)


def _packed(image: Image.Image) -> NDArray[np.uint32]:
    """One number a pixel, the first channel in its lowest bits."""
    if image.mode == "RGB":
        # The byte behind the colours may be anything.
        return np.frombuffer(image.tobytes("raw", "RGBX"), "<u4") & np.uint32(0xFFFFFF)
    line = np.asarray(image).reshape(-1)
    return line.view(f"<u{len(image.mode)}").astype("<u4", copy=False)


def _numbers(pixels: NDArray[np.uint32], colours: NDArray[np.uint32]) -> Pixels:
    """
    The number of each pixel's colour, through a table of 65,536 hashes in which no two
    colours of the picture meet.
    """
    random = np.random.default_rng(1)
    while True:
        factor = random.integers(1, 1 << 32, dtype=np.uint32) | np.uint32(1)
        hashes = (colours * factor) >> np.uint32(16)
        if len(np.unique(hashes)) == len(colours):
            break
    table = np.zeros(1 << 16, np.uint8)
    table[hashes] = np.arange(len(colours))
    # Faster than an index, which would look whether each is in the table.
    return np.take(table, (pixels * factor) >> np.uint32(16), mode="wrap")


def _bits(numbers: Pixels, depth: int) -> Pixels:
    """Pack numbers of so many bits into bytes, the first in the highest bits."""
    if depth == 8:
        return numbers
    height, width = numbers.shape
    each = 8 // depth
    padded = np.zeros((height, -(-width // each) * each), np.uint8)
    padded[:, :width] = numbers
    packed = np.zeros((height, padded.shape[1] // each), np.uint8)
    for place in range(each):
        packed |= padded[:, place::each] << np.uint8(8 - depth * (place + 1))
    return packed
