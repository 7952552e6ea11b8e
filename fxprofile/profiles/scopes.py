"""
What a token may do: OAuth scopes, and which of them implies which.

The rules are those that the Firefox Accounts servers share:

* A short name is a list of words joined by colons, such as ``profile:email``.  It
  reads; with ``write`` as its last word it also writes.  It implies every name that
  its own words begin, as far as it reads or writes: ``profile`` implies
  ``profile:email``, and ``profile:write`` implies ``profile``, ``profile:email`` and
  ``profile:email:write``.
* A URL such as ``https://identity.mozilla.com/apps/sync#read`` implies every URL of
  the same host whose path its own path begins, segment by segment.  Without a fragment
  it does so for all fragments, with one for the same fragment only.

Nothing else is a scope, and what is not a scope implies nothing, not even itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

#: Longer names are not scopes; the longest real ones have three words.
MAX_WORDS: Final = 32

#: Longer texts are not scopes.
MAX_CHARACTERS: Final = 512

_WORD = re.compile(r"[A-Za-z0-9_]+")
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+"
_URL = re.compile(
    r"https://(?P<host>[a-z0-9-]+(?:\.[a-z0-9-]+)*(?::[1-9][0-9]{0,4})?)"
    rf"(?P<path>(?:/{_SEGMENT})+)"
    r"(?:#(?P<fragment>[A-Za-z0-9_]+))?"
)
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)


@dataclass(frozen=True)
class _Name:
    """A short name without its ``write``."""

    words: tuple[str, ...]
    writes: bool

    def implies(self, other: _Name | _Url) -> bool:
        return (
            isinstance(other, _Name)
            and other.words[: len(self.words)] == self.words
            and (self.writes or not other.writes)
        )


@dataclass(frozen=True)
class _Url:
    """A URL; its host has the port with it."""

    host: str
    segments: tuple[str, ...]
    fragment: str | None

    def implies(self, other: _Name | _Url) -> bool:
        return (
            isinstance(other, _Url)
            and other.host == self.host
            and other.segments[: len(self.segments)] == self.segments
            and self.fragment in (None, other.fragment)
        )


@lru_cache(maxsize=1024)
def _parse(text: str) -> _Name | _Url | None:
    if not text.isascii() or len(text) > MAX_CHARACTERS:
        return None
    if text.startswith("https:"):
        return _parse_url(text)
    words = text.split(":")
    if len(words) > MAX_WORDS or not all(_WORD.fullmatch(word) for word in words):
        return None
    writes = words[-1] == "write"
    if writes:
        words.pop()
    return _Name(words=tuple(words), writes=writes) if words else None


def _parse_url(text: str) -> _Url | None:
    match = _URL.fullmatch(text)
    if match is None or match["host"].endswith(":443"):
        return None
    segments = tuple(match["path"][1:].split("/"))
    # A URL that a browser would write in another way could be read in two ways.
    if any(_DOTS.fullmatch(segment) for segment in segments):
        return None
    return _Url(host=match["host"], segments=segments, fragment=match["fragment"])


def is_scope(text: str) -> bool:
    """Whether this is a scope at all."""
    return _parse(text) is not None


def implies(held: str, needed: str) -> bool:
    """Whether whoever holds the first scope has the second one with it."""
    has, needs = _parse(held), _parse(needed)
    return has is not None and needs is not None and has.implies(needs)


@dataclass(frozen=True, init=False, repr=False)
class Scopes:
    """
    The scopes of a token.

    Two of these are equal if they hold the same texts, in whatever order.

    :param scopes: the scopes, or one text that has spaces between them (RFC 6749
        section 3.3).  What is not a scope is left out.
    """

    values: frozenset[str]
    _parsed: tuple[_Name | _Url, ...] = field(compare=False)

    def __init__(self, scopes: str | Iterable[str] = ()) -> None:
        texts = scopes.split(" ") if isinstance(scopes, str) else scopes
        parsed = {
            text: scope
            for text in texts
            if isinstance(text, str) and (scope := _parse(text)) is not None
        }
        object.__setattr__(self, "values", frozenset(parsed))
        object.__setattr__(self, "_parsed", tuple(parsed.values()))

    def allows(self, *needed: str) -> bool:
        """Whether any of these scopes is held, or implied by one that is."""
        for text in needed:
            needs = _parse(text)
            if needs is not None and any(held.implies(needs) for held in self._parsed):
                return True
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.values))

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        return " ".join(self)

    def __repr__(self) -> str:
        return f"Scopes({str(self)!r})"
