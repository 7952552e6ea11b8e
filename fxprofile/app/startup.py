"""
What twistd lacks at start-up: errors as one line, exit status 1, and file names per role.

twistd prints a traceback when a service cannot start, learns nothing of what fails after
``startService`` has returned, and exits with status 0 when the reactor is stopped then.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from fxprofile.app.hardening import harden
from fxprofile.app.reload import Reloader, ignore_further_stops, on_signal
from fxprofile.app.roles import add_role, add_supervisor
from fxprofile.app.services import Services
from fxprofile.app.systemd import ServiceManager
from fxprofile.crunch.sandbox import libc, process
from fxprofile.model.errors import ConfigError, DriverError, StoreError
from fxprofile.settings.endpoints import listener_url
from fxprofile.settings.model import LoggingSettings, Role, Settings
from fxprofile.telemetry.logs import (
    LevelFilter,
    RotatedLogFile,
    StandardLibraryHandler,
    make_observer,
)

if TYPE_CHECKING:
    from fxprofile.app.processes import Supervisor

#: twistd's own options, such as ``nodaemon``.
TwistdOptions = MutableMapping[str, Any]


def name_files(role: Role, twistd: TwistdOptions) -> None:
    """
    Name twistd's pid and log files after the role, unless the command line names them.

    Several roles may run in one folder, and twistd's log file is not for several writers:
    they would overwrite each other's lines.
    """
    if twistd.get("pidfile") == "twistd.pid":
        twistd["pidfile"] = "" if twistd.get("nodaemon") else f"fxprofile-{role}.pid"
    if not (twistd.get("logfile") or twistd.get("nodaemon") or twistd.get("syslog")):
        twistd["logfile"] = f"fxprofile-{role}.log"


def inherit(services: Services, option: str) -> None:
    """
    Have this process be one of several, which ends with its supervisor.

    :param option: an :class:`~fxprofile.app.processes.Inherited` as text.
    :raises SystemExit: with one line, if it is invalid.
    """
    from fxprofile.app.processes import Inherited

    try:
        services.inherited = Inherited.parse(option)
    except ValueError:
        raise SystemExit("fxprofile: --inherit: is for the service itself") from None
    process.die_with(services.inherited.parent)
    # It is sent to the whole process group: the supervisor decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_role(
    role: Role,
    services: Services,
    twistd: TwistdOptions,
    read: Callable[[], Settings],
    arguments: Sequence[str] = (),
) -> RoleService:
    """
    Return the service that runs a role.

    :param read: returns the settings; called again when they are to be reloaded.
    :param arguments: of ``twistd fxprofile``, for the further processes of the role.
    :raises SystemExit: with one line, if a setting cannot be used.
    """
    supervisor = None
    try:
        if services.inherited is None and services.settings.processes(role) > 1:
            supervisor = add_supervisor(role, services, arguments)
        else:
            add_role(role, services)
    except ConfigError as error:
        raise SystemExit(f"fxprofile: {error}") from None
    made = RoleService(role, services, twistd, read, supervisor)
    services.stack.setServiceParent(made)
    return made


def settle_heap() -> None:
    """
    Exclude the objects made so far from garbage collection, and return freed memory to the system.

    Most of these objects last as long as the process, and traversing them takes tens of
    milliseconds.
    """
    gc.freeze()
    gc.enable()
    # Not every C library has it.
    with suppress(OSError):
        libc.call("malloc_trim", 0)


class RoleService(MultiService):
    """A running role: it logs when it is ready, and ends the process if it cannot start."""

    _log = Logger()

    def __init__(
        self,
        role: Role,
        services: Services,
        twistd: TwistdOptions,
        read: Callable[[], Settings],
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__()
        self._supervisor = supervisor
        self._role = role
        self._services = services
        self._settings = services.settings
        self._twistd = twistd
        self._reloader = Reloader(read, services, supervisor)
        self._manager = ServiceManager(services.reactor, os.environ)
        self._manager.setServiceParent(self)
        self._output: IO[str] | LogFile | None = None
        self._problem = ""

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        # Handlers run in reverse: this one, which may end the process, runs last.
        atexit.register(self._exit_if_failed)
        if isinstance(parent, Componentized):
            logging.getLogger().addHandler(StandardLibraryHandler())
            on_signal(signal.SIGHUP, self._services.reactor, self._reload)
            on_signal(signal.SIGUSR1, self._services.reactor, self._reopen_log)
            self._services.reactor.addSystemEventTrigger("before", "shutdown", ignore_further_stops)
            if not self._twistd.get("syslog"):
                parent.setComponent(ILogObserver, self._observer())

    def _observer(self) -> ILogObserver:
        config, dsn = self._settings.logging, self._settings.sentry.dsn
        levels = LevelFilter(config.level)
        self._services.follow("logging.level", levels.set_level)
        self._output = _log_output(self._twistd, config)
        if self._supervisor is not None and isinstance(self._output, LogFile):
            self._supervisor.output = self._output
        observer = make_observer(config.format, levels, self._output)
        if dsn is None:
            return observer
        from fxprofile.telemetry.sentry import ErrorReports

        reports = ErrorReports(
            dsn=dsn.get_secret_value(), environment=self._settings.environment, role=self._role
        )
        atexit.register(reports.close)
        return LogPublisher(observer, reports)

    def _reload(self) -> None:
        self._manager.reloading()
        reloaded = Deferred.fromCoroutine(self._reloader.reload())
        reloaded.addErrback(
            lambda failure: self._log.failure("Cannot reload the settings", failure=failure)
        )
        reloaded.addCallback(lambda _: self._manager.ready())

    def _reopen_log(self) -> None:
        if not isinstance(self._output, LogFile):
            self._log.info("The log is not in a file, so it was not opened again")
            return
        try:
            self._output.reopen()
        except OSError as error:
            self._log.error("Cannot open the log file again: {error}", error=error)

    def _check_rotation(self) -> None:
        log = self._output
        if isinstance(log, LogFile) and log.rotateLength and not os.access(log.directory, os.W_OK):
            problem = "The log is not rotated, because {folder} cannot be written to"
            self._log.warn(problem, folder=log.directory)

    def privilegedStartService(self) -> None:
        # twistd is still root here, if it is to become another user: ports below 1024 open.
        super().privilegedStartService()
        with self._exit_on_config_error():
            for listener in self._services.listeners:
                listener.check()

    def startService(self) -> None:
        # Each upload takes a socket and a file, which the usual soft limit does not allow for.
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with self._exit_on_config_error():
            self._create_files()
            self._services.health.starting = True
            super().startService()
        # The ports are open, the files exist, and twistd has become its user.
        harden(self._role, production=self._settings.environment == "production")
        settle_heap()
        Deferred.fromCoroutine(self._wait_until_ready()).addErrback(self._stop_reactor)

    def _create_files(self) -> None:
        for key, create in self._services.on_disk:
            try:
                create()
            except OSError as error:
                where = f" {error.filename}" if error.filename else ""
                raise ConfigError(f"{key}: cannot write to{where}: {error.strerror}") from None

    async def _wait_until_ready(self) -> None:
        for listener in self._services.listeners:
            await listener.ready()
        for ready in self._services.readiness:
            await ready()
        self._services.health.starting = False
        self._manager.ready()
        for doubt in self._settings.doubts(self._role):
            self._log.warn("Doubtful setting: {doubt}", doubt=doubt)
        self._check_rotation()
        if self._settings.environment == "production" and os.geteuid() == 0:
            self._log.warn("Runs as root; give twistd --uid and --gid, or User= to systemd")
        self._log.info("{role} is ready: {where}", role=self._role, where=self._addresses())
        if self._settings.environment == "development" and self._role in (Role.WEB, Role.COMBINED):
            page = f"{self._settings.web.public_url}/"
            self._log.info("To try it, open {page} in a browser", page=page)

    def _addresses(self) -> str:
        admin = self._settings.admin_listen(self._role)
        addresses = {
            "API": (self._settings.web.public_url, (Role.WEB, Role.COMBINED)),
            "images": (self._settings.images.url, (Role.IMAGES, Role.COMBINED)),
            "admin": (listener_url(admin) or admin, tuple(Role)),
        }
        return ", ".join(f"{n} {at}" for n, (at, roles) in addresses.items() if self._role in roles)

    @contextmanager
    def _exit_on_config_error(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            self._report(error)
            # This is what twistd does when a start fails, except for its traceback; but the pid
            # file is gone before the parent ends.
            if self._twistd.get("pidfile"):
                with suppress(OSError):
                    os.unlink(self._twistd["pidfile"])
            if self._twistd.get("statusPipe") is not None:
                # The parent of this daemon reads at most 100 bytes, and prints them.
                line = f"1 {self._problem}".encode("ascii", "backslashreplace")[:100]
                os.write(self._twistd["statusPipe"], line)
            # SystemExit would wait for the threads of services that have started.
            self._exit_if_failed()

    def _stop_reactor(self, failure: Failure) -> None:
        if isinstance(failure.value, (ConfigError, DriverError, CannotListenError)):
            where = "database.url: " if failure.check(StoreError) else ""
            self._report(f"{where}{failure.value}")
        else:
            self._log.failure("Cannot start", failure=failure)
            self._problem = "fxprofile: cannot start; the log says why"
        self._services.reactor.callWhenRunning(self._services.reactor.stop)

    def _report(self, error: object) -> None:
        self._problem = f"fxprofile: {error}"
        self._log.critical("{line}", line=self._problem)

    def _exit_if_failed(self) -> None:
        if self._problem:
            sys.stdout.flush()
            # sys.stderr goes to the log.
            print(self._problem, file=sys.__stderr__, flush=True)
            os._exit(1)


def _log_output(twistd: TwistdOptions, config: LoggingSettings) -> IO[str] | LogFile:
    name = twistd.get("logfile")
    if name == "-" or (not name and twistd.get("nodaemon", True)):
        return sys.stdout
    file: LogFile = RotatedLogFile.fromFullPath(
        name or "twistd.log",
        rotateLength=int(config.rotate_bytes),
        maxRotatedFiles=config.rotate_keep,
    )
    # The process may be root, and become this user later.
    owner = [-1 if twistd.get(key) is None else twistd[key] for key in ("uid", "gid")]
    if owner != [-1, -1]:
        os.chown(file.path, *owner)
    return file
