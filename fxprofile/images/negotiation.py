"""
Content negotiation: the format in which a client gets a picture.

PNG always exists.  Other formats are only for clients that name them in the Accept header
(RFC 9110, section 12.5.1): browsers send ``image/*`` even for formats that they cannot show.
An avatar that was processed before a format was enabled lacks it; that is cached for a while,
so that the bucket is not asked for it each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from fxprofile.model.keys import FORMATS

#: How long the absence of an object is cached, in seconds.
ABSENT_SECONDS: Final = 60.0

#: How many absent objects are cached.
MAX_ABSENT: Final = 20_000

#: The smallest files first, for clients that accept several formats equally.
_ORDER: Final = ("avif", "webp")


def absences(clock: IReactorTime) -> TTLCache[str, bool]:
    """Return an empty cache of the keys of objects that are absent, though their PNG exists."""
    return TTLCache(MAX_ABSENT, ABSENT_SECONDS, clock.seconds)


@lru_cache(maxsize=256)
def preferred_formats(accept: str, formats: tuple[str, ...]) -> Sequence[str]:
    """
    Return the formats to try, the most preferred first and PNG last.

    :param accept: the Accept header; empty if there is none.
    :param formats: names of :data:`fxprofile.model.keys.FORMATS`.
    """
    accepted = parse_accept_header(accept, MIMEAccept)
    png = accepted.quality(FORMATS["png"][1])
    named = {media_type.lower(): quality for media_type, quality in accepted}
    quality = {form: named.get(FORMATS[form][1], 0.0) for form in _ORDER if form in formats}
    wanted = [form for form, value in quality.items() if value > 0 and value >= png]
    return (*sorted(wanted, key=lambda form: -quality[form]), "png")
