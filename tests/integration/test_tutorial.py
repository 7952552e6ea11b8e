"""Tests that run the commands of ``docs/tutorial/``, as a reader would paste them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.support.daemon import Daemon
from tests.support.servers import mariadb, redis
from tests.support.servers.local import free_port

ROOT = Path(__file__).parents[2]

#: Blocks that begin with one of these change the machine, or are done by the test itself.
DONE = ("make run", "sudo ", ".venv/bin/pip ")

#: Seconds that the commands of a page may take.
PATIENCE = 240


def blocks(page: str) -> list[str]:
    """Return the blocks of a page that are marked ``sh``, except those of :data:`DONE`."""
    text = (ROOT / "docs/tutorial" / page).read_text()
    found = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if not block.startswith(DONE)]


class TutorialCase(TestCase):
    """Commands of a page, in a folder that has what they need of the repository."""

    timeout = PATIENCE + 60

    def setUp(self) -> None:
        if shutil.which("curl") is None:
            raise SkipTest("curl is not installed")
        # In /tmp: the path of a socket has at most 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="fxprofile-tutorial-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "fxprofile/admin").mkdir(parents=True)
        (self.folder / "fxprofile/admin/samples").symlink_to(ROOT / "fxprofile/admin/samples")
        (self.folder / "README.md").symlink_to(ROOT / "README.md")
        (self.folder / ".venv").symlink_to(sys.prefix)

    def shell(self, environ: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a shell in the folder, which reads commands from its standard input."""
        return subprocess.Popen(
            ["bash", "-x"],
            cwd=self.folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    async def run_page(
        self, page: str, ports: Mapping[str, str], environ: Mapping[str, str] | None = None
    ) -> str:
        """
        Run all commands of a page in one shell, which must succeed, and return their output.

        :param ports: what to use in place of the ports of the page.
        :param environ: further environment.
        """
        script = "set -euo pipefail\n" + "\n".join(blocks(page))
        for port, other in ports.items():
            script = re.sub(rf"(?<=[:= ]){port}\b", other, script)
        if "1113" in ports:
            for role, port in (("web", "1114"), ("worker", "1113"), ("images", "1115")):
                listen = f"--set=admin.listen=tcp:{ports[port]}:interface=127.0.0.1"
                script = script.replace(
                    f"fxprofile --role={role}", f"fxprofile --role={role} {listen}"
                )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FXPROFILE_", "AWS_"))}
        shell = self.shell({**kept, **(environ or {}), "PYTHONPATH": str(ROOT)})
        try:
            output, _ = await deferToThread(shell.communicate, script, PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        self.assertEqual(shell.returncode, 0, output)
        return output


class FirstTutorialTests(TutorialCase):
    """``docs/tutorial/index.md``."""

    async def test_commands(self) -> None:
        """Every command of the first tutorial succeeds, and the pictures are PNGs."""
        async with Daemon(self.folder, preloaded=True) as daemon:
            ports = {
                "1111": str(daemon.ports.web),
                "1112": str(daemon.ports.images),
                "1114": daemon.admin_url.rpartition(":")[2],
            }
            environ = {
                "FXPROFILE_WEB__LISTEN": f"tcp:{daemon.ports.web}:interface=127.0.0.1",
                "FXPROFILE_IMAGES__LISTEN": f"tcp:{daemon.ports.images}:interface=127.0.0.1",
            }
            output = await self.run_page("index.md", ports, environ)
        for expected in (
            '"status": "ready"',
            '"displayName": "Alice"',
            "This is not a JPEG, PNG, GIF, WebP or AVIF image.",
            'fxprofile_uploads_total{outcome="accepted"} 1.0',
        ):
            self.assertIn(expected, output)
        for name in ("avatar.png", "avatar_large.png", "pictures/photo.jpg.default.png"):
            self.assertEqual((self.folder / name).read_bytes()[:8], b"\x89PNG\r\n\x1a\n", name)


class ServersTutorialTests(TutorialCase):
    """``docs/tutorial/servers.md``."""

    async def test_commands(self) -> None:
        """Every command of the second tutorial succeeds, with servers of its own."""
        reason = mariadb.missing() or redis.missing()
        if reason:
            raise SkipTest(reason)
        web, images = str(free_port()), str(free_port())
        ports = {
            port: str(free_port()) for port in ("1113", "1114", "1115", "3307", "6380", "5001")
        }
        environ = {
            "FXPROFILE_WEB__LISTEN": f"tcp:{web}:interface=127.0.0.1",
            "FXPROFILE_IMAGES__LISTEN": f"tcp:{images}:interface=127.0.0.1",
        }
        output = await self.run_page("servers.md", {**ports, "1111": web, "1112": images}, environ)
        self.assertIn('"status": "ready"', output)
        self.assertIn('"status": "processing"', output)
        self.assertEqual((self.folder / "avatar.png").read_bytes()[:4], b"\x89PNG")
