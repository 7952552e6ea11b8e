"""The picture that most of the corpus shows, and checks of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests.corpus import Pictures

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 40), (40, 50, 210), (250, 250, 250)
#: The same values converted from the space of :func:`tests.corpus.jpeg.wide_gamut` to sRGB,
#: computed from the two sets of primaries.
NARROWED = ((255, 30, 30), (0, 200, 0), (35, 50, 214), (250, 250, 250))
#: Left to right, top to bottom.
CORNERS = (RED, GREEN, BLUE, WHITE)

#: For each EXIF orientation, how to store a picture so that it is shown upright (CIPA DC-008,
#: section 4.6.5).
STORED = {
    1: Image.Transpose.ROTATE_90,  # not used: stored as it is
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def drawing(width: int = 800, height: int = 500, mode: str = "RGB") -> Image.Image:
    """Return a picture with corners in four colours."""
    image = Image.new("RGB", (width, height))
    middle = (width // 2, height // 2)
    boxes = (
        (0, 0, *middle),
        (middle[0], 0, width, middle[1]),
        (0, middle[1], middle[0], height),
        (*middle, width, height),
    )
    for box, colour in zip(boxes, CORNERS, strict=True):
        image.paste(colour, box)
    return image if mode == "RGB" else image.convert(mode)


def grain(width: int, height: int, strength: float) -> Image.Image:
    """Return noise, the same each time."""
    numbers = np.random.default_rng(width * height)
    plane = numbers.normal(128, strength, (max(1, height), max(1, width)))
    return Image.fromarray(np.clip(plane, 0, 255).astype(np.uint8))


def photo(width: int = 800, height: int = 500) -> Image.Image:
    """Return a picture with as much detail as a photo."""
    noise = grain(width // 4, height // 4, 60).resize((width, height))
    ramp = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGB", (noise, ramp, Image.blend(noise, ramp, 0.5)))


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """Encode a picture as a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """Return EXIF with an orientation."""
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def shows(
    corners: Sequence[Sequence[int]] = CORNERS,
    tolerance: int = 14,
    sides: tuple[int, int] | None = None,
) -> Callable[[Pictures], None]:
    """Return a check of the colours of the four corners, in every size."""

    def check(pictures: Pictures) -> None:
        if sides is not None:
            found = pictures["large"].size
            assert found == sides, f"{found} is not {sides}"
        for name, picture in pictures.items():
            image = picture.convert("RGBA")
            width, height = image.size
            places = [(width * x // 8, height * y // 8) for y in (2, 6) for x in (2, 6)]
            for place, wanted in zip(places, corners, strict=True):
                pixel: Any = image.getpixel(place)
                off = max(abs(a - b) for a, b in zip(pixel, wanted, strict=False))
                assert off <= tolerance, f"{name} at {place}: {pixel} is not {wanted}"

    return check


def has_mode(mode: str) -> Callable[[Pictures], None]:
    """Return a check that there is alpha (``RGBA``) or none (``RGB``)."""

    def check(pictures: Pictures) -> None:
        for name, picture in pictures.items():
            found = "RGBA" if picture.has_transparency_data else "RGB"
            assert found == mode, f"{name} is {found}"

    return check


def has_sides(**sides: tuple[int, int]) -> Callable[[Pictures], None]:
    """Return a check of exact sides."""

    def check(pictures: Pictures) -> None:
        for name, wanted in sides.items():
            assert pictures[name].size == wanted, f"{name} is {pictures[name].size}"

    return check


def both(*checks: Callable[[Pictures], None]) -> Callable[[Pictures], None]:
    """Return a check that runs all of these."""

    def check(pictures: Pictures) -> None:
        for one in checks:
            one(pictures)

    return check
