#!/usr/bin/env python3
"""
Draw the default avatar: a quiet silhouette that looks right in a circle and in a square.

    python etc/default-avatar/draw.py [DIRECTORY]

writes 100.png, 200.png and 600.png, by default to where the images role reads them.  It
needs Pillow and NumPy.  Every shape is a distance function, so each size is drawn for
itself, with smooth edges, and not shrunk from another.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = (100, 200, 600)
DIRECTORY = Path(__file__).parents[2] / "fxprofile/images/default"

# Colours from the top to the bottom of the picture, as sRGB.
SKY = ((0xAF, 0xBD, 0xF0), (0x78, 0x86, 0xCC))
HEAD = ((0xFF, 0xFF, 0xFF), (0xF0, 0xF3, 0xFE))
BODY = ((0xF8, 0xFA, 0xFF), (0xB2, 0xBE, 0xEC))

# Shapes in units of the side.  The shoulders keep clear of the head by GAP.
HEAD_AT, HEAD_RADIUS = (0.5, 0.39), 0.17
BODY_AT, BODY_RADII, BODY_POWER = (0.5, 1.0), (0.355, 0.455), 2.2
GAP = 0.042
ROUND = 0.024
BODY_TOP = HEAD_AT[1] + HEAD_RADIUS + GAP


def draw(side: int) -> Image.Image:
    """One size, in RGB."""
    axis = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(axis, axis)
    head = np.hypot(x - HEAD_AT[0], y - HEAD_AT[1]) - HEAD_RADIUS
    shoulders = _superellipse(x, y)
    # The shoulders give way to a ring around the head.
    shoulders = _both(shoulders, GAP - head)
    picture = _gradient(SKY, axis, side)
    picture = _over(
        picture, _gradient(BODY, (axis - BODY_TOP) / (1 - BODY_TOP), side), shoulders, side
    )
    top = HEAD_AT[1] - HEAD_RADIUS
    picture = _over(picture, _gradient(HEAD, (axis - top) / (2 * HEAD_RADIUS), side), head, side)
    return Image.fromarray(np.rint(picture).astype(np.uint8), "RGB")


def _superellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """About the distance to the edge of the shoulders; negative inside."""
    u, v = (x - BODY_AT[0]) / BODY_RADII[0], (y - BODY_AT[1]) / BODY_RADII[1]
    n = BODY_POWER
    f = (np.abs(u) ** n + np.abs(v) ** n) ** (1 / n)
    # Divided by the length of its gradient, f - 1 is a distance to first order.
    safe = np.maximum(f, 1e-6) ** (n - 1)
    du = np.sign(u) * np.abs(u) ** (n - 1) / safe / BODY_RADII[0]
    dv = np.sign(v) * np.abs(v) ** (n - 1) / safe / BODY_RADII[1]
    return (f - 1) / np.maximum(np.hypot(du, dv), 1e-6)


def _both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distance to where two shapes overlap, with the corners rounded."""
    blend = np.maximum(ROUND - np.abs(one - other), 0) / ROUND
    return np.maximum(one, other) + blend * blend * ROUND / 4


def _gradient(colours: tuple[tuple[int, ...], ...], along: np.ndarray, side: int) -> np.ndarray:
    """Rows of one colour each: they cost next to nothing in a PNG."""
    first, last = (np.array(colour, dtype=float) for colour in colours)
    share = np.clip(along, 0, 1)[:, np.newaxis]
    rows = np.rint(first + (last - first) * share)
    return np.repeat(rows[:, np.newaxis, :], side, axis=1)


def _over(below: np.ndarray, above: np.ndarray, distance: np.ndarray, side: int) -> np.ndarray:
    """Paint where the distance is negative, with an edge one pixel wide."""
    cover = np.clip(0.5 - distance * side, 0, 1)[:, :, np.newaxis]
    return below + (above - below) * cover


def save(picture: Image.Image, path: Path) -> None:
    """Write the smallest PNG of a few ways to write it."""
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_RLE):
        written = path.with_suffix(".new")
        picture.save(written, "PNG", compress_level=9, compress_type=strategy)
        if not path.exists() or written.stat().st_size < path.stat().st_size:
            written.replace(path)
        else:
            written.unlink()


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        path = directory / f"{side}.png"
        path.unlink(missing_ok=True)
        save(draw(side), path)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
