"""Tables of ``fxprofile-admin``."""

from __future__ import annotations

import io
import os
import pty
from contextlib import redirect_stdout
from unicodedata import east_asian_width

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.admin.shared.output import listing, table


def width(text: str) -> int:
    """Return how many columns of a terminal a text without combining marks has."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


class TableTests(SynchronousTestCase):
    """What a table looks like."""

    def test_wide_characters_are_aligned(self) -> None:
        """A column begins at the same column of the terminal in every row."""
        rows = [("日本語の名前", "x"), ("Zoë", "x"), ("👩", "x"), ("e\u0301a", "x")]
        lines = table(("NAME", "MARK"), rows).splitlines()
        self.assertEqual(lines[0].index("MARK"), 14)
        self.assertEqual([width(line.partition("x")[0]) for line in lines[1:4]], [14] * 3)
        # A combining mark takes no column.
        self.assertEqual(lines[4].index("x"), 15)

    def test_a_row_is_one_line(self) -> None:
        """Long cells are neither wrapped nor truncated, and lines do not end in spaces."""
        long = "word " * 500
        lines = table(("A", "B"), [(long.strip(), "b"), ("a", None)]).splitlines()
        self.assertEqual(len(lines), 3)
        self.assertIn(long.strip(), lines[1])
        self.assertEqual([line for line in lines if line != line.rstrip()], [])

    def test_cells_of_strangers(self) -> None:
        """Control characters are escaped, and text in brackets is no markup."""
        text = table((), [("\x1b[31m", "[red]x[/red]", "a\u202eb")])
        self.assertEqual(text, "\\x1b[31m  [red]x[/red]  a\\u202eb")

    def test_colours_only_on_a_terminal(self) -> None:
        """There are colours on a terminal, unless NO_COLOR is set, and nowhere else."""
        items = [{"status": "failed"}]
        with redirect_stdout(io.StringIO()):
            self.assertNotIn("\x1b", listing(items, "status"))
        near, far = pty.openpty()
        self.addCleanup(os.close, near)
        before = {name: os.environ.pop(name, None) for name in ("NO_COLOR", "FORCE_COLOR", "TERM")}
        self.addCleanup(
            os.environ.update, {name: value for name, value in before.items() if value is not None}
        )
        self.addCleanup(os.environ.pop, "NO_COLOR", None)
        os.environ["TERM"] = "xterm"
        with open(far, "w") as terminal, redirect_stdout(terminal):
            self.assertIn("\x1b[31mfailed", listing(items, "status"))
            os.environ["NO_COLOR"] = "1"
            self.assertNotIn("\x1b[31m", listing(items, "status"))
