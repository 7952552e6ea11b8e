"""Tests of the commands that the ``Makefile`` runs."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from fxprofile.settings.load import load

ROOT = Path(__file__).parents[1]


class RunTests(SynchronousTestCase):
    """``make run``."""

    def overrides(self, *variables: str) -> list[str]:
        """Return the settings that the command of the daemon has."""
        printed = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", "run", *variables],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        command = printed[printed.index("bin/twistd -n fxprofile") :]
        expanded = subprocess.run(
            ["sh", "-c", f"echo {command}"], capture_output=True, text=True, check=True
        ).stdout
        return [word.removeprefix("--set=") for word in shlex.split(expanded)[3:]]

    def test_without_variables_the_defaults_are_used(self) -> None:
        """``make run`` alone changes no setting."""
        self.assertEqual(self.overrides(), [])

    def test_a_port_moves_every_listener(self) -> None:
        """``make run PORT=8080`` gives the API this port, and the other listeners the next ones."""
        settings = load(overrides=self.overrides("PORT=8080"), environ={})
        self.assertEqual(settings.web.public_url, "http://127.0.0.1:8080")
        self.assertEqual(settings.images.url, "http://127.0.0.1:8081/a/{id}")
        self.assertEqual(settings.admin.listen, "tcp:8083:interface=127.0.0.1")

    def test_arguments_reach_the_daemon(self) -> None:
        """``ARGS`` is appended to the command of the daemon."""
        self.assertEqual(self.overrides("ARGS=--set=uploads.wait=1"), ["uploads.wait=1"])
