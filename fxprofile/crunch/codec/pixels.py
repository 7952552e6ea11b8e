"""
Decode an image once, and downscale it to three small pictures in sRGB.

A JPEG is decoded at a fraction of its size if enough pixels remain, and a second time at a
larger fraction if it is too sharp for the first.  Each size is made from the next larger one.
Orientation and colour conversion come last, when the picture is small.  The tests measure the
loss against a full decode and one Lanczos resize per size: opaque photos keep a PSNR of at
least 47 dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import numpy as np
from PIL import Image

from fxprofile.crunch.codec import colour
from fxprofile.crunch.codec.containers.contents import Box as WholeBox
from fxprofile.crunch.codec.containers.contents import Buffer, Contents
from fxprofile.crunch.codec.decoders import decode, open_contents, open_image, refusal
from fxprofile.crunch.limits import SIZES, Fit, Limits
from fxprofile.model.keys import VARIANTS

#: The least ratio of a picture's sides to its box after the decoder has scaled it or its
#: pixels were averaged, so that the filter has enough pixels; and the same for a picture that
#: is sharp at the scale of one pixel.  A lower ratio is visible, a higher one costs time.
_GAP, _SHARP_GAP = 4 / 3, 8 / 3
#: The sharpness per ratio above which the loss at _GAP is visible.  Photos have about 3; the
#: lowest value at which one fell below 47 dB was 5.6.  At a ratio above _MUCH it is invisible.
_SHARPEST, _MUCH = 4.7, 2.4
#: The number of bands that are measured for sharpness, and the rows of each.
_BANDS, _BAND_ROWS = 8, 8
#: Rows of an averaged picture that are computed at a time.
_STRIP: Final = 32

#: The transposition that undoes each EXIF orientation (CIPA DC-008, section 4.6.5).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: The left, upper, right and lower edge of a part of a picture, in pixels.
Box = tuple[float, float, float, float]


def reduced(data: Buffer, limits: Limits) -> tuple[Contents, Mapping[str, Image.Image]]:
    """
    Decode an image and reduce it to each size.

    :param data: the whole file.
    :returns: the contents of its container, and for each name of
        :data:`fxprofile.model.keys.VARIANTS` a picture of mode L, LA, RGB or RGBA that fits
        its box.
    :raises Refused: if the image is damaged, not supported, or exceeds a limit.
    :raises MemoryError: if a decoder reports a lack of memory.
    """
    contents = open_contents(data, limits)
    try:
        image, part = _loaded(contents, limits.fit, _GAP)
        # Computed after that: the decoder of HEIC sets the canvas.
        box = _visible(contents, limits.fit)
        sides = _sides(box)
        target = fitted(*sides, VARIANTS[SIZES[0]][1])
        if part is not None and image.size != contents.canvas:
            seen = _around(_on_picture(box, contents.canvas, part))
            if _is_too_sharp(image, seen, target):
                image, part = _loaded(contents, limits.fit, _SHARP_GAP)
        large = _finished(image, contents, box, target, part)
    except Exception as error:
        raise refusal(error, contents, limits) from error
    return contents, dict(_sizes(large, *sides))


def fitted(width: int, height: int, box: int) -> tuple[int, int]:
    """Return width and height of a picture that is scaled down to fit a square box."""
    longer = max(width, height)
    if longer <= box:
        return width, height
    return max(1, round(width * box / longer)), max(1, round(height * box / longer))


def _visible(contents: Contents, fit: Fit) -> WholeBox:
    """Return the part of the canvas to show: with ``cover``, the square in its centre."""
    left, top, right, bottom = contents.crop or (0, 0, *contents.canvas)
    if fit == "inside":
        return left, top, right, bottom
    side = min(right - left, bottom - top)
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    return left, top, left + side, top + side


def _sides(box: WholeBox) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _sizes(large: Image.Image, width: int, height: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield each size, largest first, made from the one before it."""
    if (large.width > large.height) != (width > height):
        # The orientation has swapped width and height.
        width, height = height, width
    picture = large
    for name in SIZES:
        sides = fitted(width, height, VARIANTS[name][1])
        if sides != picture.size:
            picture = picture.resize(sides, Image.Resampling.LANCZOS)
        yield name, picture


def _loaded(contents: Contents, fit: Fit, gap: float) -> tuple[Image.Image, Box | None]:
    """
    Decode an image, at a fraction of its size if its decoder supports that.

    :param gap: the least ratio of the decoded picture to the largest box.
    :returns: the decoded picture, and the part of it that the image covers; None if its
        decoder does not scale.
    """
    image = open_image(contents)
    # Computed from the exact sides: rounded ones can miss a fraction by one pixel.
    scale = gap * min(1.0, VARIANTS[SIZES[0]][1] / max(_sides(_visible(contents, fit))))
    drafted = image.draft(None, (int(image.width * scale) or 1, int(image.height * scale) or 1))
    decode(image, contents)
    # The last column and row of a scaled picture may represent less than a whole one.
    return image, None if drafted is None else drafted[1]


def _finished(
    image: Image.Image,
    contents: Contents,
    box: WholeBox,
    target: tuple[int, int],
    part: Box | None,
) -> Image.Image:
    """
    Return the picture cropped, downscaled, in sRGB, and oriented.

    :param box: the part of the canvas to show.
    :param target: width and height before it is oriented.
    """
    picture = _on_canvas(_without_opaque_alpha(_plain(image, contents)), contents)
    part = part or (0, 0, *picture.size)
    picture = _shrunk(picture, target, _on_picture(box, contents.canvas, part))
    picture = colour.to_srgb(picture, contents.colour)
    turn = _UPRIGHT.get(contents.orientation)
    if turn is not None:
        picture = picture.transpose(turn)
    return colour.without_hidden_colour(colour.without_false_colour(picture))


def _on_picture(box: Box, canvas: tuple[int, int], part: Box) -> Box:
    """
    Return where a part of the canvas is in a picture that was decoded at a fraction of its size.

    :param part: the part of the picture that shows the canvas.
    """
    across, down = part[2] / canvas[0], part[3] / canvas[1]
    # Rounding must not lead out of the picture.
    right, bottom = min(box[2] * across, part[2]), min(box[3] * down, part[3])
    return box[0] * across, box[1] * down, right, bottom


def _around(box: Box) -> WholeBox:
    """Return the whole pixels around a part of a picture."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])


def _on_canvas(frame: Image.Image, contents: Contents) -> Image.Image:
    """Paste a frame that does not fill the canvas into a transparent one."""
    if contents.frame is None:
        return frame
    frame = frame.convert("LA" if frame.mode in ("L", "LA") else "RGBA")
    canvas = Image.new(frame.mode, contents.canvas)
    canvas.paste(frame, contents.frame[:2])
    return canvas


def _is_too_sharp(picture: Image.Image, box: WholeBox, target: tuple[int, int]) -> bool:
    """
    Return whether a scaled or averaged picture is so sharp that the loss is visible.

    :param box: the part of the picture to use.
    """
    ratio = max(side / to for side, to in zip(_sides(box), target, strict=True))
    return ratio < _MUCH and _sharpness(picture, box) > _SHARPEST * ratio


def _sharpness(picture: Image.Image, box: WholeBox) -> float:
    """
    Return the mean absolute value of a Laplacian filter over some bands of rows of a part.

    Its square would rate the few edges of a drawing like a sharp photo.
    """
    bands = []
    left, above, right, below = box
    for number in range(_BANDS):
        top = above + (below - above - _BAND_ROWS) * (2 * number + 1) // (2 * _BANDS)
        band = picture.crop((left, top, right, top + _BAND_ROWS))
        # Green contributes most to the luminance.
        bands.append(np.asarray(band.getchannel(1) if len(picture.mode) > 1 else band))
    rows = np.stack(bands).astype(np.int16)
    around = rows[:, :-2, 1:-1] + rows[:, 2:, 1:-1] + rows[:, 1:-1, :-2] + rows[:, 1:-1, 2:]
    return float(np.mean(np.abs(4 * rows[:, 1:-1, 1:-1] - around)))


def _plain(image: Image.Image, contents: Contents) -> Image.Image:
    """Return the picture in mode L, LA, RGB, RGBA or CMYK."""
    if contents.is_apple and image.mode in ("RGB", "RGBA"):
        return _with_red_first(image)
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "P" and image.palette is None:
        # Without a palette, the indices are grey levels.
        return Image.fromarray(np.asarray(image), "L")
    clear = image.has_transparency_data
    if image.mode in ("1", "L"):
        return image.convert("LA" if clear else "L")
    if image.mode in ("LA", "RGBA", "CMYK") or (image.mode == "RGB" and not clear):
        return image
    return image.convert("RGBA" if clear else "RGB")


def _with_red_first(image: Image.Image) -> Image.Image:
    """Convert an iPhone-optimised PNG, whose blue comes first and alpha is premultiplied."""
    blue, green, red, *alpha = image.split()
    if not alpha:
        return Image.merge("RGB", (red, green, blue))
    multiplied = Image.merge("RGBA", (red, green, blue, *alpha)).tobytes()
    return Image.frombytes("RGBa", image.size, multiplied).convert("RGBA")


def _eight_bits(image: Image.Image) -> Image.Image:
    """
    Scale 16-bit greys to 8 bits.

    A conversion of the mode would clip all values above 255 to white.
    """
    pixels = np.asarray(image)
    scale = np.arange(1 << 16, dtype=np.uint32)
    table = ((scale * 255 + 32767) // 65535).astype(np.uint8)
    grey = Image.fromarray(table[pixels.astype(np.uint16, copy=False)], "L")
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(pixels == key, 0, 255).astype(np.uint8), "L"))
    return grey


def _without_opaque_alpha(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA") or image.getchannel("A").getextrema() != (255, 255):
        return image
    if image.mode == "RGBA":
        # In the same memory, unless it is in several pieces: alpha becomes the unused byte.
        with suppress(ValueError):
            return Image.fromarrow(image, "RGB", image.size)
    return image.convert(image.mode.removesuffix("A"))


def _shrunk(
    image: Image.Image, target: tuple[int, int], box: Box, gap: float = _GAP
) -> Image.Image:
    """
    Downscale a part of a picture, with averaging as a first step if its loss is not visible.

    :param target: width and height of the result.
    :param box: the part of the picture to use.
    :param gap: the least ratio of the averaged picture to the target.
    """
    around = _around(box)
    if _sides(around) == target:
        return image if image.size == target else image.crop(around)
    across, down = (max(1, int(a / b / gap)) for a, b in zip(_sides(around), target, strict=True))
    if across == down == 1:
        return image.resize(target, Image.Resampling.LANCZOS, box)
    has_alpha = image.mode in ("LA", "RGBA")
    reduce = _averaged if has_alpha else Image.Image.reduce
    small = reduce(image, (across, down), around)
    if not has_alpha and _is_too_sharp(small, (0, 0, *small.size), target):
        return _shrunk(image, target, box, _SHARP_GAP)
    # The last column and row may average fewer pixels than the others.
    left, top = around[:2]
    covered = (
        (box[0] - left) / across,
        (box[1] - top) / down,
        (box[2] - left) / across,
        (box[3] - top) / down,
    )
    picture = small.resize(target, Image.Resampling.LANCZOS, covered)
    return picture.convert(image.mode) if has_alpha else picture


def _averaged(image: Image.Image, factor: tuple[int, int], box: WholeBox) -> Image.Image:
    """
    Average a part of a picture with alpha by whole factors, in premultiplied colours.

    It works in strips: :meth:`Image.reduce` would premultiply the whole picture at once, and
    :meth:`Image.resize` ignores its `reducing_gap` for a picture with alpha.
    """
    mode = image.mode.replace("A", "a")
    left, top, right, bottom = box
    across, down = factor
    small = Image.new(mode, (-(-(right - left) // across), -(-(bottom - top) // down)))
    step = _STRIP * down
    for upper in range(top, bottom, step):
        strip = image.crop((left, upper, right, min(upper + step, bottom))).convert(mode)
        small.paste(strip.reduce(factor), (0, (upper - top) // down))
    return small
