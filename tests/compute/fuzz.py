"""
Fuzzing of our own parsers, guided by what they cover, with Atheris (which the tests do
not need).  Each target finds fault with what must not be: any error but the one that a
parser has for bad bytes, and any answer that a slower reckoning does not give.

    python -m tests.compute.fuzz sniff|jpeg|result|png [options of libFuzzer]
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["fxprofile.compute"]):
    from fxprofile.compute import headers, result, signature
    from fxprofile.compute.limits import MAX_BYTES, Refused
    from fxprofile.keys import VARIANTS


def sniff(data: bytes) -> None:
    """Only the first bytes count, and only kinds that are known come out."""
    kind = signature.sniff(data)
    assert kind is None or kind in signature.MEDIA_TYPES
    assert len(data) < signature.SIGNATURE_BYTES or kind == signature.sniff(
        data[: signature.SIGNATURE_BYTES]
    )
    headers.webp_sides(data[:30])


def jpeg(data: bytes) -> None:
    """A file is refused only if it has more of something than is allowed."""
    data = b"\xff\xd8\xff" + data
    try:
        headers.check_jpeg(data, max_scans=2)
    except Refused as refused:
        if refused.reason != "too_large":
            raise
        assert data.count(b"\xff\xda") > 2 or len(data) > 4000


def decode(data: bytes) -> None:
    """What is taken for a result is one to the last byte."""
    try:
        outcome = result.decode(data)
    except result.BadResult:
        return
    if outcome.reason is None:
        assert set(outcome.pictures) == set(VARIANTS)
    for name, (variant, body) in outcome.pictures.items():
        assert max(variant.width, variant.height) <= VARIANTS[name][1]
        assert variant.bytes == len(body) <= MAX_BYTES[name]


def png(data: bytes) -> None:
    """What is taken for a PNG of ours, the codec takes for one of these sides, if it can."""
    from PIL import Image

    try:
        sides = result.check_png(b"\x89PNG\r\n\x1a\n" + data)
    except result.BadResult:
        return
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        assert image.size == sides


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sniff": sniff,
    "jpeg": jpeg,
    "result": decode,
    "png": png,
}

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
