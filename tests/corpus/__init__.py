"""
Hostile and honest images, all made by the code in here, each with what is to become of
it.  None is borrowed, so each says in its maker what is the matter with it.
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

    :ivar make: gives its bytes.
    :ivar expected: the outcomes that are right: ``ready`` or a reason.
    :ivar check: looks at the pictures, if there are any, and raises AssertionError.
    :ivar absent: bytes that must not be in what comes out.
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
    """An entry; without an expectation it is to be accepted."""
    return Entry(name, make, frozenset(expected or ("ready",)), check, absent, slow)


def entries() -> Iterator[Entry]:
    """The whole corpus."""
    from tests.corpus import avif, gif, jpeg, others, png, webp

    for module in (jpeg, png, gif, webp, avif, others):
        yield from module.entries()


def seeds() -> dict[str, bytes]:
    """Small honest images of every kind, for mutants to be made of."""
    from tests.corpus import avif, gif, jpeg, png, webp

    found: dict[str, bytes] = {}
    for module in (jpeg, png, gif, webp, avif):
        found.update(module.seeds())
    return found
