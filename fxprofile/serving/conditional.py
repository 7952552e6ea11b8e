"""Conditional requests (RFC 9110, section 13): whether the client has the current version."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from twisted.web.http_headers import Headers

#: The longest date that is parsed, in bytes; those of RFC 9110 have at most 33.
MAX_DATE = 64


def matches(if_none_match: str, etag: str) -> bool:
    """
    Return whether a header names a tag; the comparison is weak (section 13.1.2).

    A tag that is quoted twice, or weak inside of its quotes, matches too: Firefox for Android
    and iOS put the whole ``ETag`` into quotes.

    :param if_none_match: the header; several are joined by commas.
    :param etag: without quotes.
    """
    return if_none_match.strip() == "*" or f'"{etag}"' in if_none_match


def not_modified(headers: Headers, *, etag: str, modified: float) -> bool:
    """
    Return whether the response to a GET or HEAD is 304 (section 13.2.2).

    :param headers: the headers of the request.
    :param etag: without quotes.
    :param modified: seconds since the epoch; the header has whole seconds.
    """
    tags = headers.getRawHeaders(b"If-None-Match")
    if tags is not None:
        return matches(b", ".join(tags).decode("latin-1"), etag)
    date = headers.getRawHeaders(b"If-Modified-Since", [b""])[0]
    if len(date) > MAX_DATE:
        return False
    try:
        since = parsedate_to_datetime(date.decode("latin-1")).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return False
    return int(modified) <= since


def is_conditional(headers: Headers) -> bool:
    """Return whether the response to a request may be 304."""
    return headers.hasHeader(b"If-None-Match") or headers.hasHeader(b"If-Modified-Since")
