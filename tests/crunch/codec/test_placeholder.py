"""BlurHash placeholders."""

from __future__ import annotations

import math

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from fxprofile.crunch.codec.placeholder import _DIGITS, blurhash
from tests.corpus.drawing import CORNERS, drawing, photo


def decoded(text: str, width: int, height: int) -> list[list[tuple[int, ...]]]:
    """Decode a BlurHash as its specification says."""

    def number(start: int, end: int) -> int:
        found = 0
        for digit in text[start:end]:
            found = found * 83 + _DIGITS.index(digit)
        return found

    def light(value: int) -> float:
        v = value / 255
        return v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4

    def shown(value: float) -> int:
        v = min(1.0, max(0.0, value))
        return round(255 * (v * 12.92 if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055))

    across, down = number(0, 1) % 9 + 1, number(0, 1) // 9 + 1
    most = (number(1, 2) + 1) / 166
    mean = number(2, 6)
    waves = [tuple(light(mean >> shift & 255) for shift in (16, 8, 0))]
    for at in range(6, 4 + 2 * across * down, 2):
        value = number(at, at + 2)
        steps = ((value // 361) - 9, (value // 19 % 19) - 9, (value % 19) - 9)
        waves.append(tuple(math.copysign((s / 9) ** 2, s) * most for s in steps))
    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            pixel = [0.0, 0.0, 0.0]
            for j in range(down):
                for i in range(across):
                    basis = math.cos(math.pi * x * i / width) * math.cos(math.pi * y * j / height)
                    for channel in range(3):
                        pixel[channel] += waves[i + j * across][channel] * basis
            row.append(tuple(map(shown, pixel)))
        rows.append(row)
    return rows


class BlurhashTests(SynchronousTestCase):
    """Encoding a picture in 28 characters."""

    def test_corners_keep_their_colours(self) -> None:
        """Each corner of the decoded picture is nearest to its own colour."""
        rows = decoded(blurhash(drawing(100, 62)), 32, 20)
        places = [rows[y][x] for y in (4, 15) for x in (6, 25)]
        for place, pixel in enumerate(places):
            far = [math.dist(pixel, colour) for colour in CORNERS]
            self.assertEqual(far.index(min(far)), place)

    def test_one_colour_stays_that_colour(self) -> None:
        """A picture of one colour decodes to about that colour."""
        for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 90)):
            for row in decoded(blurhash(Image.new("RGB", (100, 50), colour)), 8, 4):
                for pixel in row:
                    self.assertLess(math.dist(pixel, colour), 25)

    def test_every_mode_and_size_is_encoded(self) -> None:
        """Pictures of every mode and size encode to 28 characters."""
        for mode in ("L", "LA", "RGB", "RGBA"):
            for sides in ((1, 1), (100, 1), (1, 100), (600, 400)):
                text = blurhash(
                    photo(*sides).convert(mode) if min(sides) > 4 else Image.new(mode, sides)
                )
                self.assertEqual(len(text), 28)
                self.assertTrue(set(text) <= set(_DIGITS))

    def test_transparency_is_white(self) -> None:
        """Transparent pixels count as white."""
        clear = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
        self.assertEqual(blurhash(clear), blurhash(Image.new("RGB", (50, 50), "white")))
