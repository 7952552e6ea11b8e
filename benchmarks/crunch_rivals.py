"""
Other ways to make three PNGs of an image, for the crunch benchmark.

As a program, it measures one way with one image and prints the result as JSON.  Each way takes
the path of the image, and whether to show only the square in its centre.
"""

from __future__ import annotations

import base64
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BOXES = {"large": 600, "default": 200, "small": 100}


def pillow(path: str, cover: bool) -> dict[str, bytes]:
    """Plain Pillow: decode, orient, crop, one thumbnail per size, save."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "LA", "RGB", "RGBA"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    if cover:
        upright = upright.crop(_centre(*upright.size))
    found = {}
    for name, box in BOXES.items():
        picture = upright.copy()
        picture.thumbnail((box, box), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "PNG")
        found[name] = file.getvalue()
    return found


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the edges of the square in the centre."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def vips(path: str, cover: bool) -> dict[str, bytes]:
    """libvips: shrink on load, each size from the one before, filters chosen by row."""
    import pyvips

    data = Path(path).read_bytes()
    options: dict[str, Any] = {"height": 600, "size": "down"}
    header = pyvips.Image.new_from_buffer(data, "")
    if "icc-profile-data" in header.get_fields() or header.interpretation == "cmyk":
        options["output_profile"] = "srgb"
    side = 600
    if cover:
        options["crop"] = "centre"
        # A larger box would leave a smaller picture as it is, uncropped.
        side = options["height"] = min(side, header.width, header.height)
    picture = pyvips.Image.thumbnail_buffer(data, side, **options).copy_memory()
    found = {}
    for name, box in BOXES.items():
        if max(picture.width, picture.height) > box:
            picture = picture.thumbnail_image(box, height=box, size="down", no_rotate=True)
            picture = picture.copy_memory()
        found[name] = picture.pngsave_buffer(compression=3, filter="all", keep="none")
    return found


def graphicsmagick(path: str, cover: bool) -> dict[str, bytes]:
    """As the original service did: identify and convert in a process each, for each size."""
    found = {}
    for name, box in BOXES.items():
        identify = ["gm", "identify", "-format", "%w %h\n", path]
        said = subprocess.run(identify, check=True, capture_output=True).stdout
        crop = []
        if cover:
            left, top, right, bottom = _centre(*map(int, said.split()[:2]))
            crop = ["-crop", f"{right - left}x{bottom - top}+{left}+{top}"]
        resize = [*crop, "-resize", f"{box}x{box}>", "+profile", "*", "png:-"]
        done = subprocess.run(
            ["gm", "convert", f"{path}[0]", *resize], check=True, capture_output=True
        )
        found[name] = done.stdout
    return found


Way = Callable[[str, bool], dict[str, bytes]]

WAYS: dict[str, Way] = {
    "pillow": pillow,
    "vips": vips,
    "gm": graphicsmagick,
}


def measured(way: Way, path: str, rounds: int, cover: bool) -> dict[str, Any]:
    """Return the cost of each round, after one that does not count."""
    pictures = way(path, cover)
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), _cpu()
        pictures = way(path, cover)
        walls.append(time.perf_counter() - wall)
        cpus.append(_cpu() - cpu)
    if way is graphicsmagick:
        resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    else:
        # The resource usage of this process would include that before its exec.
        status = Path("/proc/self/status").read_text()
        resident = int(status.split("VmHWM:")[1].split()[0]) << 10
    return {
        "wall": walls,
        "cpu": cpus,
        "resident": resident,
        "pictures": {name: base64.b64encode(body).decode() for name, body in pictures.items()},
    }


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def run(name: str, path: str, rounds: int, fit: str) -> dict[str, Any] | None:
    """Measure a way in a process of its own; None if it fails."""
    environment = {**os.environ, "VIPS_CONCURRENCY": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crunch_rivals", name, path, str(rounds), fit],
        env=environment,
        capture_output=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    found["pictures"] = {n: base64.b64decode(body) for n, body in found["pictures"].items()}
    return found


if __name__ == "__main__":
    if sys.argv[1] == "vips":
        import pyvips

        pyvips.cache_set_max(0)
    name, path, rounds, fit = sys.argv[1:]
    print(json.dumps(measured(WAYS[name], path, int(rounds), fit == "cover")))
