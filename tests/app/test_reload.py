"""Tests of what running processes do on SIGHUP and SIGUSR1."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

import fxprofile
from fxprofile.app.reload import Reloader
from fxprofile.app.services import Services
from fxprofile.settings.load import load
from fxprofile.settings.model import Settings
from tests.support.daemon import Daemon, until
from tests.support.servers.local import free_port


def status_of(url: str, token: str = "alice") -> int:
    """Return the status of a DELETE with a token; this blocks."""
    request = urllib.request.Request(url, method="DELETE")
    request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


class ReloaderTests(TestCase):
    """Settings that are read again."""

    async def lines(self, *overrides: str, times: int = 1) -> list[str]:
        """Return what reloads with these settings log."""
        from twisted.internet import reactor

        services = Services(load(environ={}), reactor)
        self.applied: list[object] = []
        services.follow("logging.level", self.applied.append)
        services.follow("secret_bearer_token", lambda value: False)
        reloader = Reloader(lambda: load(environ={}, overrides=overrides), services)
        with capturedLogs() as logs:
            for _ in range(times):
                await reloader.reload()
        return [formatEvent(e) for e in logs if e["log_namespace"].startswith("fxprofile")]

    async def test_changed_setting_is_applied_once(self) -> None:
        """A changed setting is applied, and is no change at the next reload."""
        lines = await self.lines("logging.level=debug", times=2)
        self.assertEqual(self.applied, ["debug"])
        self.assertEqual(
            lines,
            ["Settings reloaded; changed: logging.level", "Settings reloaded; changed: none"],
        )

    async def test_others_need_a_restart(self) -> None:
        """Changed settings that no running process can apply are named, without their values."""
        lines = await self.lines("secret_bearer_token=hush", "cache.ttl=5")
        self.assertEqual(
            lines,
            [
                "Settings reloaded; changed: none",
                "Changed settings that need a restart: secret_bearer_token, cache.ttl",
            ],
        )

    async def test_invalid_settings_change_nothing(self) -> None:
        """If one setting is invalid, none is applied, and one line names its key."""
        lines = await self.lines("logging.level=debug", "cache.ttl=never")
        self.assertEqual(self.applied, [])
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("Settings not reloaded, nothing has changed: cache.ttl: ", lines[0])

    async def test_reloads_at_once(self) -> None:
        """Reloads at the same time are run one after the other, and those that wait share one."""
        from twisted.internet import reactor

        levels = iter(["debug", "warn", "error"])
        second = threading.Event()

        def read() -> Settings:
            level = next(levels)
            if level == "debug":
                second.wait(0.2)
            else:
                second.set()
            return load(environ={}, overrides=[f"logging.level={level}"])

        services = Services(load(environ={}), reactor)
        applied: list[object] = []
        services.follow("logging.level", applied.append)
        reloader = Reloader(read, services)
        await gatherResults([Deferred.fromCoroutine(reloader.reload()) for _ in range(3)])
        self.assertEqual(applied, ["debug", "warn"])


class _Case(TestCase):
    """A daemon with a settings file."""

    timeout = 120

    async def daemon(self, role: str, text: str, **settings: object) -> Daemon:
        """Start a daemon of a role, with its text as settings file."""
        daemon = Daemon(role=role, settings=settings)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        daemon.config = daemon.directory / "fxprofile.toml"
        daemon.config.write_text(text)
        await daemon.start()
        return daemon

    def rewrite(self, daemon: Daemon, text: str) -> None:
        """Change the settings file of a daemon, and send it SIGHUP."""
        assert daemon.config is not None
        daemon.config.write_text(text)
        daemon.send_signal(signal.SIGHUP)


class SignalTests(_Case):
    """SIGHUP and SIGUSR1, as an operator sends them."""

    async def test_limits_of_a_running_process_change(self) -> None:
        """After SIGHUP a process applies the new rate limit, log level and secret."""
        secret = 'secret_bearer_token = "one"\n'
        daemon = await self.daemon("combined", f"{secret}limits.writes_per_minute = 1000\n")
        url = f"{daemon.web_url}/v1/avatar"
        for _ in range(3):
            self.assertEqual(await deferToThread(status_of, url), 404)
        two = secret.replace("one", "two")
        self.rewrite(
            daemon, f'{two}limits.writes_per_minute = 2\nlogging.level = "debug"\ncache.ttl = 9\n'
        )
        await daemon.until_output("Settings reloaded")
        await daemon.until_output("need a restart: cache.ttl")
        self.assertEqual(await deferToThread(status_of, url), 429)
        cache = f"{daemon.web_url}/v1/cache/{'a' * 32}"
        self.assertEqual(await deferToThread(status_of, cache, "one"), 401)
        self.assertEqual(await deferToThread(status_of, cache, "two"), 200)
        check = f"{daemon.web_url}/__lbheartbeat__"
        await deferToThread(lambda: urllib.request.urlopen(check, timeout=20).close())
        await daemon.until_output("#debug] GET /__lbheartbeat__")
        self.rewrite(daemon, "limits.writes_per_minute = 0\nuploads.per_hour = -1\n")
        await daemon.until_output("nothing has changed: uploads.per_hour: ")
        self.assertEqual(await deferToThread(status_of, url), 429)

    async def test_no_role_ends(self) -> None:
        """SIGHUP and SIGUSR1 end neither a worker, nor its helpers, nor an images process."""
        for role in ("worker", "images"):
            text = "crunch.processes = 1\n" if role == "worker" else ""
            daemon = await self.daemon(role, text)
            children = _children(daemon.pid)
            self.rewrite(daemon, text.replace("1", "3"))
            await daemon.until_output("Settings reloaded; changed: " + ("crunch" if text else ""))
            # As "systemctl kill" does, which sends it to every process of the unit.
            for pid in (daemon.pid, *children):
                os.kill(pid or 0, signal.SIGUSR1)
                os.kill(pid or 0, signal.SIGHUP)
            await daemon.until_output("was not opened again")
            await daemon.until_output("Settings reloaded", 2)
            self.assertTrue(await daemon.runs())
            self.assertEqual(_children(daemon.pid), children)
            self.assertEqual(await daemon.stop(), -signal.SIGTERM)

    async def test_signals_to_a_process_that_stops(self) -> None:
        """SIGHUP and a second SIGTERM to a process that stops gracefully change nothing."""
        daemon = await self.daemon("images", "")
        connection = http.client.HTTPConnection("127.0.0.1", daemon.ports.images, timeout=20)
        self.addCleanup(connection.close)
        connection.request("GET", "/a/00000000000000000000000000000000")
        await deferToThread(lambda: connection.getresponse().read())
        # The idle connection holds the stop up for a second.
        daemon.send_signal(signal.SIGTERM)
        await daemon.until_output("Received SIGTERM")
        daemon.send_signal(signal.SIGHUP)
        self.assertEqual(await daemon.stop(), -signal.SIGTERM)
        self.assertNotIn("Traceback", daemon.output)

    async def test_health_checks_are_not_logged(self) -> None:
        """A health check is logged at the level debug only, other requests at info."""
        daemon = await self.daemon("combined", "")
        for path in ("/__lbheartbeat__", "/__heartbeat__", "/__version__"):
            url = daemon.web_url + path
            await deferToThread(lambda url=url: urllib.request.urlopen(url, timeout=20).close())
        await daemon.until_output("GET /__version__")
        self.assertNotIn("heartbeat__", daemon.output)


class DaemonizedTests(TestCase):
    """``twistd fxprofile`` without ``-n``."""

    timeout = 120

    async def start(self, *settings: str) -> tuple[Path, int]:
        """Start a daemon, and return its directory and the id of its process."""
        directory = Path(tempfile.mkdtemp(prefix="fxprofile-daemonized-"))
        self.admin = f"http://127.0.0.1:{free_port()}"
        listen = [
            f"admin.listen=tcp:{self.admin.rpartition(':')[2]}:interface=127.0.0.1",
            f"images.listen=tcp:{free_port()}:interface=127.0.0.1",
        ]
        command = [
            *(sys.executable, str(Path(sysconfig.get_path("scripts"), "twistd"))),
            *("fxprofile", "--role=images"),
            *(f"--set={setting}" for setting in (*listen, *settings)),
        ]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FXPROFILE_")}
        environ["PYTHONPATH"] = str(Path(fxprofile.__file__).parent.parent)
        await deferToThread(
            subprocess.run,
            command,
            cwd=directory,
            env=environ,
            check=True,
            timeout=60,
        )
        pid = int((directory / "fxprofile-images.pid").read_text())
        self.addCleanup(self.end, pid)
        await until(lambda: "images is ready" in self.log(directory), seconds=30)
        return directory, pid

    def end(self, pid: int) -> None:
        """Kill a daemon that is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def log(self, directory: Path) -> str:
        """Return its log."""
        return (directory / "fxprofile-images.log").read_text()

    async def test_log_is_rotated_and_bounded(self) -> None:
        """The log of a daemon is rotated at its size, and the configured number is kept."""
        directory, pid = await self.start("logging.rotate_bytes=2000", "logging.rotate_keep=2")
        for _ in range(60):
            lines = self.log(directory)
            os.kill(pid, signal.SIGHUP)
            await until(lambda lines=lines: self.log(directory) != lines, seconds=30)
        names = sorted(path.name for path in directory.glob("*.log*"))
        self.assertEqual(names, [f"fxprofile-images.log{end}" for end in ("", ".1", ".2")])
        for path in directory.glob("*.log*"):
            self.assertLess(path.stat().st_size, 2000 + 500)

    async def test_moved_log_is_opened_again(self) -> None:
        """After SIGUSR1 a daemon whose log was moved writes to a new file of the old name."""
        directory, pid = await self.start("logging.rotate_bytes=0")
        log = directory / "fxprofile-images.log"
        log.rename(directory / "moved")
        os.kill(pid, signal.SIGUSR1)
        await until(log.exists, seconds=30)
        os.kill(pid, signal.SIGHUP)
        await until(lambda: "Settings reloaded" in log.read_text(), seconds=30)
        self.assertNotIn("Settings reloaded", (directory / "moved").read_text())


def _children(pid: int | None) -> list[int]:
    """Return the ids of the children of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in re.findall(r"\d+", found)]
