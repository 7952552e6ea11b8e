"""
What every command has: the settings of the service, a reactor for a while, and one way
to fail.

Exit statuses are 0 if all is well, 1 if something is wrong, and 2 if the command line
or the settings are.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from fxprofile.admin.shared.output import printable, say, say_json
from fxprofile.admin.shared.tools import NotMigrated, Tools
from fxprofile.model.errors import (
    CacheError,
    ConfigError,
    CruncherUnavailable,
    DriverError,
    QueueError,
    StorageError,
    StoreError,
)
from fxprofile.settings.load import load
from fxprofile.settings.model import Role, Settings

T = TypeVar("T")

#: Where to look when a driver of this kind fails.
_WHERE: tuple[tuple[type[DriverError], str], ...] = (
    (StoreError, "database.url"),
    (StorageError, "the settings of storage"),
    (QueueError, "the settings of queue"),
    (CacheError, "the settings of cache"),
    (CruncherUnavailable, "crunch.sandbox"),
)


class Problem(click.ClickException):
    """
    Something is wrong that the operator can do something about.

    Its text is one line.
    """

    exit_code = 1

    def show(self, file: Any = None) -> None:
        click.echo(f"fxprofile-admin: {printable(self.format_message())}", err=True)


class WrongSetting(Problem):
    """A setting is wrong."""

    exit_code = 2


class Session:
    """
    One run of the command.

    :ivar as_json: whether machines read what it prints.
    """

    def __init__(self) -> None:
        self.config: str | None = None
        self.overrides: list[str] = []
        self.as_json = False
        self.verbose = False

    def settings(self, role: Role = Role.IMAGES) -> Settings:
        """
        The settings of the service.

        :param role: whose needs they have to meet; those of the images role are the
            least.
        :raises ConfigError: if one is wrong.
        """
        return load(config=self.config, overrides=self.overrides, role=role)

    def answer(self, value: Any, text: str) -> None:
        """
        Print an answer.

        :param value: it for machines.
        :param text: it for people.
        """
        if self.as_json:
            say_json(value)
        else:
            say(text)

    def confirm(self, question: str, yes: bool) -> None:
        """
        Ask whether what cannot be undone is meant.

        :param yes: that the command line says so.
        :raises click.Abort: if it is not.
        """
        if yes:
            return
        # Nothing else goes on in this process, so the reactor may wait; but its handler
        # of the signal would only act after that.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            click.confirm(question, abort=True, err=True)
        finally:
            signal.signal(signal.SIGINT, handler)

    def no_questions(self, yes: bool) -> None:
        """
        Refuse to ask a machine.

        :raises click.UsageError: if there would be a question.
        """
        if self.as_json and not yes:
            raise click.UsageError("--json asks no questions, so it needs --yes.")

    def run(self, work: Callable[[Tools], Awaitable[T]], settings: Settings | None = None) -> T:
        """
        Run work on the reactor, and stop whatever it made before this returns.

        A signal that would end the process cancels the work; a second one ends the
        process at once.  The reactor runs once in a process, and so does this.

        :param work: gets what the settings describe.
        :raises Problem: if the operator interrupted it.
        :raises Exception: whatever the work raises.
        """
        known = settings or self.settings()
        _begin_logging(self.verbose)
        running = _Run(lambda reactor: _with_tools(known, reactor, work), _end_at_the_next)
        try:
            react(running.main)
        except SystemExit:
            return running.outcome()


async def _with_tools(settings: Settings, reactor: Any, work: Callable[[Tools], Awaitable[T]]) -> T:
    tools = Tools(settings, reactor)
    tools.stack.startService()
    try:
        return await work(tools)
    finally:
        await tools.stack.stopService()


def _end_at_the_next() -> None:
    """The next signal is no longer the reactor's: whoever sends it has no patience."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class _Run:
    """
    Work on a reactor that may be told to stop in the middle of it.

    :param interrupted: is called when that happens.
    """

    def __init__(
        self,
        work: Callable[[Any], Coroutine[Any, Any, Any]],
        interrupted: Callable[[], object],
    ) -> None:
        self._work = work
        self._when_interrupted = interrupted
        self._result: Any = None
        self._interrupted = False

    def main(self, reactor: Any) -> Deferred[None]:
        """Run the work; for :func:`twisted.internet.task.react`."""
        working = Deferred.fromCoroutine(self._work(reactor))
        ended: Deferred[None] = Deferred()
        stopped: Deferred[None] = Deferred()

        def keep(result: Any) -> None:
            self._result = result
            stopped.callback(None)
            ended.callback(None)

        def stopping() -> Deferred[None]:
            if not stopped.called:
                self._interrupted = True
                self._when_interrupted()
                working.cancel()
            return stopped

        reactor.addSystemEventTrigger("before", "shutdown", stopping)
        working.addBoth(keep)
        return ended

    def outcome(self) -> Any:
        """What came of the work."""
        if self._interrupted:
            raise Problem("interrupted")
        if isinstance(self._result, Failure):
            self._result.raiseException()
        return self._result


def line(error: ConfigError | DriverError) -> str:
    """One line for an error of a driver: what is wrong, and where to look."""
    text = " ".join(str(error).split())
    if isinstance(error, NotMigrated):
        return text
    for kind, where in _WHERE:
        if isinstance(error, kind):
            return f"{text} (see {where}, and what fxprofile-admin doctor says)"
    return text


def _begin_logging(verbose: bool) -> None:
    """Warnings go to the standard error as one line each; details are for the verbose."""
    predicate = LogLevelFilterPredicate(
        defaultLogLevel=LogLevel.debug if verbose else LogLevel.warn
    )
    if not verbose:
        # What the helpers say when they cannot start is many lines.
        predicate.setLogLevelForNamespace("fxprofile.crunch", LogLevel.error)
    observer = FilteringLogObserver(_Lines(verbose), [predicate])
    # What is printed is the answer of the command, and no log.
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=True)


@implementer(ILogObserver)
class _Lines:
    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._said: set[str] = set()

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info).name
        if self._verbose:
            print(f"{level}: {eventAsText(event)}", file=sys.stderr)
            return
        text = printable(formatEvent(event))
        # What is tried again and again fails again and again.
        if text not in self._said:
            self._said.add(text)
            print(f"fxprofile-admin: {level}: {text}", file=sys.stderr)
