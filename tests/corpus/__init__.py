"""
Hostile and honest images with their expected outcomes, all made by the code in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

Pictures = dict[str, Image.Image]


@dataclass(frozen=True)
class Entry:
    """
    One input.

    :ivar make: returns its bytes.
    :ivar expected: the acceptable outcomes: ``ready`` or a reason.
    :ivar check: raises AssertionError if the pictures, if there are any, are wrong.
    :ivar absent: bytes that must not be in the pictures.
    :ivar slow: whether it takes seconds.
    """

    name: str
    make: Callable[[], bytes]
    expected: frozenset[str]
    check: Callable[[Pictures], None] | None = None
    absent: bytes = b""
    slow: bool = False


def entry(
    name: str,
    make: Callable[[], bytes],
    *expected: str,
    check: Callable[[Pictures], None] | None = None,
    absent: bytes = b"",
    slow: bool = False,
) -> Entry:
    """Return an entry; without an expected outcome it must be accepted."""
    return Entry(name, make, frozenset(expected or ("ready",)), check, absent, slow)


def entries() -> Iterator[Entry]:
    """Yield the whole corpus."""
    from tests.corpus import avif, gif, jpeg, others, png, tolerated, webp

    for module in (jpeg, png, gif, webp, avif, others, tolerated):
        yield from module.entries()


def seeds() -> dict[str, bytes]:
    """Return small honest images of every type, the originals of mutants."""
    from tests.corpus import avif, gif, jpeg, png, webp

    found: dict[str, bytes] = {}
    for module in (jpeg, png, gif, webp, avif):
        found.update(module.seeds())
    return found
