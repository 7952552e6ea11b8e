"""Tests of the documentation: what it names exists, and it builds as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile

ROOT = Path(fxprofile.__file__).parent.parent
DOCS = (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("[A-Z]*.md"))

#: The folders that a path may begin at: docs/architecture.md leaves out ``fxprofile/``, and
#: docs/crunching.md ``fxprofile/crunch/``.
STARTS = (ROOT, ROOT / "fxprofile", ROOT / "fxprofile/crunch")
TOPS = sorted({path.name for start in STARTS for path in start.iterdir() if path.is_dir()})

_PATH = re.compile(rf"(?<![\w./~-])(?:{'|'.join(map(re.escape, TOPS))})/[\w./@-]*\w")
_MODULE = re.compile(
    r"(?:python -m |trial |TESTS=|`)((?:fxprofile(?!\.toml)|tests|benchmarks)(?:\.[a-z_]+)+)"
)
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


class DocumentedPathsTests(SynchronousTestCase):
    """``docs/``, ``README.md`` and ``CONTRIBUTING.md``."""

    def found(self, pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
        """Yield each match of a pattern, with the document that it is in."""
        for document in DOCS:
            for match in pattern.finditer(document.read_text()):
                yield document, match[match.lastindex or 0]

    def test_paths_exist(self) -> None:
        """Every path in the documentation that begins with a folder of the project exists."""
        paths = list(self.found(_PATH))
        self.assertGreater(len(paths), 60)
        missing = [
            f"{document.name}: {path}"
            for document, path in paths
            if not path.startswith("var/") and not any((start / path).exists() for start in STARTS)
        ]
        self.assertEqual(missing, [])

    def test_modules_exist(self) -> None:
        """Every module that a command or a name in the documentation refers to exists."""
        modules = list(self.found(_MODULE))
        self.assertGreater(len(modules), 3)
        for document, name in modules:
            self.assertIsNotNone(find_spec(name), f"{document.name}: {name}")

    def test_links_lead_to_files(self) -> None:
        """Every relative link in the documentation leads to a file."""
        links = list(self.found(_LINK))
        self.assertGreater(len(links), 8)
        for document, target in links:
            self.assertTrue((document.parent / target).exists(), f"{document.name}: {target}")


class SiteTests(SynchronousTestCase):
    """The site that ``make docs`` builds."""

    def test_site_builds_without_warnings(self) -> None:
        """
        Every link and anchor leads somewhere, every page is in the navigation of ``mkdocs.yml``,
        and no list or table is shown as text.
        """
        site = Path(self.mktemp()).absolute()
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
        done = subprocess.run(
            [*command, str(site)],
            cwd=ROOT,
            env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        pages = list(site.rglob("*.html"))
        self.assertGreater(len(pages), 10)
        for page in pages:
            text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
            for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
                self.assertIsNone(
                    re.search(r"^\s*([-*] |\d+\. |\|)", paragraph, re.MULTILINE),
                    f"{page.parent.name}: {paragraph:.200}",
                )
