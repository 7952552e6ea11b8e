"""
Other ways to make three PNGs of an image, for the crunch benchmark.

As a program, it measures one way with one image and prints the result as JSON.
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


def pillow(path: str) -> dict[str, bytes]:
    """Plain Pillow: decode, orient, one thumbnail per size, save."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "LA", "RGB", "RGBA"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    found = {}
    for name, box in BOXES.items():
        picture = upright.copy()
        picture.thumbnail((box, box), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "PNG")
        found[name] = file.getvalue()
    return found


def vips(path: str) -> dict[str, bytes]:
    """libvips: shrink on load, each size from the one before, filters chosen by row."""
    import pyvips

    data = Path(path).read_bytes()
    options: dict[str, Any] = {"height": 600, "size": "down"}
    header = pyvips.Image.new_from_buffer(data, "")
    if "icc-profile-data" in header.get_fields() or header.interpretation == "cmyk":
        options["output_profile"] = "srgb"
    picture = pyvips.Image.thumbnail_buffer(data, 600, **options).copy_memory()
    found = {}
    for name, box in BOXES.items():
        if max(picture.width, picture.height) > box:
            picture = picture.thumbnail_image(box, height=box, size="down", no_rotate=True)
            picture = picture.copy_memory()
        found[name] = picture.pngsave_buffer(compression=3, filter="all", keep="none")
    return found


def graphicsmagick(path: str) -> dict[str, bytes]:
    """As the original service did: identify and convert in a process each, for each size."""
    found = {}
    for name, box in BOXES.items():
        subprocess.run(["gm", "identify", path], check=True, capture_output=True)
        done = subprocess.run(
            ["gm", "convert", f"{path}[0]", "-resize", f"{box}x{box}>", "+profile", "*", "png:-"],
            check=True,
            capture_output=True,
        )
        found[name] = done.stdout
    return found


WAYS: dict[str, Callable[[str], dict[str, bytes]]] = {
    "pillow": pillow,
    "vips": vips,
    "gm": graphicsmagick,
}


def measured(way: Callable[[str], dict[str, bytes]], path: str, rounds: int) -> dict[str, Any]:
    """Return the cost of each round, after one that does not count."""
    pictures = way(path)
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), _cpu()
        pictures = way(path)
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


def run(name: str, path: str, rounds: int) -> dict[str, Any] | None:
    """Measure a way in a process of its own; None if it fails."""
    environment = {**os.environ, "VIPS_CONCURRENCY": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crunch_rivals", name, path, str(rounds)],
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
    print(json.dumps(measured(WAYS[sys.argv[1]], sys.argv[2], int(sys.argv[3]))))
