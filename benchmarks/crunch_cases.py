"""The inputs of the crunch benchmark: made here, so that they are the same everywhere."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from tests.corpus.drawing import exif, saved
from tests.corpus.jpeg import wide_gamut
from tests.crunch.quality import natural


@dataclass(frozen=True)
class Case:
    """
    An input.

    :ivar opaque_photo: whether its quality can be compared with one resize.
    :ivar target: how many times faster than GraphicsMagick it must be, if that is specified.
    :ivar weight: how often it is in the load of the throughput runs.
    """

    name: str
    make: Callable[[], bytes]
    opaque_photo: bool = False
    target: float | None = None
    weight: int = 0


def screenshot(width: int, height: int) -> Image.Image:
    """Return windows with text."""
    image = Image.new("RGB", (width, height), (60, 90, 130))
    draw = ImageDraw.Draw(image)
    for number in range(4):
        left, top = width * number // 6, height * number // 7
        draw.rounded_rectangle(
            (left + 20, top + 20, left + width // 2, top + height // 2),
            12,
            fill=(245, 245, 240),
            outline=(90, 90, 90),
        )
        font = ImageFont.load_default(15)
        for line in range(height // 2 // 22 - 2):
            text = f"{line:3} The quick brown fox jumps over the lazy dog {line * 7919 % 1000}"
            draw.text((left + 34, top + 34 + 22 * line), text, fill=(30, 30, 40), font=font)
    return image


def icon(side: int) -> Image.Image:
    """Return flat shapes on a transparent background."""
    image = Image.new("RGBA", (side * 2, side * 2), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((side // 5, side // 5, side * 9 // 5, side * 9 // 5), fill=(240, 120, 20, 255))
    draw.polygon(
        [(side, side // 2), (side * 3 // 2, side * 3 // 2), (side // 2, side * 3 // 2)],
        fill=(255, 255, 255, 255),
    )
    return image.resize((side, side), Image.Resampling.LANCZOS)


def chart(width: int, height: int) -> Image.Image:
    """Return bars and a line on white, with labels."""
    big = Image.new("RGB", (width * 2, height * 2), "white")
    draw = ImageDraw.Draw(big)
    points = []
    for number in range(12):
        left = width * 2 * (number + 1) // 14
        top = height * 2 - height * (3 + number * 7919 % 11) // 8
        colour = ((200, 80, 60), (60, 120, 200), (90, 170, 90))[number % 3]
        draw.rectangle((left, top, left + width // 10, height * 19 // 10), fill=colour)
        points.append((left, top - height // 9))
    draw.line(points, fill=(40, 40, 50), width=height // 60, joint="curve")
    image = big.resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(height / 28)
    for number in range(12):
        at = (width * (number + 1) // 14, height * 96 // 100)
        draw.text(at, f"{2013 + number}", fill=(40, 40, 50), font=font)
    return image


def logo(side: int) -> Image.Image:
    """Return rings and letters in five colours, with hard edges."""
    image = Image.new("P", (side, side), 0)
    image.putpalette([250, 250, 250, 30, 60, 120, 240, 180, 40, 200, 40, 60, 20, 20, 20])
    draw = ImageDraw.Draw(image)
    for number, part in enumerate((0.48, 0.4, 0.3), 1):
        edge = side * (0.5 - part)
        draw.ellipse((edge, edge, side - edge, side - edge), fill=number)
    font = ImageFont.load_default(side / 3)
    draw.text((side / 2, side / 2), "Fx", fill=4, font=font, anchor="mm")
    return image


def animation(side: int, frames: int) -> bytes:
    file = io.BytesIO()
    image = natural(side, side, 3).convert("P", palette=Image.Palette.ADAPTIVE)
    others = [image.rotate(number) for number in range(1, frames)]
    image.save(file, "GIF", save_all=True, append_images=others, duration=50)
    return file.getvalue()


def cases() -> Iterator[Case]:
    """Yield all cases."""

    def jpeg(width: int, height: int, seed: int = 1, **options: object) -> Callable[[], bytes]:
        return lambda: saved(natural(width, height, seed), "JPEG", **({"quality": 88} | options))

    yield Case("JPEG 0.16 MP", jpeg(400, 400), True, weight=1)
    yield Case("JPEG 0.36 MP", jpeg(600, 600, 2), True, 7, weight=2)
    yield Case(
        "JPEG 0.43 MP, wide gamut",
        lambda: saved(natural(800, 533, 3), "JPEG", icc_profile=wide_gamut()),
    )
    yield Case("JPEG 0.43 MP, CMYK", lambda: saved(natural(800, 533, 3).convert("CMYK"), "JPEG"))
    yield Case("JPEG 2 MP", jpeg(1600, 1250, 4), True, 9, weight=2)
    yield Case("JPEG 2 MP, grey", lambda: saved(natural(1600, 1250, 4).convert("L"), "JPEG"), True)
    yield Case("JPEG 12 MP", jpeg(4000, 3000, 5), True, 16, weight=2)
    yield Case("JPEG 12 MP, rotated", jpeg(4000, 3000, 5, exif=exif(6)), False, 16)
    yield Case("JPEG 12 MP, progressive", jpeg(4000, 3000, 5, progressive=True), True)
    yield Case("JPEG 48 MP", jpeg(8000, 6000, 6), True)
    yield Case("PNG 0.36 MP", lambda: saved(natural(600, 600, 2), "PNG"), True, 4.5, weight=2)
    yield Case("PNG 2 MP", lambda: saved(natural(1600, 1250, 4), "PNG"), True, 4.5)
    yield Case(
        "PNG 12 MP", lambda: saved(natural(4000, 3000, 5), "PNG", compress_level=3), True, 4.5
    )
    yield Case("PNG 1.3 MP, screenshot", lambda: saved(screenshot(1440, 900), "PNG"))
    yield Case(
        "PNG 1.3 MP, opaque alpha", lambda: saved(natural(1440, 900, 7).convert("RGBA"), "PNG")
    )
    yield Case("PNG 0.64 MP, icon", lambda: saved(icon(800), "PNG"))
    yield Case("PNG 1.9 MP, chart", lambda: saved(chart(1600, 1200), "PNG"))
    yield Case(
        "WebP 2 MP", lambda: saved(natural(1600, 1250, 4), "WEBP", quality=85), True, 4.5, weight=1
    )
    yield Case(
        "WebP 16 MP", lambda: saved(natural(4900, 3265, 8), "WEBP", quality=85, method=1), True
    )
    yield Case("GIF 1.2 MP", lambda: saved(natural(1280, 960, 9), "GIF"))
    yield Case("GIF 0.36 MP, logo", lambda: saved(logo(600), "GIF"))
    yield Case("GIF 0.16 MP, 44 frames", lambda: animation(400, 44))
    yield Case(
        "AVIF 2 MP", lambda: saved(natural(1600, 1250, 4), "AVIF", quality=75, speed=9), True
    )
