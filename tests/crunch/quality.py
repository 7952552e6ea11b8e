"""Measures of the difference of two pictures, and synthetic photos."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fxprofile.crunch.codec.pixels import fitted
from fxprofile.crunch.limits import Fit
from fxprofile.model.keys import VARIANTS
from tests.corpus.drawing import grain

Plane = NDArray[np.float64]


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Return the PSNR over all channels, in decibels; at most 99."""
    difference = _planes(one) - _planes(other)
    error = float(np.mean(difference**2))
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Return the SSIM of the brightness, in windows of 8 x 8 (Wang et al., 2004)."""
    a, b = (_planes(image.convert("L"))[..., 0] for image in (one, other))
    if min(a.shape) < 8:
        return 1.0
    mean_a, mean_b = _means(a), _means(b)
    var_a, var_b = _means(a * a) - mean_a**2, _means(b * b) - mean_b**2
    both = _means(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    return float(np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))))


def _planes(image: Image.Image) -> Plane:
    return np.asarray(image.convert("RGB") if image.mode != "L" else image, np.float64).reshape(
        image.height, image.width, -1
    )


def _means(plane: Plane, size: int = 8) -> Plane:
    sums = np.cumsum(np.cumsum(np.pad(plane, ((1, 0), (1, 0))), 0), 1)
    whole = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return whole / size**2


def squared(image: Image.Image) -> Image.Image:
    """Return the square in the centre of a picture."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def reference(data: bytes, fit: Fit = "inside") -> dict[str, Image.Image]:
    """Return each size, made by a full decode, perhaps a crop, and one Lanczos resize."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if fit == "cover":
        image = squared(image)
    return {
        name: image.resize(fitted(*image.size, box), Image.Resampling.LANCZOS)
        for name, (_, box) in VARIANTS.items()
    }


@cache
def natural(width: int, height: int, seed: int) -> Image.Image:
    """
    Return a picture with the spectrum of a photo.

    Its amplitudes fall with the frequency; it has some edges, and the noise of a sensor.
    """
    numbers = np.random.default_rng(seed)
    side = 512
    y, x = (np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    falls = 1 / np.maximum(np.hypot(x, y), 1 / side) ** 1.6
    planes = []
    common = numbers.normal(size=(side, side))
    for _ in range(3):
        noise = 0.85 * common + 0.5 * numbers.normal(size=(side, side))
        plane = np.fft.ifft2(np.fft.fft2(noise) * falls).real
        planes.append((plane - plane.mean()) / plane.std() * 50 + 120)
    small = Image.fromarray(np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    things = Image.new("L", (width // 2, height // 2))
    for _ in range(12):
        cx, cy = numbers.integers(0, width // 2), numbers.integers(0, height // 2)
        radius = int(numbers.integers(5, max(6, width // 12)))
        disc = (
            Image.radial_gradient("L")
            .resize((2 * radius, 2 * radius))
            .point(lambda v: 255 * (v < 180))
        )
        things.paste(int(numbers.integers(30, 200)), (int(cx - radius), int(cy - radius)), disc)
    shade = image.point(lambda v: v * 0.55)
    image.paste(shade, (0, 0), things.resize((width, height), Image.Resampling.BICUBIC))
    return Image.blend(image, Image.merge("RGB", [grain(width, height, 6)] * 3), 0.04)
