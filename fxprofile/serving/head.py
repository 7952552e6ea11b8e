"""The header section of a response, as bytes (RFC 9110, section 6.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime

#: The reason phrases of all statuses; Twisted has none for some, 422 among them.
PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

#: Statuses without a body and its length (RFC 9110, section 8.6).
BODILESS: Final = frozenset({204, 304})


def header_lines(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """
    Return the lines of some headers.

    Line breaks and other control characters of a value become spaces, so that a value never adds a
    header.

    :param headers: names and values; the names are trusted.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return "".join(f"{name}: {_clean(value)}\r\n" for name, value in pairs).encode()


def _clean(value: str) -> str:
    if value.isprintable():
        return value
    return "".join(each if each.isprintable() else " " for each in value)


@attrs.define(eq=False, slots=False)
class StandardHeaders:
    """
    The lines of ``Server`` and ``Date`` that every response has; they are made once a second.

    :param clock: of seconds since the epoch.
    """

    _clock: IReactorTime
    _second: int = attrs.field(init=False, default=-1)
    _date: bytes = attrs.field(init=False, default=b"")
    _lines: bytes = attrs.field(init=False, default=b"")

    @property
    def date(self) -> bytes:
        """The value of ``Date``."""
        self._update()
        return self._date

    @property
    def lines(self) -> bytes:
        """The lines."""
        self._update()
        return self._lines

    def _update(self) -> None:
        second = int(self._clock.seconds())
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode()
            # Twisted's own value of Server would reveal versions.
            self._lines = b"Server: fxprofile\r\nDate: %b\r\n" % self._date
