"""Which module may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile

ROOT = Path(fxprofile.__file__).parent

#: How a folder's docstring names its level.
LEVEL = re.compile(r"Level (\d)\. ")

#: How it names the outside libraries that its modules import.
LIBRARIES = re.compile(r"Libraries:\s([\w,\s]+)\.")

#: What every folder may import.
EVERYWHERE = {
    *sys.stdlib_module_names,
    "attrs",
    "fxprofile",
    "twisted",
    "typing_extensions",
    "zope",
}


def docstring_of(folder: str) -> str:
    """The docstring of a folder of the package, such as ``drivers/sql``."""
    return ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or ""


def libraries_of(folder: str) -> set[str]:
    """The libraries that the docstrings of a folder and of those around it name."""
    parts = folder.split("/")
    docstrings = (docstring_of("/".join(parts[: n + 1])) for n in range(len(parts)))
    lists = (match[1] for text in docstrings for match in LIBRARIES.finditer(text))
    return {name.strip() for text in lists for name in text.split(",")}


def level_of(folder: str) -> int:
    """The level that the docstring of a folder at the package's root states."""
    match = LEVEL.match(docstring_of(folder))
    if match is None:
        raise AssertionError(f"{folder}/__init__.py states no level")
    return int(match.group(1))


def modules() -> Iterator[tuple[str, Path]]:
    """Each module below the package, as ``web/api``."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
        if name not in ("__init__",):
            yield name, path


def imports_of(path: Path) -> Iterator[str]:
    """The name of each module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class LayerTests(SynchronousTestCase):
    """The levels and libraries that the docstrings of the folders state."""

    def test_the_root_holds_only_the_plugin(self) -> None:
        """At the root of the package there is one module, ``tap``, which may import everything."""
        there = {path.stem for path in ROOT.glob("*.py")}
        self.assertEqual(there, {"__init__", "tap"})

    def test_a_module_imports_only_from_its_own_level_or_below(self) -> None:
        """No module imports from a folder of a higher level."""
        levels = {
            path.parent.name: level_of(path.parent.name) for path in ROOT.glob("*/__init__.py")
        }
        for name, path in modules():
            own = levels.get(name.split("/")[0])
            for imported in imports_of(path):
                parts = imported.split(".")
                if own is not None and parts[0] == "fxprofile" and len(parts) > 1:
                    level = levels.get(parts[1], 0 if parts[1].startswith("__") else 9)
                    self.assertLessEqual(level, own, f"{name} imports {imported}")

    def test_a_library_is_imported_only_by_folders_that_name_it(self) -> None:
        """A module imports an outside library only if the docstring of its folder names it."""
        for name, path in modules():
            folder = path.parent.relative_to(ROOT).as_posix()
            allowed = EVERYWHERE | (libraries_of(folder) if folder != "." else set())
            for imported in imports_of(path):
                library = imported.split(".")[0]
                self.assertIn(
                    library, allowed, f"{name}: add {library} to Libraries: of {folder}/__init__.py"
                )

    def test_every_library_that_a_folder_names_is_imported(self) -> None:
        """A folder's docstring names no library that its modules do not import."""
        for init in ROOT.rglob("__init__.py"):
            named = LIBRARIES.search(ast.get_docstring(ast.parse(init.read_text())) or "")
            if named is None:
                continue
            imports = {i.split(".")[0] for p in init.parent.rglob("*.py") for i in imports_of(p)}
            self.assertLessEqual({n.strip() for n in named[1].split(",")}, imports, init)

    def test_only_the_plugin_imports_the_reactor(self) -> None:
        """No module except ``tap`` imports the reactor; others are passed one."""
        for name, path in modules():
            if name != "tap":
                self.assertNotIn("twisted.internet.reactor", list(imports_of(path)), name)


#: Builds a role, and prints the modules that this imported.
MAKE = """
import sys
from fxprofile.settings.model import Role
from fxprofile.settings.load import load
from fxprofile.app.roles import add_role
from fxprofile.app.services import Services
from twisted.internet.testing import MemoryReactorClock
role = Role(sys.argv[1])
settings = load(overrides=sys.argv[2:], environ={}, role=role)
add_role(role, Services(settings, MemoryReactorClock()))
print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


class RoleTests(SynchronousTestCase):
    """What a role imports."""

    def loaded(self, role: str, *settings: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", MAKE, role, *settings],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT.parent,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return set(done.stdout.split())

    def test_the_web_role_imports_no_decoder(self) -> None:
        """The web role imports nothing that decodes images, and no botocore on local drivers."""
        loaded = self.loaded("web")
        self.assertFalse(loaded & {"PIL", "numpy", "botocore"})
        self.assertIn("klein", loaded)

    def test_the_worker_imports_neither_klein_nor_an_unused_database(self) -> None:
        """The worker imports neither Klein nor, with its queues in SQS, a database."""
        sqs = (
            *("queue.driver=sqs", "storage.driver=s3"),
            *("queue.jobs_url=http://q/1/jobs", "queue.results_url=http://q/1/results"),
        )
        self.assertFalse(self.loaded("worker", *sqs) & {"klein", "sqlalchemy", "PIL"})
        self.assertFalse(self.loaded("worker") & {"klein", "botocore", "PIL"})

    def test_the_images_role_imports_neither_identity_nor_database_nor_queues(self) -> None:
        """The images role imports neither identity nor database nor queues."""
        loaded = self.loaded("images")
        self.assertFalse(loaded & {"klein", "sqlalchemy", "botocore", "PIL", "numpy", "treq"})
