"""Tables in ``docs/reliability.md`` that programs write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

REPORT = Path(__file__).parents[1] / "docs" / "reliability.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_section(name: str, text: str) -> None:
    """
    Replace what is between the markers of a section.

    :raises ValueError: if the file does not have the markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = REPORT.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{REPORT}: no section {name!r}")
    REPORT.write_text(f"{before}{begin}{text}{end}{after}")
