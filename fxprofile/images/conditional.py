"""
Whether a client already has what it asks for (RFC 9110 section 13).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

_TAG = re.compile(rb'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_TAG_CHARACTERS = re.compile(r"[\x21\x23-\x7e]+")


def entity_tag(opaque: str) -> bytes:
    """
    The strong entity tag, in quotes, for what a bucket calls the etag of an object.

    Whatever cannot stand in a header is hashed.
    """
    if not _TAG_CHARACTERS.fullmatch(opaque):
        opaque = hashlib.sha256(opaque.encode("utf-8", "surrogatepass")).hexdigest()
    return b'"' + opaque.encode("ascii") + b'"'


def not_modified(
    *, none_match: Sequence[bytes], modified_since: bytes | None, tag: bytes, modified: float
) -> bool:
    """
    Whether the answer to a GET or HEAD is 304.

    :param none_match: the If-None-Match headers; if there is one, the date is ignored.
    :param modified_since: the If-Modified-Since header; what is no date is ignored.
    :param tag: the entity tag of the object, in quotes.
    :param modified: when the object changed, in seconds since the epoch.
    """
    if none_match:
        return any(_names(line, tag) for line in none_match)
    if modified_since is None:
        return False
    try:
        since = parsedate_to_datetime(modified_since.decode("ascii")).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return False
    # The header that the client got it from has whole seconds.
    return int(modified) <= since


def _names(line: bytes, tag: bytes) -> bool:
    """Whether one header names the tag; If-None-Match compares weakly."""
    if line.strip(b" \t") == b"*":
        return True
    return any(b'"' + found.group(1) + b'"' == tag for found in _TAG.finditer(line))
