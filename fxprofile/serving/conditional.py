"""Whether a client already has what it asks for (RFC 9110, section 13)."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from twisted.web.http_headers import Headers


def matches(if_none_match: str | None, etag: str) -> bool:
    """
    Whether the tag is one of those that a client has: section 13.1.2, which compares
    weakly.

    :param if_none_match: the header, or None; several are joined by commas.
    :param etag: without quotes.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return etag in re.findall(r'(?:W/)?"([^"]*)"', if_none_match)


def not_modified(headers: Headers, *, etag: str, modified: float) -> bool:
    """
    Whether the answer to a GET or HEAD is 304: section 13.2.2.

    :param headers: of the request.
    :param etag: without quotes.
    :param modified: seconds since the epoch; what was made of it has whole seconds.
    """
    tags = headers.getRawHeaders(b"If-None-Match")
    if tags is not None:
        return matches(b", ".join(tags).decode("latin-1"), etag)
    date = headers.getRawHeaders(b"If-Modified-Since", [b""])[0]
    try:
        since = parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return False
    return int(modified) <= since


def is_conditional(headers: Headers) -> bool:
    """Whether the answer to a request may be 304."""
    return headers.hasHeader(b"If-None-Match") or headers.hasHeader(b"If-Modified-Since")
