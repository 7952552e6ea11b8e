"""Runs ``fxprofile-admin`` as a child process of the tests."""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from select import select
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import fxprofile
from fxprofile.admin.shared.tools import Tools
from fxprofile.drivers.sql.migrate import upgrade
from fxprofile.settings.load import load

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
        """The JSON that it printed."""
        return json.loads(self.output)


def command(*arguments: str) -> list[str]:
    """Return the arguments that start the command."""
    return [sys.executable, "-m", "fxprofile.admin.main", *arguments]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a command: ours, without settings."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FXPROFILE_")}
    environ["PYTHONPATH"] = str(Path(fxprofile.__file__).parent.parent)
    # Twisted starts programs by a fork, of which Python 3.12 and later warn where there are
    # threads.
    environ["PYTHONWARNINGS"] = "default,ignore:This process:DeprecationWarning"
    return {**environ, **more}


class Nursery:
    """Starts commands through a :mod:`tests.admin.nursery` process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.admin.nursery"],
                stdin=theirs.fileno(),
                env=environment(),
                start_new_session=True,
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait(PATIENCE)

    def run(
        self, arguments: Sequence[str], *, cwd: Path, environ: Mapping[str, str], answers: str
    ) -> Ran:
        """Run a command to its end.  Blocks."""
        with (
            tempfile.TemporaryFile() as typed,
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as errors,
        ):
            typed.write(answers.encode())
            typed.seek(0)
            reading, writing = os.pipe()
            with open(reading, "rb", buffering=0) as report:
                what = {"arguments": list(arguments), "cwd": str(cwd), "environ": dict(environ)}
                streams = [typed.fileno(), output.fileno(), errors.fileno(), writing]
                try:
                    socket.send_fds(self._socket, [json.dumps(what).encode()], streams)
                finally:
                    os.close(writing)
                said = b""
                while select([report], [], [], PATIENCE)[0] and (more := report.read(100)):
                    said += more
            pid, *status = said.split() or [b""]
            if pid and not status:
                # It hangs, or was killed.
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            output.seek(0)
            errors.seek(0)
            return Ran(
                int(status[0]) if status else -1,
                output.read().decode(),
                errors.read().decode(),
            )


#: Members whose own members are named by something else than a command.
_OPEN = ("settings", "layers", "versions", "names", "avatars")


def _keys(value: Any) -> Iterator[str]:
    """Yield the name of every member of the JSON that a command printed."""
    if isinstance(value, list):
        for item in value:
            yield from _keys(item)
    elif isinstance(value, dict):
        for key, member in value.items():
            yield key
            if key not in _OPEN or isinstance(member, list):
                yield from _keys(member)


@cache
def _documented() -> set[str]:
    """Return what is in code font in the documentation."""
    text = (Path(fxprofile.__file__).parent.parent / "docs/admin.md").read_text()
    return set(re.findall(r"`([^`\n]+)`", text))


@cache
def nursery() -> Nursery:
    """Return the process of this test run."""
    return Nursery()


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
        """Return the settings as ``--set`` takes them."""
        settings = {
            "database.url": f"sqlite:///{self.directory}/var/profile.db",
            "storage.directory": self.directory / "var/buckets",
            "queue.driver": "database",
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
        ran = await deferToThread(
            nursery().run,
            [*settings, *arguments],
            cwd=self.directory,
            environ=environment(**env),
            answers=answers,
        )
        self.assertEqual(ran.status, status, ran)
        self.assertNotIn("Traceback", ran.errors)
        self.assertNotIn("Warning", ran.errors)
        if "--json" in arguments and ran.output:
            self.assertLessEqual(set(_keys(ran.json)), _documented())
        return ran

    async def error(self, *arguments: str, status: int = 1, **how: Any) -> str:
        """Run a command that must fail, and return its only line on the standard error."""
        ran = await self.admin(*arguments, status=status, **how)
        self.assertEqual(ran.output, "")
        self.assertEqual(len(ran.errors.splitlines()), 1, ran)
        return ran.errors

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Tools]:
        """Give the services of the settings, with an up-to-date database."""
        settings = load(overrides=self.overrides(), environ={})
        await deferToThread(upgrade, settings.database.url.get_secret_value())
        tools = Tools(settings, reactor)
        tools.stack.startService()
        try:
            yield tools
        finally:
            await tools.stack.stopService()
