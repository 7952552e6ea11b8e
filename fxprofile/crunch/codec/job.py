"""
The job of a child: read one image, write one result file.

This runs in a fresh locked process, which has the descriptors below and cannot open others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Final

from PIL import Image

from fxprofile.crunch.codec import pixels, png
from fxprofile.crunch.codec.containers.contents import Buffer
from fxprofile.crunch.codec.decoders import prepare
from fxprofile.crunch.codec.placeholder import blurhash
from fxprofile.crunch.limits import MAX_BYTES, SIZES, Limits, Refused
from fxprofile.crunch.result import LENGTH, MAX_DETAIL, CrunchOutcome
from fxprofile.crunch.signature import MEDIA_TYPES
from fxprofile.model.avatars import Pictures, Variant

#: The descriptors of a child, by number.
INPUT, OUTPUT, STDERR, CONTROL, STATUS = range(5)

#: How to encode the output formats other than PNG: to the eye about as good as a JPEG of
#: quality 85.  They are off by default.  WebP has a seventh and AVIF a tenth of the bytes of
#: a photo's PNG; AVIF takes the longest.
_OPTIONS: Final[Mapping[str, Mapping[str, int]]] = {
    # Method 6 takes seconds for some pictures with alpha.
    "webp": {"quality": 85, "method": 2, "alpha_quality": 95},
    "avif": {"quality": 70, "speed": 8, "max_threads": 1},
}


def run(data: Buffer, limits: Limits) -> None:
    """
    Crunch an image and write a result file to :data:`OUTPUT`.

    An exception is our own fault, and ends the child as a crash.

    :param data: the mapped image, not yet read.
    """
    write(OUTPUT, encode_result(crunch(data, limits)))


def crunch(data: Buffer, limits: Limits) -> CrunchOutcome:
    """Crunch an image; refusals and a lack of memory are outcomes too."""
    try:
        contents, images = pixels.reduced(data, limits)
    except Refused as refused:
        return CrunchOutcome(refused.reason, str(refused), peak=_peak())
    except MemoryError as error:
        return CrunchOutcome("memory", str(error), peak=_peak())
    pictures: dict[str, Pictures] = {}
    for form in ("png", *limits.formats):
        pictures[form] = encode_sizes(images, form)
        for name, (variant, _) in pictures[form].items():
            if variant.bytes > MAX_BYTES[name]:
                return CrunchOutcome("too_large", f"{name} has {variant.bytes} bytes in {form}")
    return CrunchOutcome(
        kind=contents.kind,
        sides=contents.shown,
        peak=_peak(),
        placeholder=blurhash(images[SIZES[-1]]),
        pixels=digest(images[SIZES[0]]),
        pictures=pictures,
    )


def digest(image: Image.Image) -> str:
    """
    Return the SHA-256 of a picture's sides and its pixels in RGBA, in hex.

    Files that decode to the same pixels have the same digest; format and metadata do not matter.
    """
    found = hashlib.sha256(b"%d %d\n" % image.size)
    found.update(image.convert("RGBA").tobytes())
    return found.hexdigest()


def encode_sizes(images: Mapping[str, Image.Image], form: str) -> Pictures:
    """Encode each size in one format."""
    bodies: dict[int, bytes] = {}
    pictures = {}
    trials = png.Trials()
    for name in reversed(SIZES):
        image = images[name]
        # A small picture is the same object in every size.
        if id(image) not in bodies:
            bodies[id(image)] = encode(image, form, trials)
        body = bodies[id(image)]
        pictures[name] = (Variant(image.width, image.height, len(body)), body)
    return pictures


def encode(image: Image.Image, form: str, trials: png.Trials | None = None) -> bytes:
    """
    Encode a picture, without any metadata.

    :param image: of mode L, LA, RGB or RGBA.
    :param form: a name of :data:`fxprofile.model.keys.FORMATS`.
    :param trials: of the smaller sizes of the picture.
    """
    if form == "png":
        return png.encode(image, trials)
    file = BytesIO()
    picture = image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB")
    # Pillow's encoders would write some of the metadata of the source.
    picture.info.clear()
    picture.save(file, form.upper(), **_OPTIONS[form])
    return file.getvalue()


def encode_result(outcome: CrunchOutcome) -> bytes:
    """Return the result file of an outcome, which :mod:`fxprofile.crunch.result` describes."""
    header: dict[str, object] = {
        "v": 1,
        "kind": outcome.kind,
        "sides": outcome.sides,
        "peak": outcome.peak,
    }
    if outcome.reason is not None:
        header |= {"reason": outcome.reason, "detail": outcome.detail[:MAX_DETAIL]}
    else:
        header["placeholder"] = outcome.placeholder
        header["pixels"] = outcome.pixels
        header["pictures"] = {
            form: {name: [v.width, v.height, v.bytes] for name, (v, _) in made.items()}
            for form, made in outcome.pictures.items()
        }
    text = json.dumps(header).encode()
    bodies = [made[name][1] for made in outcome.pictures.values() for name in SIZES]
    return b"".join((LENGTH.pack(len(text)), text, *bodies))


def write(descriptor: int, data: bytes) -> None:
    """Write all of this."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _peak() -> int:
    """
    Return the peak of this process's address space, in bytes; 0 if unknown.

    The memory limit is one of address space, so this is what approaches it.
    """
    try:
        status = os.pread(STATUS, 1 << 12, 0)
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(b"VmPeak:"):
            return int(line.split()[1]) << 10
    return 0


def warm_up(limits: Limits) -> None:
    """
    Import, allocate and configure, in the helper, what a job would do for the first time.

    The only pictures that this decodes are its own.
    """
    # Our own pictures are accepted, however low the limits are.
    allowed = replace(limits, max_pixels=1 << 16, max_side=1 << 8, max_scans=1 << 8)
    prepare(allowed)
    drawing = Image.new("RGBA", (64, 48), (200, 100, 50, 128))
    drawing.putpixel((1, 1), (0, 0, 0, 255))
    for kind, mode in (*((kind, "RGB") for kind in MEDIA_TYPES), ("png", "RGBA")):
        file = BytesIO()
        drawing.convert(mode).save(file, kind.upper())
        _, images = pixels.reduced(file.getvalue(), allowed)
        for image in images.values():
            blurhash(image)
            digest(image)
            for form in ("png", *limits.formats):
                encode(image, form)
    png.encode(Image.radial_gradient("L").convert("RGB"))
    prepare(limits)
