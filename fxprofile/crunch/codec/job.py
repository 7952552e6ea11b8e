"""
The job of a child: one image in, one result out.

This runs in a fresh locked process.  It has two files, no names to find others by, and
nothing else; whatever it does wrong ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO

from PIL import Image

from fxprofile.crunch import result
from fxprofile.crunch.codec import extras, pixels, png
from fxprofile.crunch.codec.decoders import FORMATS, prepare
from fxprofile.crunch.codec.headers import Buffer
from fxprofile.crunch.codec.placeholder import blurhash
from fxprofile.crunch.limits import MAX_BYTES, SIZES, Limits, Refused
from fxprofile.model.avatars import Variant

#: The descriptors that a child has, by number.
INPUT, OUTPUT, STDERR, CONTROL, STATUS = range(5)


def run(data: Buffer, limits: Limits) -> None:
    """
    Crunch an image and write a result to :data:`OUTPUT`.

    :param data: the image, mapped and not yet looked at.

    What this raises is a mistake of ours, and ends the child as a crash.
    """
    write(OUTPUT, result.encode(crunch(data, limits)))


def crunch(data: Buffer, limits: Limits) -> result.Outcome:
    """
    Crunch an image.

    :returns: what came of it, refusals and want of memory included.
    """
    try:
        source, images = pixels.reduced(data, limits)
    except Refused as refused:
        return result.Outcome(reason=refused.reason, detail=str(refused), peak=_peak())
    except MemoryError as error:
        return result.Outcome(reason="memory", detail=str(error), peak=_peak())
    made: dict[str, dict[str, tuple[Variant, bytes]]] = {}
    for form in ("png", *limits.formats):
        made[form] = _encoded(images, form)
        for name, (variant, _) in made[form].items():
            if variant.bytes > MAX_BYTES[name]:
                detail = f"{name} has {variant.bytes} bytes in {form}"
                return result.Outcome(reason="too_large", detail=detail)
    return result.Outcome(
        kind=source.kind,
        sides=(source.width, source.height),
        peak=_peak(),
        placeholder=blurhash(images[SIZES[-1]]),
        pictures=made.pop("png"),
        extras=made,
    )


def _encoded(images: Mapping[str, Image.Image], form: str) -> dict[str, tuple[Variant, bytes]]:
    """Each size in this format."""
    bodies: dict[int, bytes] = {}
    pictures = {}
    for name, image in images.items():
        # A small picture is the same object in every size.
        if id(image) not in bodies:
            bodies[id(image)] = png.encode(image) if form == "png" else extras.encode(image, form)
        body = bodies[id(image)]
        pictures[name] = (Variant(image.width, image.height, len(body)), body)
    return pictures


def write(descriptor: int, data: bytes) -> None:
    """Write all of this."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _peak() -> int:
    """
    The most address space that this process ever had, in bytes; 0 if nobody tells.

    The memory limit is one of address space, so this is what comes near it.
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
    Import, allocate and set up, in the helper, whatever a job would otherwise do first.

    The pictures that this decodes are its own.
    """
    # However little an upload may have, our own is allowed.
    allowed = replace(limits, max_pixels=1 << 16, max_side=1 << 8, max_scans=1 << 8)
    prepare(allowed)
    drawing = Image.new("RGBA", (64, 48), (200, 100, 50, 128))
    drawing.putpixel((1, 1), (0, 0, 0, 255))
    for name, mode in (*((name, "RGB") for name in FORMATS.values()), ("PNG", "RGBA")):
        if name == "HEIF":
            continue
        file = BytesIO()
        drawing.convert(mode).save(file, name)
        _, images = pixels.reduced(file.getvalue(), allowed)
        for image in images.values():
            png.encode(image)
            blurhash(image)
            for form in limits.formats:
                extras.encode(image, form)
    png.encode(Image.radial_gradient("L").convert("RGB"))
    prepare(limits)
