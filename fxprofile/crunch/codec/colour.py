"""
Conversion of a picture to sRGB, after it has been downscaled.

The colour profile of an image is as hostile as the rest of it; an unusable profile is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from fxprofile.crunch.codec.colour_spaces import Floats, mapping_of
from fxprofile.crunch.codec.containers.contents import Colour

#: The colour spaces of a profile (ICC.1:2022, table 19), and the modes that each applies to.
_SPACES: Final = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",)}

#: The number of rows that are checked for colour first.
_FEW_ROWS: Final = 8

_SRGB: Final = ImageCms.createProfile("sRGB")

#: Sample colours that show whether a profile is sRGB, under any name.  The sRGB profiles of
#: cameras change them by at most 6 of 255 levels, Display P3 by up to 95.
_GRID: Final = np.stack(np.meshgrid(*3 * [np.arange(0, 256, 51, dtype=np.uint8)]), axis=-1).reshape(
    -1, 3
)
_FEW_STEPS: Final = 6


def to_srgb(image: Image.Image, colour: Colour) -> Image.Image:
    """
    Convert a picture to sRGB.

    :param image: of mode L, LA, RGB, RGBA or CMYK.
    :param colour: the colour space that its container declares.
    :returns: the picture in mode L, LA, RGB or RGBA.
    """
    if colour.icc:
        converted = _by_profile(image, colour.icc)
        if converted is not None:
            return converted
    if image.mode == "CMYK":
        return image.convert("RGB")
    mapping = mapping_of(colour)
    return image if mapping is None else _by_numbers(image, mapping)


def _by_numbers(image: Image.Image, mapping: Callable[[Floats], Floats]) -> Image.Image:
    opaque = image.convert("RGB")
    colours = mapping(np.asarray(opaque, np.float64) / 255)
    converted = Image.fromarray(np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8))
    if "A" in image.mode:
        converted.putalpha(image.getchannel("A"))
    return converted


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert a picture by its ICC profile; return None if the profile is not usable."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if image.mode not in _SPACES.get(source.profile.xcolor_space.strip(), ()):
            return None
        mode = image.mode.removesuffix("A")
        if mode == "RGB" and _is_srgb(source):
            return image
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
        converted = ImageCms.applyTransform(image.convert(mode), transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if converted is not None and "A" in image.mode:
        converted.putalpha(image.getchannel("A"))
    return converted


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Return whether a profile changes no colour of :data:`_GRID` visibly."""
    # Optimizing the transform takes longer than converting so few colours without it.
    flags = ImageCms.Flags.NOOPTIMIZE
    transform = ImageCms.buildTransform(profile, _SRGB, "RGB", "RGB", flags=flags)
    mapped = np.asarray(ImageCms.applyTransform(Image.fromarray(_GRID[None]), transform))[0]
    return bool(np.abs(mapped.astype(np.int16) - _GRID).max() <= _FEW_STEPS)


def without_false_colour(image: Image.Image) -> Image.Image:
    """Return a picture of greys only in mode L or LA; return any other picture unchanged."""
    if image.mode not in ("RGB", "RGBA"):
        return image
    # Most coloured pictures have some colour in a few rows.
    few = image.resize((image.width, min(image.height, _FEW_ROWS)), Image.Resampling.NEAREST)
    if _has_colour(few) or _has_colour(image):
        return image
    grey = image.getchannel("G")
    if image.mode == "RGB":
        return grey
    return Image.merge("LA", (grey, image.getchannel("A")))


def _has_colour(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return not (np.array_equal(red, green) and np.array_equal(green, blue))


def without_hidden_colour(image: Image.Image) -> Image.Image:
    """
    Erase the colours of fully transparent pixels.

    They are invisible, but may contain a part of the image that its owner erased.
    """
    if image.mode not in ("LA", "RGBA"):
        return image
    clear = image.getchannel("A").point([255] + [0] * 255, "1")
    image.paste((0,) * len(image.mode), None, clear)
    return image
