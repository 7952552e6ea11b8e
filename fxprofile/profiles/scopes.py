"""
OAuth scopes: which of them implies which, by the rules of the Firefox Accounts servers.

A scope is a list of words joined by colons, such as ``profile:email``.  It grants reading;
with ``write`` as its last word it also grants writing.  It implies every scope that begins
with its words and grants no more: ``profile`` implies ``profile:email``, and ``profile:write``
implies ``profile``, ``profile:email`` and ``profile:email:write``.

Anything else is malformed and implies nothing, not even itself.  That includes the URL scopes
of Firefox Accounts, which only imply other URLs and grant nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

#: Scopes with more words are malformed; the longest real ones have three.
MAX_WORDS: Final = 32

#: Longer texts are malformed.
MAX_CHARACTERS: Final = 512

_SCOPE = re.compile(r"[A-Za-z0-9_]+(?::[A-Za-z0-9_]+)*")


@lru_cache(maxsize=1024)
def _parse(text: str) -> tuple[tuple[str, ...], bool] | None:
    """Return the words of a scope except ``write``, and whether it writes; None if malformed."""
    if len(text) > MAX_CHARACTERS or _SCOPE.fullmatch(text) is None:
        return None
    words = text.split(":")
    writes = words[-1] == "write"
    if writes:
        words.pop()
    return (tuple(words), writes) if 0 < len(words) <= MAX_WORDS else None


def implies(held: str, needed: str) -> bool:
    """Return whether the first scope implies the second one."""
    has, needs = _parse(held), _parse(needed)
    if has is None or needs is None:
        return False
    (words, writes), (needed_words, needs_write) = has, needs
    return needed_words[: len(words)] == words and (writes or not needs_write)


def allows(held: Iterable[str], *needed: str) -> bool:
    """
    Return whether any of the needed scopes is held, or implied by a held one.

    :param held: the scopes of a token; malformed ones are ignored.
    """
    return any(implies(scope, needs) for scope in held for needs in needed)
