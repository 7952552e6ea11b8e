"""Tests that the files of CI and of contributors name commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]


def read(path: str) -> Any:
    """Return a YAML file of the repository."""
    return yaml.safe_load((ROOT / path).read_text())


class WorkflowTests(SynchronousTestCase):
    """``.github/``, ``noxfile.py`` and ``.pre-commit-config.yaml``."""

    def test_workflows_run_sessions_that_exist(self) -> None:
        """The matrix of the workflow is that of the nox sessions, and of the classifiers."""
        jobs = read(".github/workflows/check.yml")["jobs"]
        nox = (ROOT / "noxfile.py").read_text()
        pythons = re.search(r"PYTHONS = \[(.*)\]", nox)
        assert pythons is not None
        versions = re.findall(r"[\d.]+", pythons[1])
        self.assertEqual(jobs["python"]["strategy"]["matrix"]["python"], versions)
        setup = (ROOT / "setup.py").read_text()
        self.assertEqual(re.findall(r"Python :: (3\.\d+)", setup), versions)
        twisted = jobs["twisted"]["strategy"]["matrix"]["twisted"]
        self.assertEqual(re.findall(r'^    "(\w+)": f?"Twisted', nox, re.MULTILINE), twisted)

    def test_make_targets_exist(self) -> None:
        """Every make target that CI, nox or a template names exists in the Makefile."""
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        files = (".ci/run", ".github/PULL_REQUEST_TEMPLATE.md", ".pre-commit-config.yaml")
        named = {"test"}
        for file in files:
            for words in re.findall(r"make ((?:[a-z-]+ ?)+)", (ROOT / file).read_text()):
                named |= set(words.split()[:1] if "`" not in words else words.split())
        self.assertLessEqual(named, targets)

    def test_other_files_are_yaml(self) -> None:
        """The templates, dependabot and pre-commit have their main keys."""
        for path in ("bug", "feature"):
            self.assertTrue(read(f".github/ISSUE_TEMPLATE/{path}.yml")["body"])
        self.assertEqual(read(".github/dependabot.yml")["version"], 2)
        hooks = [hook["id"] for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]]
        self.assertEqual(hooks, ["ruff-check", "ruff-format", "mypy", "towncrier"])
