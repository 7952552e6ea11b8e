"""
Names the test modules that start no other program, for ``make test-fast``; or all of them,
for ``make test``, the slow ones first, so that no worker waits for the others at the end.

    python -m tests.fast [--all]

A module is left out if its imports reach code that starts programs (daemons, servers,
browsers, crunch helpers), simulates the whole service or measures the quality of images.  So
there is no list of modules to maintain.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Importing one of these makes a test module slow, directly or through other test modules.
SLOW = (
    "subprocess",
    "selenium",
    "fxprofile.crunch.pool",
    "tests.crunch.quality",
    "tests.simulation",
)


def modules() -> list[str]:
    """Return the names of all test modules."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


def slow_first() -> list[str]:
    """Return the names of all test modules: of daemons, of other slow ones, and of the rest."""
    fast = set(fast_modules())
    return sorted(modules(), key=lambda name: (name in fast, not _is_in(name, "tests.integration")))


def fast_modules() -> Iterator[str]:
    """Yield the name of each test module that does not reach a slow import."""
    for name in modules():
        if not any(_is_in(imported, slow) for imported in _reached(name) for slow in SLOW):
            yield name


def _is_in(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _reached(name: str) -> set[str]:
    """Return all names that a module imports, directly or through modules of the tests."""
    found = {name}
    waiting = [name]
    while waiting:
        new = _imports(waiting.pop()) - found
        found |= new
        waiting += [module for module in new if module.startswith("tests.")]
    return found


@cache
def _imports(name: str) -> frozenset[str]:
    return frozenset(_imported(name))


def _imported(name: str) -> Iterator[str]:
    path = ROOT.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    # A name imported from a module may be a function of it.
    for node in ast.walk(ast.parse(path.read_text() if path.exists() else "")):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


if __name__ == "__main__":
    print(*(slow_first() if sys.argv[1:] == ["--all"] else fast_modules()), sep="\n")
