"""
Conversion to sRGB from primaries and a transfer function.

Pillow supports only ICC profiles; it ignores code points (ITU-T H.273) and the ``gAMA`` and
``cHRM`` chunks of PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fxprofile.crunch.codec.containers.contents import Colour

Floats = NDArray[np.float64]

#: x and y of white, red, green and blue, by code point (ITU-T H.273, table 2).
_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (0.310, 0.316, 0.670, 0.330, 0.210, 0.710, 0.140, 0.080),
    5: (*_D65, 0.640, 0.330, 0.290, 0.600, 0.150, 0.060),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_SRGB: Final = _PRIMARIES[1]
_PQ, _HLG = 16, 18

#: The luminance of diffuse white in candela per square metre (ITU-R BT.2408, section 2.2).
_REFERENCE_WHITE: Final = 203.0
#: The luminance, relative to diffuse white, above which highlights are compressed.  Diffuse
#: white becomes 85 % of the display's white, and five times its luminance 98 %.
_KNEE: Final = 0.7

#: An invisible difference between two exponents; libpng uses the same threshold.
_SAME_GAMMA: Final = 0.05

#: The Bradford matrix, for chromatic adaptation to another white point.
_BRADFORD: Final = np.array(
    ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
)


def mapping_of(colour: Colour) -> Callable[[Floats], Floats] | None:
    """
    Return a function that maps colours to sRGB.

    Its argument and its result are arrays of values from 0 to 1 whose last axis is RGB.

    :returns: None if the colours are sRGB already, or only an ICC profile describes them.
    """
    if colour.cicp is not None:
        code, transfer = colour.cicp
        primaries = _PRIMARIES.get(code, _SRGB)
        # Browsers treat the transfer functions of BT.601, BT.709 and BT.2020 as that of sRGB.
        if transfer not in _TO_LIGHT and primaries == _SRGB:
            return None
        to_light = _TO_LIGHT.get(transfer, lambda values, primaries: from_srgb(values))
        return lambda values: _converted(
            to_light(values, primaries), primaries, is_hdr=transfer in (_PQ, _HLG)
        )
    gamma, chromaticities = colour.gamma, colour.chromaticities
    if gamma is None:
        return None
    if chromaticities is None:
        # Like browsers, assume a display gamma of 2.2.
        exponent = 1 / (2.2 * gamma)
        return None if abs(exponent - 1) < _SAME_GAMMA else lambda values: values**exponent
    return lambda values: _converted(values ** (1 / gamma), chromaticities)


def _converted(light: Floats, primaries: tuple[float, ...], *, is_hdr: bool = False) -> Floats:
    """
    Convert linear light of other primaries to sRGB.

    :param light: 1 is diffuse white.
    :param is_hdr: whether highlights above white have to be compressed.
    """
    if primaries != _SRGB:
        light = light @ _matrix(primaries).T
    return to_srgb(_tone_mapped(light) if is_hdr else light)


def to_srgb(light: Floats) -> Floats:
    """Encode linear light from 0 to 1 as sRGB (IEC 61966-2-1)."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def from_srgb(values: Floats) -> Floats:
    """Return the linear light of sRGB values from 0 to 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _from_pq(values: Floats, primaries: tuple[float, ...]) -> Floats:
    """Return the linear light of perceptual quantizer values (ITU-R BT.2100, table 4)."""
    power = values ** (1 / 78.84375)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
        1 / 0.1593017578
    )
    return light * (10_000 / _REFERENCE_WHITE)


def _from_hlg(values: Floats, primaries: tuple[float, ...]) -> Floats:
    """Return the light of hybrid log-gamma on a 1,000 cd/m² display (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    brightness = np.maximum(scene @ _to_xyz(primaries)[1], 1e-6)
    return scene * brightness[..., None] ** 0.2 * (1_000 / _REFERENCE_WHITE)


#: Functions to linear light by transfer characteristics (ITU-T H.273, table 3); all others are
#: treated as sRGB.
_TO_LIGHT: Final[Mapping[int, Callable[[Floats, tuple[float, ...]], Floats]]] = {
    4: lambda values, primaries: values**2.2,
    5: lambda values, primaries: values**2.8,
    8: lambda values, primaries: values,
    _PQ: _from_pq,
    _HLG: _from_hlg,
}


def _tone_mapped(linear: Floats) -> Floats:
    """Compress highlights; all channels are scaled alike, which preserves the hue."""
    peak = np.maximum(linear.max(axis=-1, keepdims=True), 1e-6)
    over, room = np.maximum(peak - _KNEE, 0), 1 - _KNEE
    compressed = _KNEE + room * over / (over + room)
    return linear * np.where(peak > _KNEE, compressed / peak, 1)


@lru_cache(maxsize=4)
def _matrix(primaries: tuple[float, ...]) -> Floats:
    """Return the matrix from linear RGB of these primaries to linear sRGB."""
    source, target = _white(primaries), _white(_SRGB)
    scale = np.diag((_BRADFORD @ target) / (_BRADFORD @ source))
    adapt = np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD
    return np.linalg.inv(_to_xyz(_SRGB)) @ adapt @ _to_xyz(primaries)


def _white(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    x, y = primaries[:2]
    return np.array((x / y, 1, (1 - x - y) / y))


def _to_xyz(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the matrix from linear RGB to CIE XYZ (SMPTE RP 177)."""
    columns = [(x, y, 1 - x - y) for x, y in zip(primaries[2::2], primaries[3::2], strict=True)]
    matrix = np.array(columns).T
    return matrix * np.linalg.solve(matrix, _white(primaries))
