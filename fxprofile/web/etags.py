"""Conditional requests."""

from __future__ import annotations

import re


def matches(if_none_match: str | None, etag: str) -> bool:
    """
    Whether a client has this already: RFC 9110, section 13.1.2, which compares weakly.

    :param if_none_match: the header, or None.
    :param etag: without quotes.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return etag in re.findall(r'(?:W/)?"([^"]*)"', if_none_match)
