"""What imports what."""

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

#: Outside libraries, and who may import them.
OWNERS = {
    "botocore": ("drivers/aws", "admin"),
    "sqlalchemy": ("drivers/sql", "admin"),
    "alembic": ("drivers/sql",),
    "klein": ("web",),
    "werkzeug": ("web", "images"),
    "PIL": ("crunch/codec",),
    "numpy": ("crunch/codec",),
    "txredisapi": ("drivers/redis",),
    "limits": ("drivers/memory", "drivers/redis", "web/rate_limits"),
    "joserfc": ("drivers/fxa",),
    "click": ("admin",),
    "sentry_sdk": ("telemetry",),
    "pydantic": ("settings", "admin", "web"),
    "treq": ("http_client", "drivers/fxa", "admin"),
}

#: How a folder's docstring names its level.
LEVEL = re.compile(r"Level (\d)\. ")


def level_of(folder: str) -> int:
    """The level that the docstring of a folder at the package's root states."""
    docstring = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    match = LEVEL.match(docstring or "")
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
    """The levels that the folders state, which ``docs/architecture.md`` repeats."""

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

    def test_libraries(self) -> None:
        """An outside library is imported where it is wrapped, and nowhere else."""
        for name, path in modules():
            for imported in imports_of(path):
                owners = OWNERS.get(imported.split(".")[0])
                if owners is not None:
                    allowed = any(name == o or name.startswith(f"{o}/") for o in owners)
                    self.assertTrue(allowed, f"{name} imports {imported}")

    def test_reactor(self) -> None:
        """The reactor is handed down from where the process is made."""
        for name, path in modules():
            if name != "tap":
                self.assertNotIn("twisted.internet.reactor", list(imports_of(path)), name)


#: Makes a role, and says which modules that took.
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
    """What a role loads."""

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

    def test_web(self) -> None:
        """The web role never loads what decodes images."""
        loaded = self.loaded("web")
        self.assertFalse(loaded & {"PIL", "numpy", "botocore"})
        self.assertIn("klein", loaded)

    def test_worker(self) -> None:
        """The worker loads neither Klein nor, with its queues in SQS, a database."""
        sqs = (
            *("queue.driver=sqs", "storage.driver=s3"),
            *("queue.jobs_url=http://q/1/jobs", "queue.results_url=http://q/1/results"),
        )
        self.assertFalse(self.loaded("worker", *sqs) & {"klein", "sqlalchemy", "PIL"})
        self.assertFalse(self.loaded("worker") & {"klein", "botocore", "PIL"})

    def test_images(self) -> None:
        """The images role loads neither identity, nor database, nor queues."""
        loaded = self.loaded("images")
        self.assertFalse(loaded & {"klein", "sqlalchemy", "botocore", "PIL", "numpy", "treq"})
