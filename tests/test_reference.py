"""Tests that the tables of ``docs/reference/`` that people have written agree with the code."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.model import errors
from fxprofile.model.avatars import REASONS
from fxprofile.telemetry.logs import make_observer

SOURCE = Path(fxprofile.__file__).parent
REFERENCE = SOURCE.parent / "docs/reference"

#: What stands for a value in a quoted message.
PLACEHOLDER = re.compile(r"…|\b[A-Z]{2,}\b")


def section(page: str, heading: str) -> list[list[str]]:
    """Return the cells of each row of the first table behind a line."""
    text = (REFERENCE / page).read_text()
    table = text[text.index(heading) :].partition("\n|")[2].partition("\n\n")[0]
    rows = [row.strip().strip("|").split(" | ") for row in table.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def texts() -> Iterator[str]:
    """Yield every text in the source."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


class ErrorTests(SynchronousTestCase):
    """``docs/reference/errors.md``."""

    def test_errors_of_the_api(self) -> None:
        """The table has each error of the API, with its status, errno and message."""
        rows = {tuple(row[:3]) for row in section("errors.md", "## Errors of the API")}
        kinds = [
            kind
            for kind in vars(errors).values()
            if isinstance(kind, type)
            and issubclass(kind, errors.ApiError)
            and hasattr(kind, "errno")
        ]
        self.assertEqual(rows, {(str(k.code), str(k.errno), k.message) for k in kinds})

    def test_reasons(self) -> None:
        """The table has each reason of a failed upload, with its message."""
        rows = section("errors.md", "## Reasons why an upload fails")
        self.assertEqual({row[0].strip("`"): row[1] for row in rows}, REASONS)

    def test_lines_of_operators(self) -> None:
        """Every line of a process that the page explains is in the source."""
        source = "\n".join(texts())
        for heading in ("## A process does not start", "## A process runs, and something fails"):
            rows = section("errors.md", heading)
            self.assertGreater(len(rows), 5)
            for row in rows:
                for part in PLACEHOLDER.split(row[0].strip("`")):
                    # Names of settings are written apart from their messages.
                    words = re.sub(r"^[a-z_.]+: ", "", part).strip(" :;,'[]()")
                    self.assertIn(words, source, row[0])


class LogTests(SynchronousTestCase):
    """``docs/reference/logs.md``."""

    def line(self, **event: object) -> dict[str, object]:
        """Return the line of JSON of an event."""
        output = io.StringIO()
        event = {"log_level": LogLevel.info, "log_namespace": "x", "log_time": 0, **event}
        make_observer("mozlog", "info", output)(event)
        return json.loads(output.getvalue())

    def described(self, heading: str) -> set[str]:
        """Return the names in the first column of the table behind a line."""
        return {row[0].strip("`") for row in section("logs.md", heading)}

    def test_members(self) -> None:
        """The table has each member of a line of JSON."""
        self.assertEqual(self.described("# Log fields"), set(self.line(log_format="x")))

    def test_fields(self) -> None:
        """The tables have each field of requests and of activity events."""
        for kind in ("request.summary", "activityEvent"):
            fields = self.line(log_type=kind)["Fields"]
            self.assertEqual(self.described(f"`Fields` of `{kind}`"), set(fields), kind)

    def test_other_fields(self) -> None:
        """The last table has the fields of other lines."""
        others = self.described("`Fields` of all other lines")
        self.assertEqual(others, {"msg", "trace_id", "traceback"})
        self.assertLessEqual(set(self.line(log_format="x")["Fields"]), others)
