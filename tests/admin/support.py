"""
The command of the operators, as a child process of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import fxprofile
from fxprofile.admin.tools import Tools
from fxprofile.config import load
from fxprofile.database.migrate import upgrade

#: Seconds that a command may take.
PATIENCE = 120


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    @property
    def json(self) -> Any:
        """What it printed, for machines."""
        return json.loads(self.output)


def command(*arguments: str) -> list[str]:
    """What starts the command."""
    return [sys.executable, "-m", "fxprofile.admin.main", *arguments]


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: ours, without settings."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FXPROFILE_")}
    environ["PYTHONPATH"] = str(Path(fxprofile.__file__).parent.parent)
    environ["PYTHONWARNINGS"] = "default"
    return {**environ, **more}


class AdminCase(TestCase):
    """
    Tests of commands on the embedded drivers, in a directory of their own.

    :cvar settings: those of the service, as ``{"uploads.wait": 0}``.
    """

    settings: Mapping[str, object] = {}

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)

    def overrides(self) -> list[str]:
        """The settings, as ``--set`` takes them."""
        settings = {
            "database.url": f"sqlite:///{self.directory}/var/profile.db",
            "storage.directory": self.directory / "var/buckets",
            **self.settings,
        }
        return [f"{key}={value}" for key, value in settings.items()]

    async def admin(
        self, *arguments: str, status: int = 0, answers: str = "", bare: bool = False, **env: str
    ) -> Ran:
        """
        Run the command with the settings of the test.

        :param status: the exit status that it must have.
        :param answers: what the operator types.
        :param bare: whether to leave the settings out.
        """
        settings = [] if bare else [f"--set={override}" for override in self.overrides()]
        done = await deferToThread(
            subprocess.run,
            command(*settings, *arguments),
            cwd=self.directory,
            env=environment(**env),
            input=answers,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        self.assertEqual(ran.status, status, ran)
        self.assertNotIn("Traceback", ran.errors)
        self.assertNotIn("Warning", ran.errors)
        return ran

    async def error(self, *arguments: str, status: int = 1, **how: Any) -> str:
        """Run the command, see it fail, and give the one line that it says."""
        ran = await self.admin(*arguments, status=status, **how)
        self.assertEqual(ran.output, "")
        self.assertEqual(len(ran.errors.splitlines()), 1, ran)
        return ran.errors

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Tools]:
        """The drivers of the service, with a database that is up to date."""
        settings = load(overrides=self.overrides(), environ={})
        await deferToThread(upgrade, settings.database.url.get_secret_value())
        tools = Tools(settings, reactor)
        tools.stack.startService()
        try:
            yield tools
        finally:
            await tools.stack.stopService()
