"""
BlurHash: a picture in 28 characters, to be shown until the real one has loaded.

The format is that of https://github.com/woltapp/blurhash/blob/master/Algorithm.md: the
coefficients of a cosine transform in linear light, in digits of base 83.  Its libraries are
slow, in pure Python, or add a C extension to the child.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from fxprofile.crunch.codec.colour_spaces import Floats, from_srgb, to_srgb

_DIGITS: Final = (
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#$%*+,-.:;=?@[]^_{|}~"
)
#: The numbers of horizontal and vertical components.
_ACROSS, _DOWN = 4, 3
#: The side of the reduced picture in pixels; a larger one makes no visible difference.
_SIDE: Final = 32


def blurhash(image: Image.Image) -> str:
    """
    Return the BlurHash of a picture: 28 characters for 4 x 3 components.

    :param image: of mode L, LA, RGB or RGBA; transparency is shown on white.
    """
    rgba = image.resize(
        (min(image.width, _SIDE), min(image.height, _SIDE)), Image.Resampling.BOX
    ).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    mean, *waves = _transform(_LIGHT[np.asarray(flat)])
    scale = int(np.clip(np.floor(np.abs(waves).max() * 166 - 0.5), 0, 82))
    # The strength of a wave, from -1 to 1, in 19 steps that are finer near 0.
    strength = np.array(waves) * 166 / (scale + 1)
    steps = np.floor(np.sign(strength) * np.sqrt(np.abs(strength)) * 9 + 9.5)
    return "".join(
        (
            _base83([_ACROSS - 1, _DOWN - 1][::-1], 9, 1),
            _base83([scale], 83, 1),
            _base83(np.floor(to_srgb(mean) * 255 + 0.5), 256, 4),
            *(_base83(step, 19, 2) for step in np.clip(steps, 0, 18)),
        )
    )


#: The linear light of each value of a byte.
_LIGHT: Final = from_srgb(np.arange(256) / 255)


def _transform(light: Floats) -> Floats:
    """Return the components, one per row; the first is the mean."""
    height, width, _ = light.shape
    across = np.cos(np.pi * np.outer(np.arange(_ACROSS), np.arange(width)) / width)
    down = np.cos(np.pi * np.outer(np.arange(_DOWN), np.arange(height)) / height)
    columns = np.einsum("yj,jic->yic", down, light)
    found = np.einsum("xi,yic->yxc", across, columns) / (width * height)
    found *= 2
    found[0, 0] /= 2
    return found.reshape(-1, 3)


def _base83(values: Floats | list[int], base: int, digits: int) -> str:
    """Write numbers below a base as one number, in so many digits of base 83."""
    number = 0
    for value in values:
        number = number * base + int(value)
    return "".join(_DIGITS[number // 83**place % 83] for place in reversed(range(digits)))
