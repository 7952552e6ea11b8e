"""``twistd fxprofile``: its options, and the process that they ask for."""

from __future__ import annotations

import atexit
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from fxprofile.app.crashpoints import crash_point
from fxprofile.model.errors import ConfigError, DriverError
from fxprofile.settings.load import load
from fxprofile.settings.model import Role, Settings
from fxprofile.telemetry.logs import FromLibraries, make_observer


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"{text!r} must be one of {', '.join(Role)}") from None


class Options(UsageOptions):
    """
    The command line.

    What is wrong with it ends the process with one line, and a status that is not zero.
    """

    synopsis = "[options]"
    longdesc = (
        "The Firefox Accounts profile service. Without options, everything runs in this one "
        "process, with files for buckets and SQLite for the rest. etc/fxprofile.toml describes "
        "every setting; FXPROFILE_SECTION__KEY in the environment goes above the file, and --set "
        "above both."
    )
    optParameters = [  # noqa: RUF012
        ["role", "r", "combined", "web, worker, images or combined."],
        ["config", "c", None, "The TOML file to read settings from."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["set"] = []

    def opt_set(self, setting: str) -> None:
        """Set one setting, as section.key=value; may be repeated."""
        self["set"].append(setting)

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise UsageError(f"there is nothing to do with {arguments[0]!r}")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except UsageError as error:
            # twistd would print all of its own help first.
            raise SystemExit(f"fxprofile: {error}") from None

    def postOptions(self) -> None:
        try:
            self["role"] = _role(self["role"])
            self.settings = load(config=self["config"], overrides=self["set"], role=self["role"])
        except ValueError as error:
            raise UsageError(f"--role: {error}") from None
        except ConfigError as error:
            raise UsageError(str(error)) from None
        parent = getattr(self, "parent", None)
        if parent is not None:
            self._name_files(parent)

    def _name_files(self, twistd: Any) -> None:
        """
        Name the files that twistd writes after the role, if nobody has named them.

        Several roles may run in one folder, and twistd's log file is not for several
        writers: they would overwrite each other's lines.
        """
        if twistd.get("pidfile") == "twistd.pid":
            name = f"fxprofile-{self['role']}.pid"
            twistd["pidfile"] = "" if twistd.get("nodaemon") else name
        if not (twistd.get("logfile") or twistd.get("nodaemon") or twistd.get("syslog")):
            twistd["logfile"] = f"fxprofile-{self['role']}.log"


def makeService(options: Options) -> Process:
    """
    Make the process that the options ask for.

    :raises SystemExit: with one line, if a setting cannot be used.
    """
    from twisted.internet import reactor

    try:
        return Process(options, reactor)
    except ConfigError as error:
        raise SystemExit(f"fxprofile: {error}") from None


class Process(MultiService):
    """
    One role, running: it says where it listens, and ends if it cannot do its work.
    """

    _log = Logger()

    def __init__(self, options: Options, reactor: Any) -> None:
        super().__init__()
        from fxprofile.app.roles import add_role
        from fxprofile.app.services import Services

        self._options = options
        self._settings: Settings = options.settings
        self._role: Role = options["role"]
        self._reactor = reactor
        self._services = Services(self._settings, reactor)
        point = crash_point()
        if point is not None:
            name = point.driver.replace(" ", "_")
            setattr(self._services, name, point.guard(getattr(self._services, name)))
        add_role(self._role, self._services)
        self._services.stack.setServiceParent(self)
        self._problem = ""

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        # What is registered first runs last.
        atexit.register(self._leave)
        given = getattr(self._options, "parent", None) or {}
        if not isinstance(parent, Componentized):
            return
        logging.getLogger().addHandler(FromLibraries())
        if not given.get("syslog"):
            config = self._settings.logging
            observer = make_observer(config.format, config.level, _log_file(given))
            dsn = self._settings.sentry.dsn
            if dsn is not None:
                from fxprofile.telemetry.sentry import ErrorReports

                reports = ErrorReports(
                    dsn=dsn.get_secret_value(),
                    environment=self._settings.environment,
                    role=self._role,
                )
                atexit.register(reports.close)
                observer = LogPublisher(observer, reports)
            parent.setComponent(ILogObserver, observer)

    def privilegedStartService(self) -> None:
        # If twistd is to become another user, this is the time for ports below 1024.
        super().privilegedStartService()
        self._or_end(self._check_listeners)

    def startService(self) -> None:
        _raise_descriptor_limit()
        self._or_end(self._make_files)
        self._services.health.starting = True
        self._or_end(super().startService)
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(self._failed)

    def _check_listeners(self) -> None:
        for listener in self._services.listeners:
            listener.check()

    def _make_files(self) -> None:
        for key, make in self._services.on_disk:
            try:
                make()
            except OSError as error:
                where = f" {error.filename}" if error.filename else ""
                raise ConfigError(f"{key}: cannot write to{where}: {error.strerror}") from None

    def _or_end(self, call: Callable[[], None]) -> None:
        """End the process with one line, if this raises."""
        try:
            call()
        except ConfigError as error:
            self._say(error)
            self._tell_twistd()
            # SystemExit would wait for the threads of services that have started.
            self._leave()

    def _tell_twistd(self) -> None:
        """Do what twistd does if a start fails, apart from the trace that it leaves."""
        given = getattr(self._options, "parent", None) or {}
        if given.get("statusPipe") is not None:
            # Who started this daemon waits to hear how that went, and reads so many bytes.
            line = f"1 {self._problem}".encode("ascii", "backslashreplace")[:100]
            os.write(given["statusPipe"], line)
        if given.get("pidfile"):
            with suppress(OSError):
                os.unlink(given["pidfile"])

    async def _start(self) -> None:
        for listener in self._services.listeners:
            await listener.ready()
        for ready in self._services.readiness:
            await ready()
        self._services.health.starting = False
        self._warn_of_local_drivers()
        self._log.info("{role} is ready: {where}", role=self._role, where=self._where())

    def _warn_of_local_drivers(self) -> None:
        local = self._settings.single_host_drivers(self._role)
        if self._settings.environment == "production" and local:
            self._log.warn(
                "What is for one machine is used in production: {local}", local=", ".join(local)
            )

    def _where(self) -> str:
        settings = self._settings
        places = {
            "API": (settings.web.public_url, (Role.WEB, Role.COMBINED)),
            "images": (settings.images.url, (Role.IMAGES, Role.COMBINED)),
            "admin": (settings.admin_listen(self._role), tuple(Role)),
        }
        return ", ".join(
            f"{n} {where}" for n, (where, roles) in places.items() if self._role in roles
        )

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, (ConfigError, DriverError, CannotListenError)):
            self._say(error)
        else:
            self._log.failure("Cannot start", failure=failure)
            self._problem = "fxprofile: cannot start; the log says why"
        self._reactor.callWhenRunning(self._reactor.stop)

    def _say(self, error: BaseException) -> None:
        self._problem = f"fxprofile: {error}"
        self._log.critical("{line}", line=self._problem)

    def _leave(self) -> None:
        """At the very end: the reactor keeps no exit status for twistd to end with."""
        if not self._problem:
            return
        sys.stdout.flush()
        # The log has taken the place of sys.stderr.
        print(self._problem, file=sys.__stderr__, flush=True)
        os._exit(1)


def _log_file(given: Any) -> IO[str]:
    name = given.get("logfile")
    if name == "-" or (not name and given.get("nodaemon", True)):
        return sys.stdout
    file: IO[str] = LogFile.fromFullPath(name or "twistd.log")
    return file


def _raise_descriptor_limit() -> None:
    """Each upload has a socket and a file: more than the usual soft limit is for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
