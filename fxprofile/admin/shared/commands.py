"""
What every command shares: the common options, settings, one run on the reactor, the answer and
the exit status.

A command is a coroutine function that gets a :class:`Tools` and its own options, and returns
an :class:`Answer`.  The exit status is 0 if all is well, 1 if something is wrong, and 2 if the
command line or a setting is wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import IO, TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click
from click.exceptions import NoArgsIsHelpError
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import provider

from fxprofile.admin.shared.output import printable
from fxprofile.admin.shared.tools import NotMigrated, Tools
from fxprofile.drivers.aws.client.errors import AwsError
from fxprofile.model import errors
from fxprofile.settings.load import load
from fxprofile.settings.model import Role

if TYPE_CHECKING:
    # click does not export the type.
    from click._termui_impl import ProgressBar

P = ParamSpec("P")
T = TypeVar("T")

#: The settings to check when a driver of this kind fails.
_WHERE: dict[type[errors.DriverError], str] = {
    errors.StoreError: "database.url",
    errors.StorageError: "the settings of storage",
    errors.QueueError: "the settings of queue",
    errors.CacheError: "the settings of cache",
    errors.CruncherUnavailable: "crunch.sandbox",
}


class Problem(click.ClickException):
    """
    Something is wrong that the operator can act on; the exit status is 1.

    :param message: one line.
    """

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"fxprofile-admin: {printable(self.message)}", err=True)


class WrongUsage(Problem):
    """The command line is wrong; the exit status is 2."""

    exit_code = 2

    @classmethod
    def of(cls, error: click.UsageError) -> WrongUsage:
        """Return a usage error of click, in one line that names the help to read."""
        path = "fxprofile-admin" if error.ctx is None else error.ctx.command_path
        text = " ".join(error.format_message().split()).rstrip(".")
        return cls(f"{text}; see {path} --help")


class WrongSetting(Problem):
    """A setting is wrong; the exit status is 2."""

    exit_code = 2


@dataclass(frozen=True)
class Answer:
    """
    What a command prints, and its exit status.

    :ivar value: printed as JSON with ``--json``.
    :ivar text: printed without ``--json``.
    :ivar errors: lines for the standard error; if there are any, the status is at least 1.
    """

    value: object
    text: str
    status: int = 0
    errors: Sequence[str] = ()


@dataclass
class Session:
    """
    The common options of one run.

    :ivar config: the settings file.
    :ivar overrides: settings of the command line, as ``section.key=value``.
    :ivar as_json: whether the answer is printed as JSON.
    :ivar verbose: whether log events are printed to the standard error.
    :ivar yes: whether every confirmation is given in advance.
    """

    config: str | None = None
    overrides: list[str] = field(default_factory=list)
    as_json: bool = False
    verbose: bool = False
    yes: bool = False


def current_session() -> Session:
    """Return the session of the command that is running."""
    return click.get_current_context().ensure_object(Session)


def _store(context: click.Context, option: click.Parameter, value: object) -> None:
    """Store the value of an option in the session, under the name of the option."""
    session = context.ensure_object(Session)
    if isinstance(value, tuple):
        session.overrides.extend(value)
    elif value:
        # The option may stand before the command and after it: unset must not undo set.
        setattr(session, str(option.name), value)


def common_options() -> list[click.Parameter]:
    """Return the options that every command has."""
    option = partial(click.Option, expose_value=False, callback=_store)
    return [
        option(("-c", "--config"), metavar="FILE", help="The TOML file to read settings from."),
        option(
            ("--set",),
            metavar="SECTION.KEY=VALUE",
            multiple=True,
            help="Set one setting; may be repeated.",
        ),
        option(("--json", "as_json"), is_flag=True, help="Print JSON."),
        option(("-v", "--verbose"), is_flag=True, help="Print log events to the standard error."),
    ]


#: For a command that asks for confirmation.
yes_option = click.option(
    *("-y", "--yes"),
    is_flag=True,
    help="Do not ask for confirmation.",
    expose_value=False,
    callback=_store,
)

#: The role that a command checks for; without ``help``.
role_option = partial(
    click.option,
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.COMBINED.value,
    callback=lambda context, parameter, value: Role(value),
)

#: How many findings a command lists; without ``help``.
limit_option = partial(click.option, "--limit", type=click.IntRange(min=1), default=100)


def checked_uid(_: click.Context, __: click.Parameter, value: str) -> str:
    """Return an argument that may be a uid."""
    if not 0 < len(value) <= 64 or not value.isprintable():
        raise click.BadParameter(f"{value!r} is not a uid")
    return value


#: The user that a command works on.
uid_argument = click.argument("uid", callback=checked_uid)


@contextmanager
def _one_line() -> Iterator[None]:
    """Replace a usage error of click, which has several lines, by one line."""
    try:
        yield
    except NoArgsIsHelpError:
        # Its message is the help.
        raise
    except click.UsageError as error:
        raise WrongUsage.of(error) from None


class _WithCommonOptions(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(common_options())

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


class AdminCommand(_WithCommonOptions):
    """A command with the common options, which prints the :class:`Answer` of its function."""

    def invoke(self, ctx: click.Context) -> None:
        try:
            answer: Answer = super().invoke(ctx)
        except (AwsError, errors.ConfigError, errors.DriverError) as error:
            kind = WrongSetting if isinstance(error, errors.ConfigError) else Problem
            raise kind(line(error)) from None
        if ctx.ensure_object(Session).as_json:
            click.echo(json.dumps(answer.value, indent=2, ensure_ascii=False))
        elif answer.text:
            click.echo(answer.text)
        for message in answer.errors:
            Problem(message).show()
        if answer.errors or answer.status:
            raise SystemExit(answer.status or 1)


class AdminGroup(_WithCommonOptions, click.Group):
    """A group of commands, which accepts the common options as well."""

    command_class = AdminCommand


def with_tools(
    work: Callable[Concatenate[Tools, P], Coroutine[Any, Any, T]],
) -> Callable[P, T]:
    """
    Decorate a coroutine function as a command that runs on the reactor.

    All that it has started is stopped before the command returns.  A first SIGINT or SIGTERM
    cancels it, a second one ends the process.  The settings must meet the needs of the role that
    ``--role`` names, or else of the images role, which has the fewest.
    """

    @wraps(work)
    def command(*args: P.args, **kwargs: P.kwargs) -> T:
        session = current_session()
        role = Role(str(kwargs.get("role", Role.IMAGES)))
        settings = load(config=session.config, overrides=session.overrides, role=role)
        # The standard output is the answer, not the log.
        globalLogBeginner.beginLoggingTo(
            [log_lines(session.verbose)], redirectStandardIO=False, discardBuffer=True
        )
        results: list[T] = []
        failures: list[Exception] = []

        async def main(reactor: Any) -> None:
            tools = Tools(settings, reactor)

            def cancel() -> None:
                if not working.called:
                    failures.append(Problem("interrupted"))
                    working.cancel()

            def interrupt(*_: object) -> None:
                _on_signals(signal.SIG_DFL)
                reactor.callFromThread(cancel)

            # When the reactor runs, it has installed its own signal handlers.
            await deferLater(reactor, 0)
            _on_signals(interrupt)
            tools.stack.startService()
            working = Deferred.fromCoroutine(work(tools, *args, **kwargs))
            try:
                results.append(await working)
            except Exception as error:
                failures.append(error)
            finally:
                await tools.stack.stopService()

        with suppress(SystemExit):
            react(main)
        if failures:
            raise failures[0]
        return results[0]

    return command


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def progress(label: str, *, length: int) -> AbstractContextManager[ProgressBar[int]]:
    """
    Show how much is done and the time that is left, on a terminal; not with ``--json``.

    :param length: of all that there is to do.
    """
    hidden = current_session().as_json or not sys.stderr.isatty()
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden)


def private(path: str, flags: int) -> int:
    """Open a file for :func:`open`, so that only its owner can read it."""
    return os.open(path, flags, 0o600)


def require_yes() -> None:
    """
    Refuse to ask a program for confirmation.

    :raises click.UsageError: if ``--json`` is given without ``--yes``.
    """
    session = current_session()
    if session.as_json and not session.yes:
        raise click.UsageError("--json does not ask for confirmation: add --yes.")


def confirm(question: str, about: str = "") -> None:
    """
    Ask for confirmation, unless ``--yes`` gives it.

    :param about: printed first, except with ``--json``.
    :raises click.Abort: if the answer is no.
    """
    session = current_session()
    if about and not session.as_json:
        click.echo(about)
    if session.yes:
        return
    # The reactor waits meanwhile, so its handler would act only after the answer.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True, err=True)
    finally:
        signal.signal(signal.SIGINT, handler)


def line(error: AwsError | errors.ConfigError | errors.DriverError) -> str:
    """Return one line about an error of a driver: what is wrong, and which setting to check."""
    text = " ".join(str(error).split())
    for kind, where in _WHERE.items():
        if isinstance(error, kind) and not isinstance(error, NotMigrated):
            return f"{text} (check {where}, or run fxprofile-admin doctor)"
    return text


def log_lines(verbose: bool) -> ILogObserver:
    """
    Return a log observer that prints events to the standard error.

    :param verbose: whether to print every event whole; else warnings, one line each and no line
        twice.
    """
    seen: set[str] = set()

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        text = printable(formatEvent(event))
        # A helper that cannot start logs many warnings.
        is_helper = event.get("log_namespace", "").startswith("fxprofile.crunch.")
        if verbose:
            print(f"{level.name}: {eventAsText(event)}", file=sys.stderr)
        elif level >= (LogLevel.error if is_helper else LogLevel.warn) and text not in seen:
            seen.add(text)
            print(f"fxprofile-admin: {level.name}: {text}", file=sys.stderr)

    return observe
