"""
Convert colours to sRGB, in a picture that is already small.

The colour profile of an image is hostile input like the rest of it; one that cannot be used
is ignored.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageCms

#: The colour spaces of profiles (ICC.1:2022, table 19), and the modes they fit.
_SPACES: Final = {"RGB": ("RGB", "RGBA"), "GRAY": ("L", "LA"), "CMYK": ("CMYK",)}

#: So many rows show whether a picture has any colour, if it has much.
_FEW_ROWS: Final = 8

_SRGB: Final = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """
    Convert a picture to sRGB.

    :param image: of mode L, LA, RGB, RGBA or CMYK.
    :param profile: the ICC profile of the image.
    :returns: the picture in mode L, LA, RGB or RGBA.
    """
    converted = _by_profile(image, profile) if profile else None
    if converted is not None:
        return converted
    return image.convert("RGB") if image.mode == "CMYK" else image


def _by_profile(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Convert a picture by its profile; None if the profile is not usable for it."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if image.mode not in _SPACES.get(source.profile.xcolor_space.strip(), ()):
            return None
        # Nearly all profiles that cameras write call themselves sRGB.
        description = source.profile.profile_description or ""
        if image.mode in ("RGB", "RGBA") and "srgb" in description.lower():
            return image
        opaque = image.convert(image.mode.removesuffix("A")) if "A" in image.mode else image
        converted = ImageCms.profileToProfile(opaque, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if converted is not None and "A" in image.mode:
        converted.putalpha(image.getchannel("A"))
    return converted


def without_false_colour(image: Image.Image) -> Image.Image:
    """Return a picture without colours in a mode without colours."""
    if image.mode not in ("RGB", "RGBA"):
        return image
    # Most pictures with colours show some in the first few rows that are checked.
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

    They are invisible, and may show what the owner of the image cut away.
    """
    if image.mode not in ("LA", "RGBA"):
        return image
    clear = image.getchannel("A").point([255] + [0] * 255, "1")
    image.paste((0,) * len(image.mode), None, clear)
    return image
