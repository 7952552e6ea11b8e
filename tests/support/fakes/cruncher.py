"""
A cruncher that returns fake pictures.
"""

from __future__ import annotations

import hashlib
import struct
from typing import IO

from twisted.internet.defer import Deferred
from zope.interface import implementer

from fxprofile.model.avatars import Crunched, Pictures, Variant
from fxprofile.model.keys import VARIANTS
from fxprofile.model.ports import ICruncher

#: Of every picture.
PLACEHOLDER = "LEHV6nWB2yk8pyo0adR*.7kCMdnj"


def pictures_of(original: bytes, form: str = "png") -> Pictures:
    """Return the pictures that :class:`FakeCruncher` makes of an original, always the same."""
    pictures = {}
    for name, (_, side) in VARIANTS.items():
        sides = (side, side // 2)
        # The signature and the first fields of IHDR, as in every PNG.
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", *sides)
        data += hashlib.sha256(name.encode() + form.encode() + original).digest()
        pictures[name] = (Variant(*sides, len(data)), data)
    return pictures


@implementer(ICruncher)
class FakeCruncher:
    """
    Makes pictures that only begin like pictures.

    :param formats: those in which it makes them.
    :ivar plan: what the next calls raise, or wait for; None for nothing of the kind.
    :ivar crunched: the originals that were given, in order.
    :ivar cancelled: how many calls were cancelled.
    """

    def __init__(self, slots: int = 2, formats: tuple[str, ...] = ("png",)) -> None:
        self.slots = slots
        self.formats = formats
        self.plan: list[Exception | Deferred[None] | None] = []
        self.crunched: list[bytes] = []
        self.cancelled = 0

    def hold(self) -> Deferred[None]:
        """Make the next call wait for the Deferred that this returns."""
        held: Deferred[None] = Deferred(self._cancel)
        self.plan.append(held)
        return held

    def _cancel(self, held: Deferred[None]) -> None:
        self.cancelled += 1

    async def crunch(self, *, original: IO[bytes]) -> Crunched:
        original.seek(0)
        data = original.read()
        self.crunched.append(data)
        planned = self.plan.pop(0) if self.plan else None
        if isinstance(planned, Deferred):
            await planned
        elif planned is not None:
            raise planned
        pictures = {form: pictures_of(data, form) for form in self.formats}
        return Crunched(pictures, PLACEHOLDER, hashlib.sha256(data).hexdigest())

    async def when_ready(self) -> None:
        pass

    async def check(self) -> None:
        pass
