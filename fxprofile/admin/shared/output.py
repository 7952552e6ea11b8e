"""
Text for people: tables, times and sizes.

Tables are also read with grep and awk: a row is one line, never wrapped or truncated, and colours
are only for a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Wider than any table.
_WIDTH: Final = 1 << 16

#: The colours of words.
_STYLES: Final = {
    **dict.fromkeys(("ok", "ready", "yes"), "green"),
    **dict.fromkeys(("processing", "deleting", "warning"), "yellow"),
    **dict.fromkeys(("failed", "problem", "PROBLEM"), "red"),
}

#: A JSON object.
Members = dict[str, Any]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """
    Return lines with aligned columns.

    Cells may hold text of strangers: control characters are escaped.

    :param headings: the first line; empty for none.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(headings))
    for name in headings or (cells[0] if cells else ()):
        shown.add_column(Text(name), no_wrap=True)
    for row in cells:
        shown.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    output = StringIO()
    # With colours only if the answer goes to a terminal, and NO_COLOR is not set.
    coloured = sys.stdout.isatty()
    Console(file=output, width=_WIDTH, force_terminal=coloured, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def listing(items: Iterable[Members], *names: str) -> str:
    """Return a table of some members of JSON objects, each below its name."""
    headings = [name.removesuffix("_seconds").replace("_", " ").upper() for name in names]
    return table(headings, [[_shown(name, item[name]) for name in names] for item in items])


def pairs(members: Members) -> str:
    """Return a line for each member: its name and its value."""
    return table((), [(name.replace("_", " "), _shown(name, members[name])) for name in members])


def _shown(name: str, value: Any) -> object:
    """Return the value of a member; the end of its name is the unit."""
    if name.endswith("_seconds"):
        return duration(value)
    return size(value) if name.endswith("bytes") else value


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value)) or None
    return "-" if value is None else printable(str(value))


def printable(text: str) -> str:
    """Return a text with everything escaped that could control a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def moment(seconds: float | None) -> str | None:
    """Return a time since the epoch in RFC 3339, in UTC and whole seconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def duration(seconds: float | None) -> str | None:
    """Return a number of seconds in its one or two largest units."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds // 60), 60)
    if not hours:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(number: int) -> str:
    """Return a number of bytes with its unit."""
    if number < 1000:
        return f"{number} B"
    if number < 1_000_000:
        return f"{number / 1000:.1f} kB"
    return f"{number / 1_000_000:.1f} MB"
