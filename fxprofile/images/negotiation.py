"""
In which format a client gets a picture.

PNG is always there.  The others are got only by a client that names them in its Accept
header (RFC 9110, section 12.5.1): ``image/*`` is also said by browsers that cannot show
them.  An avatar that was crunched before a format was turned on does not have it; that is
remembered for a while, for the bucket would be asked in vain each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from twisted.internet.interfaces import IReactorTime
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from fxprofile.model.keys import FORMATS

#: Seconds for which it is remembered that a picture does not come in a format.
ABSENT_SECONDS: Final = 60.0

#: How many pictures are remembered not to come in a format.
MOST_ABSENT: Final = 20_000

#: Those with the fewest bytes first, for clients that like several as much.
_ORDER: Final = ("avif", "webp")


class Offers:
    """
    The formats of the pictures in a bucket.

    :param formats: names of :data:`fxprofile.model.keys.FORMATS`.
    """

    def __init__(self, formats: Sequence[str], clock: IReactorTime) -> None:
        self._others = tuple(form for form in _ORDER if form in formats)
        self._clock = clock
        self._absent: OrderedDict[str, float] = OrderedDict()

    @property
    def vary(self) -> bool:
        """Whether the same URL may give several formats."""
        return bool(self._others)

    def best_first(self, accept: str) -> Sequence[str]:
        """
        The formats to look for, the most wanted first; the last one is PNG.

        :param accept: the Accept header; empty if there is none.
        """
        return _wanted(accept, self._others) if self._others else ("png",)

    def lacks(self, key: str) -> bool:
        """Whether there was no such object a short while ago."""
        until = self._absent.get(key)
        return until is not None and self._clock.seconds() < until

    def note_absence(self, key: str) -> None:
        """Remember that there is no such object, though its PNG is there."""
        self._absent.pop(key, None)
        self._absent[key] = self._clock.seconds() + ABSENT_SECONDS
        if len(self._absent) > MOST_ABSENT:
            self._absent.popitem(last=False)


@lru_cache(maxsize=256)
def _wanted(accept: str, others: tuple[str, ...]) -> Sequence[str]:
    accepted = parse_accept_header(accept, MIMEAccept)
    png = accepted.quality(FORMATS["png"][1])
    named = {media_type.lower(): quality for media_type, quality in accepted}
    liked = {form: named.get(FORMATS[form][1], 0.0) for form in others}
    wanted = [form for form in others if liked[form] > 0 and liked[form] >= png]
    return (*sorted(wanted, key=lambda form: -liked[form]), "png")
