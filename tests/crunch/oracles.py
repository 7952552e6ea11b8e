"""
Independent decoders to compare our pictures with: libvips, and the canvas of Chromium.

Neither shares code with Pillow's readers, so a result on which all agree is taken as correct.
"""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pyvips
from PIL import Image

from fxprofile.crunch.codec.containers import read_container
from fxprofile.crunch.limits import Limits, Refused
from tests.browser import chromium

#: The longest side of compared pictures, in pixels: that of the large size.
SIDE = 600

#: The most pixels that an oracle decodes.
MAX_PIXELS = 50_000_000

#: The timeout of Chromium for one picture, in seconds.
PATIENCE = 10

_PAGE = "about:blank"

_DECODE = """
const [data, type, patience, done] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const address = URL.createObjectURL(new Blob([bytes], { type }));
const image = new Image();
const timer = setTimeout(() => done(null), 1000 * patience);
image.onload = () => {
  clearTimeout(timer);
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const scale = Math.min(1, 1200 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  done(canvas.toDataURL("image/png").split(",")[1]);
};
image.onerror = () => { clearTimeout(timer); done(null); };
image.src = address;
"""


def claimed_pixels(data: bytes) -> int | None:
    """Return how many pixels an image claims to have; None if no reader knows."""
    try:
        width, height = read_container(data, Limits()).canvas
    except Refused:
        try:
            # Only the header is read until pixels are wanted.
            header: Any = pyvips.Image.new_from_buffer(data, "")
        except pyvips.Error:
            return None
        width, height = header.width, header.height
    return width * height


def by_chromium(data: bytes, media_type: str) -> Image.Image | None:
    """Return the picture that Chromium draws on a canvas; None if it shows none."""
    arguments = (b64encode(data).decode(), media_type, PATIENCE)
    browser = chromium.shared()
    if browser.current_url != _PAGE:
        # The policy of another test's page may forbid pictures from memory.
        browser.get(_PAGE)
    drawn: Any = browser.execute_async_script(_DECODE, *arguments)
    return None if drawn is None else Image.open(io.BytesIO(b64decode(drawn))).convert("RGBA")


def by_vips(data: bytes) -> Image.Image | None:
    """Return the picture that libvips decodes, oriented and in sRGB; None if it refuses it."""
    try:
        image: Any = pyvips.Image.new_from_buffer(data, "")
        if image.width * image.height > MAX_PIXELS:
            return None
        image = image.autorot()
        if image.get_typeof("icc-profile-data"):
            image = image.icc_transform("srgb", embedded=True)
        else:
            image = image.colourspace("srgb")
        image = image.cast("uchar")
        if image.bands < 3:
            image = image[0].bandjoin([image[0], image[0], *image.bandsplit()[1:]])
        if image.bands == 3:
            image = image.bandjoin(255)
        pixels = image.write_to_memory()
    except pyvips.Error:
        return None
    return Image.frombytes("RGBA", (image.width, image.height), pixels)


def difference(ours: Image.Image, other: Image.Image) -> str | None:
    """
    Return how our large size differs from another decoder's picture.

    :returns: None if the sides agree within one pixel, the signal to noise ratio is at least
        30 dB, and no mean of a block is off by more than 6 of 255.
    """
    scale = min(1, SIDE / max(other.size))
    if any(abs(a - max(1, b * scale)) > 1.01 for a, b in zip(ours.size, other.size, strict=True)):
        return f"{ours.size} for {other.size}"
    off = _on_grey(ours, ours.size) - _on_grey(other, ours.size)
    noise = float((off**2).mean())
    ratio = 99.0 if not noise else 10 * np.log10(255**2 / noise)
    blocks = [
        float(np.abs(off[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1].mean(axis=(0, 1))).max())
        for ys in np.array_split(np.arange(ours.height), min(8, ours.height))
        for xs in np.array_split(np.arange(ours.width), min(8, ours.width))
    ]
    if ratio < 30 or max(blocks) > 6:
        return f"{ratio:.0f} dB, a block off by {max(blocks):.0f}"
    return None


def _on_grey(image: Image.Image, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the picture at a size, on a grey background that reveals transparency."""
    picture = image.convert("RGBA")
    if picture.size != size:
        picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    ground = Image.new("RGBA", size, (128, 128, 128, 255))
    ground.alpha_composite(picture)
    return np.asarray(ground.convert("RGB")).astype(np.float32)
