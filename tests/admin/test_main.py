"""The command itself: how it starts, how it is interrupted, and how it fails."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.admin.main import cli
from fxprofile.admin.shared.commands import log_lines
from tests.admin.support import PATIENCE, AdminCase, Ran, command, environment


class StartTests(AdminCase):
    """How it starts."""

    async def start(self, *arguments: str) -> Ran:
        """Run the command as a shell does."""
        done = await deferToThread(
            subprocess.run,
            command(*arguments),
            cwd=self.directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    async def test_help(self) -> None:
        """Help names every command, and makes nothing."""
        ran = await self.start("--help")
        self.assertEqual((ran.status, ran.errors), (0, ""))
        for name in cli.commands:
            self.assertIn(f"\n  {name} ", ran.output)
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_a_process_of_its_own(self) -> None:
        """Output, errors and status are those of any command."""
        ran = await self.start("migrate", "--json")
        self.assertEqual((ran.status, ran.errors), (0, ""))
        ran = await self.start("user", "show", "nobody")
        self.assertEqual((ran.status, ran.output), (1, ""))
        self.assertEqual(ran.errors.count("\n"), 1)
        ran = await self.start("queues", "--set=queue.driver=x")
        self.assertEqual((ran.status, ran.output), (2, ""))
        self.assertEqual(ran.errors.count("\n"), 1)

    async def test_usage(self) -> None:
        """What is no command, or not one of its options, is a usage error."""
        for arguments in (["nothing"], ["queues", "--nothing"], ["queues", "more"]):
            await self.admin(*arguments, status=2)

    async def test_version(self) -> None:
        """It knows its version."""
        ran = await self.admin("--version", bare=True)
        self.assertIn(fxprofile.__version__, ran.output)

    async def test_help_everywhere(self) -> None:
        """Every command has help, with the common options in it."""

        def names(group: Any, *above: str) -> Any:
            for name, one in group.commands.items():
                yield (*above, name)
                yield from names(one, *above, name) if hasattr(one, "commands") else ()

        for name in names(cli):
            ran = await self.admin(*name, "--help", bare=True)
            self.assertIn("--json", ran.output)
            self.assertIn("--config", ran.output)

    def test_entry_point(self) -> None:
        """The name that the installed command refers to is there."""
        text = (Path(fxprofile.__file__).parent.parent / "setup.py").read_text()
        module, _, function = text.partition("fxprofile-admin=")[2].partition('"')[0].partition(":")
        self.assertTrue(callable(getattr(import_module(module), function)))


class InterruptTests(AdminCase):
    """How it is interrupted."""

    async def interrupt(self, *signals: signal.Signals) -> Ran:
        """Send signals to a command that waits for a server."""
        connected: Deferred[None] = Deferred()

        class Silent(Protocol):
            def connectionMade(self) -> None:
                if not connected.called:
                    connected.callback(None)

        port: Any = reactor.listenTCP(0, Factory.forProtocol(Silent), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = f"http://127.0.0.1:{port.getHost().port}"
        child = await deferToThread(
            subprocess.Popen,
            [
                *command("doctor", "--role=web", "--set=identity.driver=fxa"),
                *(f"--set=identity.oauth_url={url}", f"--set=identity.auth_url={url}"),
                "--set=identity.timeout=60",
            ],
            cwd=self.directory,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        await connected
        for number in signals:
            child.send_signal(number)
            await deferLater(reactor, 0.01)
        output, errors = await deferToThread(child.communicate, timeout=PATIENCE)
        return Ran(child.returncode, output, errors)

    async def test_one_signal(self) -> None:
        """A signal ends it in order: one line, and status 1."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(
                await self.interrupt(number), Ran(1, "", "fxprofile-admin: interrupted\n")
            )

    async def test_two_signals(self) -> None:
        """An operator without patience is obeyed at once, or as soon as all is tidied up."""
        ran = await self.interrupt(signal.SIGINT, signal.SIGTERM)
        self.assertIn(ran.status, (1, -signal.SIGTERM))
        self.assertEqual(ran.output, "")


#: A command that waits, and prints a line when it has tidied up.
WAITS = """
import click
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from fxprofile.admin.shared.commands import AdminCommand, Answer, with_tools

@click.command(cls=AdminCommand)
@with_tools
async def wait(tools):
    try:
        print("waiting", flush=True)
        await Deferred()
    finally:
        await deferLater(tools.reactor, 0.1)
        print("tidied up", flush=True)

wait()
"""


class CancelTests(AdminCase):
    """How a signal cancels a command."""

    async def test_a_cancelled_command_tidies_up_before_it_ends(self) -> None:
        """The command ends only when its coroutine has handled the cancellation."""

        def interrupt() -> tuple[str, str, int]:
            child = subprocess.Popen(
                [sys.executable, "-c", WAITS],
                cwd=self.directory,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert child.stdout is not None
            first = child.stdout.readline()
            child.send_signal(signal.SIGINT)
            rest, errors = child.communicate(timeout=PATIENCE)
            return first + rest, errors, child.returncode

        self.assertEqual(
            await deferToThread(interrupt),
            ("waiting\ntidied up\n", "fxprofile-admin: interrupted\n", 1),
        )


class LogTests(SynchronousTestCase):
    """What it says while it works."""

    def lines(self, verbose: bool, *texts: str) -> list[str]:
        """What is said of warnings with these texts."""
        log = log_lines(verbose)
        with redirect_stderr(io.StringIO()) as errors:
            for text in texts:
                log({"log_format": "{text}", "text": text, "log_level": LogLevel.warn})
        return errors.getvalue().splitlines()

    def test_lines(self) -> None:
        """A warning is one line, can do nothing to a terminal, and is said once."""
        self.assertEqual(
            self.lines(False, "a\nb\x1b[1m", "c", "c"),
            ["fxprofile-admin: warn: a\\nb\\x1b[1m", "fxprofile-admin: warn: c"],
        )
        self.assertEqual(len(self.lines(True, "c", "c")), 2)
