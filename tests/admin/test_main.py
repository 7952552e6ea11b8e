"""The command line: how it starts, is interrupted, and reports errors."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
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
    """Starting the command line."""

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

    async def test_help_names_every_command(self) -> None:
        """Help names every command, and creates no files."""
        ran = await self.start("--help")
        self.assertEqual((ran.status, ran.errors), (0, ""))
        for name in cli.commands:
            self.assertIn(f"\n  {name} ", ran.output)
        self.assertEqual(list(self.directory.iterdir()), [])

    async def test_output_errors_and_status_of_a_process(self) -> None:
        """A command run as its own process has the documented output, errors and status."""
        ran = await self.start("migrate", "--json")
        self.assertEqual((ran.status, ran.errors), (0, ""))
        ran = await self.start("user", "show", "nobody")
        self.assertEqual((ran.status, ran.output), (1, ""))
        self.assertEqual(ran.errors.count("\n"), 1)
        ran = await self.start("queues", "--set=queue.driver=x")
        self.assertEqual((ran.status, ran.output), (2, ""))
        self.assertEqual(ran.errors.count("\n"), 1)

    async def test_an_unknown_command_or_option_is_a_usage_error(self) -> None:
        """
        An unknown command, option or argument, or a missing or wrong one, is one line that names
        the help to read.
        """
        for arguments, help_of in (
            (["nothing"], "fxprofile-admin"),
            (["queues", "--nothing"], "fxprofile-admin queues"),
            (["queues", "more"], "fxprofile-admin queues"),
            (["user", "show"], "fxprofile-admin user show"),
            (["user", "nothing"], "fxprofile-admin user"),
            (["avatar", "show", "x"], "fxprofile-admin avatar show"),
            (["user", "delete", "a" * 32, "--json"], "fxprofile-admin user delete"),
        ):
            line = await self.error(*arguments, status=2)
            self.assertTrue(line.startswith("fxprofile-admin: "), line)
            self.assertTrue(line.endswith(f"; see {help_of} --help\n"), line)

    async def test_a_group_alone_prints_its_help(self) -> None:
        """A group without a command prints its help."""
        for arguments in ([], ["user"]):
            ran = await self.admin(*arguments, bare=True, status=2)
            self.assertIn("Commands:", ran.output + ran.errors)

    async def test_the_version_is_printed(self) -> None:
        """--version prints the version of the package."""
        ran = await self.admin("--version", bare=True)
        self.assertIn(fxprofile.__version__, ran.output)

    async def test_every_command_has_help_with_the_common_options(self) -> None:
        """The help of every command lists the common options."""

        def names(group: Any, *above: str) -> Any:
            for name, one in group.commands.items():
                yield (*above, name)
                yield from names(one, *above, name) if hasattr(one, "commands") else ()

        for name in names(cli):
            ran = await self.admin(*name, "--help", bare=True)
            self.assertIn("--json", ran.output)
            self.assertIn("--config", ran.output)

    async def test_shells_complete_commands(self) -> None:
        """The script of each shell is printed, and asks the command for what may follow."""
        for shell in ("bash", "zsh", "fish"):
            ran = await self.admin("completion", shell, bare=True)
            self.assertIn("_FXPROFILE_ADMIN_COMPLETE", ran.output)
        words = {"COMP_WORDS": "fxprofile-admin qu", "COMP_CWORD": "1"}
        asked = {"_FXPROFILE_ADMIN_COMPLETE": "bash_complete", **words}
        ran = await self.admin(bare=True, **asked)
        self.assertEqual(ran.output.split(), ["plain,quarantine", "plain,queues"])

    async def test_bash_accepts_the_script(self) -> None:
        """Bash reads the completion script without an error."""
        ran = await self.admin("completion", "bash", bare=True)
        done = await deferToThread(
            subprocess.run, ["bash", "-n"], input=ran.output, capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_the_manual_page_is_that_of_the_commands(self) -> None:
        """``make man`` has been run since the last change of a command."""
        root = Path(fxprofile.__file__).parent.parent
        spec = spec_from_file_location("write", root / "etc/man/write.py")
        assert spec is not None
        assert spec.loader is not None
        write = module_from_spec(spec)
        spec.loader.exec_module(write)
        text = write.page()
        self.assertEqual(write.PAGE.read_text(), text, "run make man")
        self.assertIn(".SS avatar quarantine", text)

    def test_the_installed_command_refers_to_a_function(self) -> None:
        """The entry point in setup.py names a function that exists."""
        text = (Path(fxprofile.__file__).parent.parent / "setup.py").read_text()
        module, _, function = text.partition("fxprofile-admin=")[2].partition('"')[0].partition(":")
        self.assertTrue(callable(getattr(import_module(module), function)))


class InterruptTests(AdminCase):
    """Interrupting a command."""

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

    async def test_a_signal_ends_the_command_with_one_line(self) -> None:
        """SIGINT or SIGTERM ends a command with one line and status 1."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self.assertEqual(
                await self.interrupt(number), Ran(1, "", "fxprofile-admin: interrupted\n")
            )

    async def test_a_second_signal_ends_the_command_at_once(self) -> None:
        """A second signal ends the process, unless it has already ended in order."""
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
    """Cancellation by a signal."""

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
    """Log events on the standard error."""

    def lines(self, verbose: bool, *texts: str) -> list[str]:
        """Return the lines that are printed for warnings with these texts."""
        log = log_lines(verbose)
        with redirect_stderr(io.StringIO()) as errors:
            for text in texts:
                log({"log_format": "{text}", "text": text, "log_level": LogLevel.warn})
        return errors.getvalue().splitlines()

    def test_a_warning_is_printed_once_on_one_escaped_line(self) -> None:
        """A warning is one line with control characters escaped, and is printed once."""
        self.assertEqual(
            self.lines(False, "a\nb\x1b[1m", "c", "c"),
            ["fxprofile-admin: warn: a\\nb\\x1b[1m", "fxprofile-admin: warn: c"],
        )
        self.assertEqual(len(self.lines(True, "c", "c")), 2)
