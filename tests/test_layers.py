"""What imports what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import fxprofile

ROOT = Path(fxprofile.__file__).parent

#: The level of each module and package: it imports only from its own or below.
LEVELS = {
    4: ("tap", "roles", "parts", "admin"),
    3: ("web", "images", "worker", "events", "serving"),
    2: ("intake", "outbox", "crunch", "selection", "profiles", "changes"),
    1: ("storage", "queues", "identity", "database", "cache", "aws", "compute"),
    0: (
        *("model", "keys", "errors", "interfaces", "config", "loading", "metrics", "logs"),
        *("scopes", "aio", "flights", "crashpoints", "error_reports"),
    ),
}

LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names}

#: Outside libraries, and who may import them.
OWNERS = {
    "botocore": ("aws", "storage/s3", "queues/sqs", "admin"),
    "sqlalchemy": ("database", "queues/database", "admin"),
    "alembic": ("database",),
    "klein": ("web",),
    "werkzeug": ("web", "images"),
    "PIL": ("compute", "admin"),
    "numpy": ("compute",),
    "txredisapi": ("cache",),
    "limits": ("cache", "web/limits"),
    "joserfc": ("identity",),
    "click": ("admin",),
    "sentry_sdk": ("error_reports",),
    "pydantic": ("config", "loading", "admin"),
    "treq": ("identity", "aws", "admin"),
}


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
    """The levels that ``docs/architecture.md`` names."""

    def test_every_module_has_a_level(self) -> None:
        """There is no module outside the levels, and no level names one that is not there."""
        there = {name.split("/")[0] for name, _ in modules()}
        self.assertEqual(there, set(LEVEL_OF))

    def test_downwards(self) -> None:
        """A module imports only from its own level or below."""
        for name, path in modules():
            own = LEVEL_OF[name.split("/")[0]]
            for imported in imports_of(path):
                parts = imported.split(".")
                if parts[0] == "fxprofile" and len(parts) > 1 and parts[1] in LEVEL_OF:
                    level = LEVEL_OF[parts[1]]
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

    def test_short(self) -> None:
        """No file is longer than 400 lines."""
        for name, path in modules():
            self.assertLessEqual(len(path.read_text().splitlines()), 400, name)


#: Makes a role, and says which modules that took.
MAKE = """
import sys
from fxprofile.config import Role
from fxprofile.loading import load
from fxprofile.roles import make_role
from twisted.internet.testing import MemoryReactorClock
role = Role(sys.argv[1])
make_role(role, load(overrides=sys.argv[2:], environ={}, role=role), MemoryReactorClock())
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
