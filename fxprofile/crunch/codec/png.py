"""
A PNG encoder that looks at a picture before it chooses how to compress it.

Photos and drawings need opposite settings of deflate.  In a photo the matches that deflate
searches for are noise: without the search, encoding is five times faster and makes smaller
files.  In a drawing they are everything: without the search, a file is up to eighty times
larger.  So flat art is deflated with all settings, and for the rest a few rows show which is
best.  Pillow's encoder uses one setting for all; that is why this one exists.

The filters run in NumPy, one for all rows at a time, which takes a quarter of the time of
Pillow's.  If zlib-ng is installed, it takes half the time without a search, for the same
bytes, and less for a search that finds more.

Every choice is lossless.  The format is that of the W3C recommendation "Portable Network
Graphics", third edition.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fxprofile.crunch.codec import deflate

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

#: The colour type of each mode of Pillow.
_COLOUR_TYPES: Final = {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}

#: Filter types (section 9.2); 0 is no filter.
_FILTERS = _SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4

#: Greys compress better as filtered bytes than through a palette, unless they are few.
_FEW_GREYS: Final = 16

#: Settings are tried on three bands of rows, each this part of the picture and of at least
#: so many rows, so that a row has rows above it to match.
_BAND, _LEAST_ROWS = 30, 16

#: Settings of deflate, a level and a strategy.  Without a search: single bytes, or runs.
_HUFFMAN, _RLE = (1, zlib.Z_HUFFMAN_ONLY), (1, zlib.Z_RLE)
#: With a search: a full one, and two that are quick enough to see whether it is worth trying.
_SEARCH, _QUICK_SEARCH = (6, zlib.Z_DEFAULT_STRATEGY), (4, zlib.Z_DEFAULT_STRATEGY)
_QUICKEST_SEARCH: Final = (2, zlib.Z_DEFAULT_STRATEGY)
#: A longer search, which pays in rows without a filter.
_LONG_SEARCH: Final = (9, zlib.Z_DEFAULT_STRATEGY)
#: The size after a long search, by the size after a full one, of most such rows.
_LONG_GAIN: Final = 0.9
#: Among filtered bytes, which are nearly noise, a search takes long for what it finds, so it
#: must save as much as this.
_WORTH_THE_TIME: Final = 0.95
#: Of two settings that differ by less on a few rows, either may be better on all.
_AS_GOOD: Final = 1.15

#: With a smaller share of runs than this, a picture is most likely a photo; one of so few
#: rows is deflated as such without a trial.
_FEW_RUNS, _FEW_ROWS = 0.03, 200
#: With a larger share of runs, it is flat art: each setting is then quick, and a few rows
#: show little of it.
_MANY_RUNS: Final = 0.5
#: In flat art of more than :data:`_FEW_ROWS`, rows whose deflated size was below this times
#: that of the others, filtered or not, in a smaller size of the picture are the only ones tried.
_CLEARLY_SMALLER: Final = 0.85
#: Looking for runs doubles the time, so they must save as much as this.
_RUNS_PAY: Final = 0.99
#: If they save less than this, a quicker trial is enough to tell most photos.
_RUNS_TELL: Final = 0.98

#: The number of rows in a sample from the whole picture, at least.
_SAMPLED: Final = 32
#: Bytes of rows that are filtered at a time: few enough for the processor's cache.
_STRIP_BYTES: Final = 96 << 10


@dataclass
class Trials:
    """
    What the smaller sizes of a picture have shown about its larger ones.

    :ivar unfiltered: the size of deflated rows without a filter, by that of filtered ones.
    """

    unfiltered: float = 1.0


def encode(image: Image.Image, trials: Trials | None = None) -> bytes:
    """
    Encode a picture losslessly.

    :param image: of mode L, LA, RGB or RGBA, eight bits a channel.
    :param trials: is used and updated.
    :returns: a PNG with the chunks IHDR, sRGB, PLTE and tRNS where it has a palette,
        one IDAT, IEND.
    """
    colours = image.getcolors(_FEW_GREYS if image.mode == "L" else 256)
    if colours is not None:
        return _encode_palette(image, colours)
    rows = np.asarray(image).reshape(image.height, -1)
    body = _compress(rows, len(image.mode), trials or Trials())
    return _file(image.width, image.height, 8, _COLOUR_TYPES[image.mode], body)


def _file(
    width: int, height: int, bit_depth: int, colour_type: int, data: bytes, extra: bytes = b""
) -> bytes:
    """
    Return a PNG.

    :param data: of IDAT: the deflated rows.
    :param extra: chunks to put before it.
    """
    # The methods of compression, filtering and interlacing are 0.
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            chunk(b"IHDR", header),
            # Without it some browsers leave the colours to the screen.
            chunk(b"sRGB", b"\0"),
            extra,
            chunk(b"IDAT", data),
            chunk(b"IEND", b""),
        )
    )


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and its checksum."""
    checksum = deflate.library.crc32(data, deflate.library.crc32(name))
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def _deflate(rows: Pixels, setting: tuple[int, int]) -> bytes:
    """Deflate rows at this level and with this strategy."""
    level, strategy = setting
    deflater = deflate.library.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
    deflated: bytes = deflater.compress(rows.data) + deflater.flush()
    return deflated


def _compress(rows: Pixels, channels: int, trials: Trials) -> bytes:
    """Filter and deflate the rows of a picture without a palette."""
    framed = _framed(rows, channels)
    sample = _filtered_sample(framed, channels)
    runs = _share_of_runs(sample)
    if runs >= _MANY_RUNS:
        return _compress_flat(rows, framed, sample, trials)
    filtered = _filtered(framed, channels, sample)
    if runs < _FEW_RUNS and len(rows) <= _FEW_ROWS:
        return _deflate(filtered, _HUFFMAN)
    some = _bands(filtered)
    sizes = {
        _HUFFMAN: len(_deflate(some, _HUFFMAN)),
        _RLE: len(_deflate(some, _RLE)) if runs >= _FEW_RUNS else math.inf,
    }
    best = _RLE if sizes[_RLE] < _RUNS_PAY * sizes[_HUFFMAN] else _HUFFMAN
    if _may_search(some, sizes):
        found = _searched(rows, filtered, some, sizes[best])
        if found:
            return min(found, key=len)
    return _deflate(filtered, best)


def _compress_flat(rows: Pixels, framed: Pixels, sample: Pixels, trials: Trials) -> bytes:
    """Filter and deflate the rows of flat art with all settings that are promising."""
    is_large, found = len(rows) > _FEW_ROWS, []
    if not (is_large and trials.unfiltered < _CLEARLY_SMALLER):
        filtered = _filtered(framed, framed.shape[1] - rows.shape[1], sample)
        found += [_deflate(filtered, _RLE), _deflate(filtered, _SEARCH)]
    if not (is_large and trials.unfiltered * _CLEARLY_SMALLER > 1):
        found.append(_deflate(_unfiltered(rows), _thorough()))
    if len(found) == 3:
        trials.unfiltered = len(found[2]) / min(len(found[0]), len(found[1]))
    return min(found, key=len)


def _thorough() -> tuple[int, int]:
    """Return the longest search that is fast enough; zlib takes many times as long as zlib-ng."""
    return _SEARCH if deflate.library is zlib else _LONG_SEARCH


def _searched(rows: Pixels, filtered: Pixels, some: Pixels, least: float) -> list[bytes]:
    """
    Deflate the rows with the searches that are promising, which may be none.

    :param some: bands of the filtered rows.
    :param least: the size of the bands with the best setting without a search, in bytes.
    """
    # A search often finds more in rows that no filter has made different from others.
    plain = float(len(_deflate(_unfiltered(_bands(rows)), _SEARCH)))
    if _thorough() == _LONG_SEARCH:
        plain *= _LONG_GAIN
    searched = len(_deflate(some, _SEARCH))
    good = _AS_GOOD * min(plain, searched)
    found = []
    if plain < min(least, good):
        found.append(_deflate(_unfiltered(rows), _thorough()))
    if searched < min(_WORTH_THE_TIME * least, good):
        found.append(_deflate(filtered, _SEARCH))
    return found


def _share_of_runs(rows: Pixels) -> float:
    """Return the share of bytes that are equal to the three before them."""
    line = rows.reshape(-1)
    same = line[1:] == line[:-1]
    return float(np.count_nonzero(same[2:] & same[1:-1] & same[:-2]) / line.size)


def _may_search(some: Pixels, sizes: Mapping[tuple[int, int], float]) -> bool:
    """
    Return whether a search may find enough.

    :param some: bands of the filtered rows.
    :param sizes: the size of the bands with each setting without a search, in bytes.
    """
    least = min(sizes.values())
    runs_tell = sizes[_RLE] < _RUNS_TELL * sizes[_HUFFMAN]
    if not runs_tell and len(_deflate(some, _QUICKEST_SEARCH)) >= least:
        return False
    return len(_deflate(some, _QUICK_SEARCH)) < least


def _bands(rows: Pixels) -> Pixels:
    """Return half of each of three bands of rows, or all rows if there are few."""
    height, length = rows.shape
    band = max(_LEAST_ROWS, height // _BAND)
    if height <= 3 * band:
        return rows
    half = length // 2
    return np.concatenate(
        [
            rows[top : top + band, left : left + half]
            for top, left in (
                (height // 6, 0),
                (height // 2, length // 4),
                (height * 5 // 6, length - half),
            )
        ]
    )


def _unfiltered(rows: Pixels) -> Pixels:
    """Return the rows, each after a filter type of 0."""
    plain = np.zeros((rows.shape[0], rows.shape[1] + 1), np.uint8)
    plain[:, 1:] = rows
    return plain


def _framed(rows: Pixels, channels: int) -> Pixels:
    """Return the rows with zeros above and to the left; neighbours are slices of this array."""
    framed = np.zeros((rows.shape[0] + 1, rows.shape[1] + channels), np.uint8)
    framed[1:, channels:] = rows
    return framed


def _filtered_sample(framed: Pixels, channels: int) -> Pixels:
    """Filter some rows, at regular distances, as :func:`_filtered` does, by all filters."""
    step = max(1, (len(framed) - 1) // _SAMPLED)
    # Not the first, which has none above it.
    some, above = framed[1:][step // 2 :: step], framed[:-1][step // 2 :: step]
    filtered = np.empty((len(some), framed.shape[1] - channels + 1), np.uint8)
    scratch = np.empty((5, len(some), filtered.shape[1] - 1), np.uint8)
    _filter_strip(some, above, channels, _FILTERS, scratch, filtered)
    return filtered


def _filtered(framed: Pixels, channels: int, sample: Pixels) -> Pixels:
    """
    Filter each row by the filter with the smallest sum of differences (section 12.7).

    In a photo one or two filters are best in all rows, so only those of a sample are tried.

    :returns: the filtered rows, each after its filter type.
    """
    height, length = len(framed) - 1, framed.shape[1] - channels
    numbers = sorted(set(sample[:, 0].tolist()))
    filtered = np.empty((height, length + 1), np.uint8)
    strip = max(1, _STRIP_BYTES // length)
    # A fresh process pays for each page that it touches first, so this is reused.
    scratch = np.empty((5, strip, length), np.uint8)
    for top in range(0, height, strip):
        end = min(top + strip, height)
        some, above = framed[top + 1 : end + 1], framed[top:end]
        _filter_strip(some, above, channels, numbers, scratch, filtered[top:end])
    return filtered


def _filter_strip(
    rows: Pixels,
    rows_above: Pixels,
    channels: int,
    numbers: Sequence[int],
    scratch: Pixels,
    filtered: Pixels,
) -> None:
    """
    Filter some rows.

    :param rows: with the pixels to their left, like the rows above each.
    :param numbers: the filter types to try.
    """
    current, left = rows[:, channels:], rows[:, :-channels]
    above, diagonal = rows_above[:, channels:], rows_above[:, :-channels]
    scratch = scratch[:, : len(rows)]
    best = np.full(len(rows), np.iinfo(np.uint32).max, np.uint32)
    found, spare = scratch[:2]
    for number in numbers:
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
        if len(numbers) == 1:
            filtered[:, 0] = number
            filtered[:, 1:] = found
            return
        # The absolute value of -128 is 128, which fits an unsigned byte.
        np.absolute(found.view(np.int8), out=spare.view(np.int8))
        score = np.add.reduce(spare, axis=1, dtype=np.uint32)
        better = score < best
        best[better] = score[better]
        filtered[better, 0] = number
        filtered[better, 1:] = found[better]


def _paeth(left: Pixels, above: Pixels, diagonal: Pixels, scratch: Pixels) -> Pixels:
    """
    Return the Paeth predictor (section 9.4), computed in eight bits.

    It is the one of the three that is nearest to p = left + above - diagonal, which needs
    nine bits.  But the lower of left and above is as far from p as the higher is from the
    diagonal, and vice versa; if the diagonal is not between the two, one of these distances
    is cut to 0, and the one farther from the diagonal is the nearest.

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
    """Do ``np.where`` for bytes, several times as fast; the result is in ``yes``."""
    mask = where.view(np.uint8)
    np.negative(mask, out=mask)
    np.bitwise_xor(yes, no, out=yes)
    np.bitwise_and(yes, mask, out=yes)
    return np.bitwise_xor(yes, no, out=yes)


def _encode_palette(image: Image.Image, counted: Sequence[tuple[int, object]]) -> bytes:
    """Encode a picture of at most 256 colours with a palette."""
    width, height, channels = image.width, image.height, len(image.mode)
    colours = np.array([colour for _, colour in counted], np.uint8).reshape(-1, channels)
    if channels in (2, 4):
        # The transparent ones first: tRNS may then be short.
        colours = colours[np.argsort(colours[:, -1], kind="stable")]
    indices = _indices(_packed(image), colours @ (1 << 8 * np.arange(channels, dtype="<u4")))
    bit_depth = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    rows = np.zeros((height, 1 + -(-width * bit_depth // 8)), np.uint8)
    rows[:, 1:] = _pack_bits(indices.reshape(height, width), bit_depth)
    red_green_blue = colours[:, :3] if channels >= 3 else colours[:, [0, 0, 0]]
    extra = chunk(b"PLTE", red_green_blue.tobytes())
    if channels in (2, 4):
        alpha = colours[:, -1]
        transparent = alpha[: np.count_nonzero(alpha < 255)]
        if len(transparent):
            extra += chunk(b"tRNS", transparent.tobytes())
    return _file(width, height, bit_depth, 3, _deflate(rows, _LONG_SEARCH), extra)


def _packed(image: Image.Image) -> NDArray[np.uint32]:
    """Return one number per pixel, with the first channel in its lowest bits."""
    if image.mode == "RGB":
        # The byte after the colours is undefined.
        return np.frombuffer(image.tobytes("raw", "RGBX"), "<u4") & np.uint32(0xFFFFFF)
    line = np.asarray(image).reshape(-1)
    return line.view(f"<u{len(image.mode)}").astype("<u4", copy=False)


def _indices(pixels: NDArray[np.uint32], colours: NDArray[np.uint32]) -> Pixels:
    """
    Return the palette index of each pixel.

    It is looked up in a table of 65,536 hashes, in which no two colours of the picture
    collide.
    """
    # numpy.random would be another ten libraries in the memory of each child.
    numbers = Random(1)  # noqa: S311
    while True:
        factor = np.uint32(numbers.getrandbits(32) | 1)
        hashes = (colours * factor) >> np.uint32(16)
        if len(set(hashes.tolist())) == len(colours):
            break
    table = np.zeros(1 << 16, np.uint8)
    table[hashes] = np.arange(len(colours))
    # Faster than indexing, which would check the bounds of each.
    return np.take(table, (pixels * factor) >> np.uint32(16), mode="wrap")


def _pack_bits(indices: Pixels, bit_depth: int) -> Pixels:
    """Pack indices of so many bits into bytes, the first in the highest bits."""
    if bit_depth == 8:
        return indices
    height, width = indices.shape
    each = 8 // bit_depth
    padded = np.zeros((height, -(-width // each) * each), np.uint8)
    padded[:, :width] = indices
    packed = np.zeros((height, padded.shape[1] // each), np.uint8)
    for place in range(each):
        packed |= padded[:, place::each] << np.uint8(8 - bit_depth * (place + 1))
    return packed
