"""
The service as a child process of the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

import fxprofile
from tests.support.preloaded import ForkedProcess
from tests.support.servers.local import die_with_parent, free_port

#: Seconds that a daemon gets to start or to stop: a stop may wait 25 for work in flight.
PATIENCE = 60


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """
    Wait until a condition of a process or its files holds.

    :raises AssertionError: if it does not in so many seconds.
    """
    from twisted.internet import reactor

    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        await deferLater(reactor, 0.1)  # type: ignore[arg-type]
    raise AssertionError("it did not happen in time")


@dataclass(frozen=True)
class Ports:
    """The ports of one service, which the daemons of its roles share."""

    web: int = field(default_factory=free_port)
    images: int = field(default_factory=free_port)

    @property
    def web_url(self) -> str:
        """The root of the API, without a trailing slash."""
        return f"http://127.0.0.1:{self.web}"

    @property
    def images_url(self) -> str:
        """The origin of the images, without a trailing slash."""
        return f"http://127.0.0.1:{self.images}"


class Daemon:
    """
    ``twistd -n fxprofile`` on ports of its own, with its files in a directory.

    It may be started again after it ended, on the same directory and ports.  As an
    asynchronous context manager it starts, and ends with nothing left behind.  It dies
    with the tests, even if those are killed; so start it on the reactor's thread.

    :param directory: where it runs and keeps ``var/``; without one, it gets a temporary
        one, which :meth:`remove` removes.
    :param settings: further settings, as ``{"uploads.wait": 0}``.
    :param environ: further environment.
    :param ports: those of other roles of the same service.
    :param crash_at: where it kills itself, if it is preloaded; see :mod:`tests.support.crashing`.
    :param config: a settings file.
    :param preloaded: whether it starts sooner: forked from a process that has its modules
        loaded, and with one crunch helper.
    :ivar exit_status: of its last run, once that is known to have ended: see :meth:`stop`.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        role: str = "combined",
        settings: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        ports: Ports | None = None,
        crash_at: str | None = None,
        preloaded: bool = False,
        config: Path | None = None,
    ) -> None:
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="fxprofile-daemon-"))
        self.role = role
        self.settings = dict(settings or {})
        self.environ = dict(environ or {})
        self.ports = ports or Ports()
        self.admin_url = f"http://127.0.0.1:{free_port()}"
        self.crash_at = crash_at
        self.exit_status: int | None = None
        self.config = config
        self._preloaded = preloaded
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    async def __aenter__(self) -> Daemon:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.remove()

    @property
    def web_url(self) -> str:
        """The root of the API, without a trailing slash."""
        return self.ports.web_url

    @property
    def images_url(self) -> str:
        """The origin of the images, without a trailing slash."""
        return self.ports.images_url

    @property
    def pid(self) -> int | None:
        """The id of the process, if it is running."""
        return self._process.pid if self._process is not None else None

    @property
    def output(self) -> str:
        """The output since the first start."""
        try:
            return self._log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def _log(self) -> Path:
        return self.directory / f"{self.role}.log"

    def command(self) -> list[str]:
        """Return the command line."""
        settings = {
            "web.listen": f"tcp:{self.ports.web}:interface=127.0.0.1",
            "images.listen": f"tcp:{self.ports.images}:interface=127.0.0.1",
            "admin.listen": f"tcp:{self.admin_url.rpartition(':')[2]}:interface=127.0.0.1",
            **self.settings,
        }
        twistd = Path(sysconfig.get_path("scripts"), "twistd")
        plugin = ["fxprofile"]
        if self._preloaded:
            plugin = ["tested-fxprofile"]
        if self.crash_at is not None:
            plugin.append(f"--crash-at={self.crash_at}")
        return [
            *(sys.executable, str(twistd), "-n", *plugin, f"--role={self.role}"),
            *(f"--set={name}={value}" for name, value in settings.items()),
            *([f"--config={self.config}"] if self.config is not None else []),
        ]

    async def start(self) -> None:
        """
        Start the daemon, and wait until its admin listener reports that it is ready.

        :raises RuntimeError: with the output of the daemon, if it does not become ready.
        """
        if self._process is not None:
            raise RuntimeError("the daemon runs already")
        self._process = self._spawn()
        try:
            await self._until(self._answers, "did not start")
        except BaseException:
            await self.kill()
            raise

    def _spawn(self) -> subprocess.Popen[bytes] | ForkedProcess:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FXPROFILE_")}
        # Test the package that the tests import, even if another one is installed.
        environ.update(self.environ)
        path = [Path(fxprofile.__file__).parent.parent]
        if self._preloaded:
            path.append(Path(__file__).parent / "plugins")
        environ["PYTHONPATH"] = os.pathsep.join(map(str, path))
        if self._preloaded:
            # Without the names of the interpreter and of twistd.
            return ForkedProcess(self.command()[2:], cwd=self.directory, env=environ, log=self._log)
        with open(self._log, "ab") as log:
            return subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def stop(self) -> int:
        """
        Send SIGTERM to the daemon, and wait until it has ended.

        :returns: its exit status; as with ``subprocess``, minus the signal if it died
            of one, which is how twistd ends after a SIGTERM.
        :raises RuntimeError: with its output, if it does not end.
        """
        return await self._end(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """
        Send a signal to the daemon.

        :raises RuntimeError: if it is not running.
        """
        if self._process is None:
            raise RuntimeError("the daemon is not running")
        self._process.send_signal(number)

    async def until_output(self, text: str, count: int = 1) -> None:
        """
        Wait until its output has a text so many times.

        :raises RuntimeError: with its output, if it does not.
        """

        async def has_text() -> bool:
            return self.output.count(text) >= count

        await self._until(has_text, f"did not write {text!r}")

    async def kill(self) -> None:
        """Send SIGKILL to the daemon, and wait until it has ended."""
        await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        """Stop the daemon gracefully, and start it again on the same directory."""
        await self.stop()
        await self.start()

    async def remove(self) -> None:
        """Kill the daemon if it is running, and remove its directory if that is temporary."""
        await deferToThread(self.close)

    def close(self) -> None:
        """Do the same as :meth:`remove`; this blocks."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _end(self, number: int) -> int:
        process = self._process
        if process is None:
            return 0
        process.send_signal(number)
        try:
            await self._until(self._ended, "did not stop")
        except RuntimeError:
            process.kill()
            process.wait()
            raise
        finally:
            self.exit_status = process.poll()
            if self.exit_status is not None:
                self._process = None
        return self.exit_status or 0

    async def runs(self) -> bool:
        """Return whether the daemon is running."""
        return not await self._ended()

    async def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def _answers(self) -> bool:
        if await self._ended():
            raise RuntimeError(f"the {self.role} daemon ended at its start:\n{self.output}")
        return await deferToThread(_is_up, f"{self.admin_url}/__lbheartbeat__")

    async def _until(self, condition: Any, otherwise: str) -> None:
        from twisted.internet import reactor

        clock: Any = reactor
        deadline = clock.seconds() + PATIENCE
        while not await condition():
            if clock.seconds() > deadline:
                raise RuntimeError(f"the {self.role} daemon {otherwise}:\n{self.output}")
            await deferLater(clock, 0.05)


def _is_up(url: str) -> bool:
    """Return whether a URL responds with 200; this blocks."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
