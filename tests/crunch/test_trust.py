"""Which of the four parts of the cruncher imports which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile.crunch

ROOT = Path(fxprofile.crunch.__file__).parent

#: What each folder may import of the cruncher, besides itself: the files at its top are the
#: parent side, which runs with credentials.
ALLOWED = {
    ".": {"sandbox"},
    "helper": {"limits", "protocol", "sandbox", "codec"},
    "sandbox": {"limits"},
    "codec": {"limits", "result", "signature"},
}


def imports_of(path: Path) -> Iterator[str]:
    """Yield each part of the cruncher that a file imports: a module or a folder."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("fxprofile.crunch."):
                yield name.split(".")[2]


class TrustTests(SynchronousTestCase):
    """The split of the cruncher by trust."""

    def test_each_part_imports_only_what_it_may(self) -> None:
        """The parent side never imports the codecs, nor the codecs the helper or the sandbox."""
        for path in ROOT.rglob("*.py"):
            folder = (path.relative_to(ROOT).parts[:-1] or (".",))[0]
            own = {p.stem for p in ROOT.glob("*.py")} if folder == "." else {folder}
            for imported in imports_of(path):
                self.assertIn(imported, own | ALLOWED[folder], path.name)
