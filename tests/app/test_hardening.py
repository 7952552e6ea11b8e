"""Tests of what the process of a role gives up once it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.client import Client
from tests.support.daemon import Daemon

SECRET = "of-the-auth-server"
ENVIRON = {
    "FXPROFILE_SECRET_BEARER_TOKEN": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "LANGUAGE": "en",
}

#: KILL, SETGID, SETUID and SYS_ADMIN (include/uapi/linux/capability.h).
SANDBOX = sum(1 << number for number in (5, 6, 7, 21))

#: Reads the environment of a process with no more than the rights of its user.
SPY = """
import sys
from fxprofile.crunch.sandbox.process import drop_capabilities
drop_capabilities()
print(open(f"/proc/{sys.argv[1]}/environ", "rb").read())
"""


class HardeningTests(TestCase):
    """Processes of each role, which get secrets in their environment."""

    async def start(self, role: str, **settings: object) -> Daemon:
        values = {name.replace("__", "."): value for name, value in settings.items()}
        daemon = Daemon(role=role, settings=values, environ=ENVIRON)
        self.addCleanup(daemon.remove)
        await daemon.start()
        return daemon

    def assert_hardened(self, daemon: Daemon) -> None:
        """Assert what holds for every role."""
        environ = Path(f"/proc/{daemon.pid}/environ").read_bytes()
        self.assertNotIn(SECRET.encode(), environ)
        self.assertIn(b"LANGUAGE=en\0", environ)
        self.assertEqual(self.status(daemon, "NoNewPrivs"), 1)
        spy = subprocess.run(
            [sys.executable, "-c", SPY, str(daemon.pid)], capture_output=True, text=True
        )
        self.assertIn("PermissionError", spy.stderr)

    def status(self, daemon: Daemon, name: str) -> int:
        """Return a hexadecimal field of ``/proc/PID/status``."""
        lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields[name], 16)

    async def test_web_process_cannot_be_inspected_and_knows_its_secrets(self) -> None:
        """A running web process shows no secret to its user's processes, and still uses them."""
        needs_root()
        daemon = await self.start("web")
        self.assert_hardened(daemon)
        code, _ = await Client(daemon, SECRET).ask("DELETE", f"/v1/cache/{'a' * 32}")
        self.assertEqual(code, 200)

    async def test_images_process_of_root_has_no_capabilities(self) -> None:
        """In production, an images process that root started keeps no capabilities."""
        needs_root()
        daemon = await self.start("images", environment="production")
        self.assert_hardened(daemon)
        self.assertEqual(self.status(daemon, "CapEff"), 0)
        self.assertIn("Runs as root; give twistd --uid and --gid", daemon.output)

    async def test_worker_process_of_root_keeps_what_its_sandbox_needs(self) -> None:
        """In production, a worker that root started keeps four capabilities, and can crunch."""
        needs_root()
        daemon = await self.start("worker", environment="production")
        self.assert_hardened(daemon)
        self.assertEqual(self.status(daemon, "CapPrm"), SANDBOX)
        self.assertIn("worker is ready", daemon.output)


def needs_root() -> None:
    """Skip the test unless root runs it."""
    if os.geteuid() != 0:
        raise SkipTest("only root may look into an undumpable process")
