"""
From the bytes of a stranger's image to three small pictures in sRGB.

It is decoded once, a JPEG at a fraction of its size where that leaves enough, and once more
where that turns out too little for how sharp it is; each size is made of the one above it;
orientation and colours wait until the picture is small.  The tests measure what that costs
against a full decode and one Lanczos resize a size: opaque photos keep at least 47 dB of
signal to noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from fxprofile.crunch.codec import colour
from fxprofile.crunch.codec.decoders import is_enough_memory, open_image, refusal
from fxprofile.crunch.codec.headers import Buffer
from fxprofile.crunch.limits import SIZES, Limits
from fxprofile.model.keys import VARIANTS

#: What is left to the filter at least, after a decoder has scaled or pixels were averaged, and
#: what is left of a picture that is sharp to the last pixel: less shows, more costs time.
_GAP, _SHARP_GAP = 4 / 3, 8 / 3
#: How sharp one may be of which little is left, by what is left: photos have about 3, the least
#: with which one fell under 47 dB was 5.6.  Of so much it never shows.
_SHARPEST, _MUCH = 4.7, 2.4
#: Bands of rows that show how sharp a picture is, and the rows of each.
_BANDS, _BAND_ROWS = 8, 8
#: Rows of an averaged picture that are made at a time.
_STRIP: Final = 32

#: The EXIF tag, and what undoes each of its values (CIPA DC-008, section 4.6.5).
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


#: Left, upper, right and lower edge, in pixels.
Part = tuple[float, float, float, float]


@dataclass(frozen=True)
class Source:
    """What an image is: its type, and its sides in pixels as they are stored."""

    kind: str
    width: int
    height: int


def reduced(data: Buffer, limits: Limits) -> tuple[Source, Mapping[str, Image.Image]]:
    """
    Decode an image and reduce it to each size.

    :param data: all of its bytes.
    :returns: what it is, and for each name of :data:`fxprofile.model.keys.VARIANTS` a
        picture of mode L, LA, RGB or RGBA that fits its box.
    :raises Refused: if the image is at fault.
    :raises MemoryError: if there is not enough memory, as far as decoders tell.
    """
    kind, image = open_image(data, limits)
    source = Source(kind, *image.size)
    try:
        target = fitted(source.width, source.height, VARIANTS[SIZES[0]][1])
        part = _load(image, _GAP)
        is_scaled = image.size != (source.width, source.height)
        if part is not None and is_scaled and _is_too_sharp(image, target):
            _, image = open_image(data, limits)
            part = _load(image, _SHARP_GAP)
        large = _finished(image, target, part or (0, 0, *image.size))
    except Exception as error:
        # By now the image may say another size than its file.
        enough = is_enough_memory(kind, (source.width, source.height), limits)
        raise refusal(error, enough_memory=enough) from error
    return source, dict(_sizes(large, source))


def fitted(width: int, height: int, box: int) -> tuple[int, int]:
    """The sides of a picture that is to fit a square box, at most as large as it is."""
    longer = max(width, height)
    if longer <= box:
        return width, height
    return max(1, round(width * box / longer)), max(1, round(height * box / longer))


def _sizes(large: Image.Image, source: Source) -> Iterator[tuple[str, Image.Image]]:
    """Each size, largest first, from the one before it."""
    turned = (large.width > large.height) != (source.width > source.height)
    width, height = (source.height, source.width) if turned else (source.width, source.height)
    picture = large
    for name in SIZES:
        sides = fitted(width, height, VARIANTS[name][1])
        if sides != picture.size:
            picture = picture.resize(sides, Image.Resampling.LANCZOS)
        yield name, picture


def _load(image: Image.Image, gap: float) -> Part | None:
    """
    Decode an image, at a fraction of its size if its decoder can do that.

    :param gap: how much larger than the largest box it has to be then.
    :returns: the part of the picture that there is, if its decoder can.
    """
    # Of the exact sides: rounded ones would now and then miss a fraction by a pixel.
    scale = gap * min(1.0, VARIANTS[SIZES[0]][1] / max(image.size))
    drafted = image.draft(None, (int(image.width * scale) or 1, int(image.height * scale) or 1))
    image.load()
    # The last column and row of what a decoder has scaled may stand for a part of one.
    return None if drafted is None else drafted[1]


def _finished(image: Image.Image, target: tuple[int, int], part: Part) -> Image.Image:
    """The first frame, upright, in sRGB, at these sides (which are those before it is turned)."""
    profile, turn = image.info.get("icc_profile"), _orientation(image)
    picture = _shrunk(_without_opaque_alpha(_plain(image)), target, part)
    picture = colour.to_srgb(picture, profile)
    if turn is not None:
        picture = picture.transpose(turn)
    return colour.without_hidden_colour(colour.without_false_colour(picture))


def _is_too_sharp(picture: Image.Image, target: tuple[int, int]) -> bool:
    """Whether it would show that no more is left of a picture that was scaled or averaged."""
    left = max(side / to for side, to in zip(picture.size, target, strict=True))
    return left < _MUCH and _sharpness(picture) > _SHARPEST * left


def _sharpness(picture: Image.Image) -> float:
    """
    The mean of what a Laplacian filter finds in some bands of rows.

    Not its square: the few edges of a drawing are not what makes a photo sharp.
    """
    bands = []
    for number in range(_BANDS):
        top = (picture.height - _BAND_ROWS) * (2 * number + 1) // (2 * _BANDS)
        band = picture.crop((0, top, picture.width, top + _BAND_ROWS))
        # Of colours, green is most of the brightness.
        bands.append(np.asarray(band.getchannel(1) if len(picture.mode) > 1 else band))
    rows = np.stack(bands).astype(np.int16)
    around = rows[:, :-2, 1:-1] + rows[:, 2:, 1:-1] + rows[:, 1:-1, :-2] + rows[:, 1:-1, 2:]
    return float(np.mean(np.abs(4 * rows[:, 1:-1, 1:-1] - around)))


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How to turn a picture upright; EXIF that makes no sense says nothing."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        return None


def _plain(image: Image.Image) -> Image.Image:
    """The picture in mode L, LA, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if image.mode == "P" and image.palette is None:
        # Its numbers are then greys.
        return Image.fromarray(np.asarray(image), "L")
    clear = image.has_transparency_data
    if image.mode in ("1", "L"):
        return image.convert("LA" if clear else "L")
    if image.mode in ("LA", "CMYK") or (image.mode in ("RGB", "RGBA") and not clear):
        return image
    if image.mode == "RGBA":
        return image
    return image.convert("RGBA" if clear else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """
    Sixteen bits of grey, scaled to eight.

    Converting the mode would clip whatever is over 255 to white.
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
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode.removesuffix("A"))
    return image


def _shrunk(
    image: Image.Image, target: tuple[int, int], part: Part, gap: float = _GAP
) -> Image.Image:
    """
    The picture at these sides, averaged first where that does not show.

    :param part: the part of the picture that there is.
    :param gap: how much larger than these sides it has to be after that.
    """
    if image.size == target:
        return image
    across, down = (max(1, int(a / b / gap)) for a, b in zip(image.size, target, strict=True))
    if across == down == 1:
        return image.resize(target, Image.Resampling.LANCZOS, part)
    has_alpha = image.mode in ("LA", "RGBA")
    small = _averaged(image, across, down) if has_alpha else image.reduce((across, down))
    if not has_alpha and _is_too_sharp(small, target):
        return _shrunk(image, target, part, _SHARP_GAP)
    # The last column and row may stand for less than a whole factor.
    box = (0, 0, part[2] / across, part[3] / down)
    picture = small.resize(target, Image.Resampling.LANCZOS, box)
    return picture.convert(image.mode) if has_alpha else picture


def _averaged(image: Image.Image, across: int, down: int) -> Image.Image:
    """
    A picture with alpha, averaged by whole factors, its colours multiplied by its alpha.

    In strips: Pillow would leave the averaging out here, and multiply all of it at once.
    """
    mode = image.mode.replace("A", "a")
    width, height = image.size
    small = Image.new(mode, (-(-width // across), -(-height // down)))
    step = _STRIP * down
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height))).convert(mode)
        small.paste(strip.reduce((across, down)), (0, top // down))
    return small
