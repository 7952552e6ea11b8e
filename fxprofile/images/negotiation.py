"""The choice of a picture's format by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from fxprofile.model.keys import FORMATS

#: The smallest files first, for clients that accept several formats equally.
_ORDER: Final = ("avif", "webp")


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
