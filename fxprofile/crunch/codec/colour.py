"""
Colours to sRGB, on a picture that is already small.

What a camera or a press says of its colours is hostile input like the rest: a profile
that cannot be used is as good as none.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image, ImageCms

#: The colour space of a profile (ICC.1:2022, table 19), and the modes it fits.
_SPACES: Final = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",)}

#: As many show whether there is any colour, if there is much of it.
_FEW_ROWS: Final = 8

_SRGB: Final = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """
    Convert a picture to sRGB.

    :param image: of mode L, LA, RGB, RGBA or CMYK.
    :param profile: the ICC profile that came with it.
    :returns: the picture in mode L, LA, RGB or RGBA.
    """
    if profile:
        converted = _by_profile(image, profile)
        if converted is not None:
            return converted
    return image.convert("RGB") if image.mode == "CMYK" else image


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture by its profile; None if the profile is no good for it."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if image.mode not in _SPACES.get(source.profile.xcolor_space.strip(), ()):
            return None
        if image.mode in ("RGB", "RGBA") and _is_srgb(source.profile):
            return image
        opaque: Any = image.convert(image.mode.removesuffix("A")) if "A" in image.mode else image
        converted = ImageCms.profileToProfile(opaque, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if converted is None:
        return None
    if "A" in image.mode:
        converted.putalpha(image.getchannel("A"))
    return converted


def _is_srgb(profile: Any) -> bool:
    """Whether a profile calls itself sRGB: nearly all that cameras write do."""
    return "srgb" in (profile.profile_description or "").lower()


def without_false_colour(image: Image.Image) -> Image.Image:
    """A picture of greys, stored as colours, as the greys that it is."""
    if image.mode not in ("RGB", "RGBA"):
        return image
    # Most pictures show their colours in the first few rows that are looked at.
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
    A picture without what lies under its fully transparent pixels.

    Nobody sees it, and it may be what its owner cut away.
    """
    if image.mode not in ("LA", "RGBA"):
        return image
    clear = image.getchannel("A").point([255] + [0] * 255, "1")
    image.paste((0,) * len(image.mode), None, clear)
    return image
