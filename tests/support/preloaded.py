"""
A process that has the daemon's modules loaded, and forks daemons.

Importing the modules costs most of a daemon's start, and the tests start many.  What runs in
the fork is ``twistd`` with its arguments.

    python -m tests.support.preloaded
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from pkgutil import walk_packages
from threading import Lock
from types import ModuleType
from typing import Any

import fxprofile
from tests.support.servers.local import die_with_parent

ROOT = Path(__file__).parents[2]

#: What the package imports in functions, for the drivers of the tests.
_FURTHER = ("sqlalchemy.dialects.sqlite", "tests.support.crashing", "twisted.scripts.twistd")

#: What a daemon does not import, and what keeps the reactor that it finds when imported.
_OTHERS = (
    "fxprofile.admin",
    "fxprofile.crunch.codec",
    "fxprofile.crunch.helper",
    "fxprofile.drivers.redis",
    "fxprofile.drivers.sql.migrations",
)


class ForkServer:
    """The process, started when it is first used.  It ends with the tests."""

    def __init__(self) -> None:
        path = (ROOT, Path(__file__).parent / "plugins")
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def ask(self, **request: object) -> Any:
        """Send a request, and return the response."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process and all that it has forked."""
        self._process.communicate()


@cache
def shared() -> ForkServer:
    """Return the server of this test run; the first call starts it."""
    return ForkServer()


class ForkedProcess:
    """
    A forked daemon, with the methods of :class:`subprocess.Popen` that a daemon needs.

    :param command: the arguments of ``twistd``.
    :param log: where its output is appended.
    """

    def __init__(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.returncode: int | None = None
        self.pid: int = shared().ask(
            start=command, directory=str(cwd), environ=dict(env), log=str(log)
        )

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self.returncode is None:
            self.returncode = shared().ask(poll=self.pid)
        return self.returncode

    def wait(self) -> int:
        """Wait for the process to end; this blocks."""
        while (status := self.poll()) is None:
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)


def _become_daemon(start: list[str], directory: str, environ: dict[str, str], log: str) -> None:
    """Run ``twistd`` in this process, as if it had been executed."""
    die_with_parent()
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), number)
    os.closerange(3, 100)
    sys.argv = ["twistd", *start]
    importlib.import_module("twisted.scripts.twistd").run()
    sys.exit()


def main() -> None:
    """Fork daemons, and report their exit statuses, until standard input is closed."""
    # Klein imports the reactor, but uses it only to run by itself; each fork has its own.
    sys.modules["twisted.internet.reactor"] = ModuleType("reactor")
    package = walk_packages(fxprofile.__path__, "fxprofile.")
    for name in (*(module.name for module in package), *_FURTHER):
        if not name.startswith(_OTHERS):
            importlib.import_module(name)
    del sys.modules["twisted.internet.reactor"]
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                _become_daemon(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
