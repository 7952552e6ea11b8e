"""Generated pictures that resemble those of users."""

from __future__ import annotations

import io
from functools import cache

from PIL import Image, ImageDraw


def _bytes(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a picture with colours, edges and gradients."""
    small = Image.effect_mandelbrot((width // 8, height // 8), (-2.2, -1.4, 0.8, 1.4), 60)
    red = small.resize((width, height), Image.Resampling.BICUBIC)
    green = Image.linear_gradient("L").resize((width, height))
    blue = Image.radial_gradient("L").resize((width, height))
    image = Image.merge("RGB", (red, green, blue))
    ImageDraw.Draw(image).ellipse((width // 4, 0, width // 2, height // 3), fill=(250, 30, 30))
    return image.convert(mode)


@cache
def jpeg(width: int = 800, height: int = 600, mode: str = "RGB") -> bytes:
    return _bytes(scene(width, height, mode), format="JPEG", quality=90)


@cache
def phone_photo() -> bytes:
    """12 megapixels, held upright: the sensor's rows are the picture's columns."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn clockwise by 90 degrees.
    exif[0x010F] = "Telephone & Sons"  # Make
    return _bytes(scene(4032, 3024), format="JPEG", quality=92, exif=exif)


def animated_gif() -> bytes:
    """Three frames: red, green, blue."""
    frames = [Image.new("RGB", (320, 200), colour) for colour in ("red", "green", "blue")]
    return _bytes(frames[0], format="GIF", save_all=True, append_images=frames[1:], duration=100)


def cmyk_jpeg() -> bytes:
    """Plain red, in inks."""
    return _bytes(Image.new("CMYK", (400, 300), (0, 255, 255, 0)), format="JPEG", quality=95)


@cache
def other_formats() -> dict[str, bytes]:
    image = scene(640, 480)
    return {
        "image/png": _bytes(image, format="PNG"),
        "image/webp": _bytes(image, format="WEBP"),
        "image/avif": _bytes(image, format="AVIF"),
        "image/gif": _bytes(image.convert("P"), format="GIF"),
    }


@cache
def heic() -> bytes:
    """As an iPhone takes it; needs the package pillow-heif."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    return _bytes(scene(640, 480), format="HEIF", quality=80)


def opened(data: bytes, kind: str = "PNG") -> Image.Image:
    """The image of these bytes, which must be of this format."""
    image = Image.open(io.BytesIO(data), formats=(kind,))
    image.load()
    return image
