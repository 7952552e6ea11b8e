"""The command itself: how it starts, how it is interrupted, and how it fails."""

from __future__ import annotations

import io
import signal
import subprocess
from contextlib import redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

import fxprofile
from fxprofile.admin.main import cli
from fxprofile.admin.shared.session import Problem, _Lines, _Run
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


class RunTests(SynchronousTestCase):
    """How work is run on a reactor."""

    def shutdown(self, reactor: Any) -> Any:
        """What the reactor has to wait for before it stops."""
        (trigger,) = reactor.triggers["before"]["shutdown"]
        function, args, kwargs = trigger
        return function(*args, **kwargs)

    def test_interrupted(self) -> None:
        """The work is cancelled, and waited for until it has tidied up."""
        tidied: Deferred[None] = Deferred()

        async def work(_: Any) -> None:
            try:
                await Deferred()
            except CancelledError:
                await tidied

        reactor = MemoryReactorClock()
        told: list[None] = []
        running = _Run(work, lambda: told.append(None))
        ended = running.main(reactor)
        stopping = self.shutdown(reactor)
        self.assertNoResult(stopping)
        self.assertNoResult(ended)
        self.assertEqual(told, [None])
        tidied.callback(None)
        self.successResultOf(stopping)
        self.successResultOf(ended)
        self.assertRaises(Problem, running.outcome)

    def test_ended(self) -> None:
        """After the end of the work the reactor waits for nothing."""

        async def work(_: Any) -> int:
            return 7

        reactor = MemoryReactorClock()
        running = _Run(work, self.fail)
        self.successResultOf(running.main(reactor))
        self.successResultOf(self.shutdown(reactor))
        self.assertEqual(running.outcome(), 7)

    def test_failed(self) -> None:
        """What the work raises is raised."""

        async def work(_: Any) -> None:
            raise ZeroDivisionError

        running = _Run(work, self.fail)
        self.successResultOf(running.main(MemoryReactorClock()))
        self.assertRaises(ZeroDivisionError, running.outcome)


class LogTests(SynchronousTestCase):
    """What it says while it works."""

    def lines(self, verbose: bool, *texts: str) -> list[str]:
        """What is said of warnings with these texts."""
        log = _Lines(verbose)
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
