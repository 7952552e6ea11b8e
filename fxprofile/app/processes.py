"""
Several processes of one role, which accept connections from one socket.

The supervisor opens the socket, and starts the others, which inherit it.  It accepts no
connection itself: it restarts, replaces and stops them, and has the admin listener of all.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, quoteStringArgument
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.web.client import URI
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from fxprofile.deferreds.backoff import Backoff
from fxprofile.deferreds.tasks import all_done, sleep
from fxprofile.http_client.agent import HttpAgent
from fxprofile.http_client.connection import Deadlines
from fxprofile.http_client.errors import HttpError
from fxprofile.model.errors import ConfigError
from fxprofile.serving.listener import Listener

#: Starts twistd without its script, whose folder may not be known.
_RUN: Final = "from twisted.scripts.twistd import run; run()"

#: The descriptor of the socket in a process that inherits it.
_DESCRIPTOR: Final = 3

#: Seconds for a process to become ready, and to end; it may wait 20 for requests in flight.
READY_WITHIN: Final = 60
STOP_WITHIN: Final = 40

#: Seconds between two polls of the state of a process.
_POLL: Final = 0.1

#: Seconds between two checks of each process.
CHECK_EVERY: Final = 5

#: Checks in a row that a process may leave without a response before it is killed.
MAX_MISSED: Final = 3

#: Seconds until a process is started again.
RETRIES: Final = Backoff(first=1, cap=30, shortest=0.5)

_DEADLINES: Final = Deadlines(connect=5, head=5, progress=5, total=10)

#: The longest response of an admin listener, in bytes.
_MAX_RESPONSE: Final = 16 << 20

#: Variables that systemd sets for the supervisor only.
_NOT_INHERITED: Final = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")


@attrs.frozen
class Inherited:
    """
    The socket that a process inherits.

    :ivar family: the address family, such as ``socket.AF_INET``.
    :ivar parent: the id of the supervisor.
    """

    descriptor: int
    family: int
    parent: int

    @classmethod
    def parse(cls, text: str) -> Inherited:
        """
        Return what an option describes, as :meth:`__str__` writes it.

        :raises ValueError: if the text is invalid.
        """
        descriptor, family, parent = map(int, text.split(":"))
        return cls(descriptor, family, parent)

    def __str__(self) -> str:
        return f"{self.descriptor}:{self.family}:{self.parent}"


class ProcessFailed(Exception):
    """A process did not become ready."""


class SupervisedProcess(ProcessProtocol):
    """
    A process that the supervisor has started.

    :param number: from 1; its replacement has the same.
    :param host: the name of its admin listener.
    :param output: the log; None if the process writes to the supervisor's standard output.
    :ivar outcome: how it ended; empty while it runs.
    :ivar missed: health checks in a row without a response.
    """

    def __init__(self, number: int, host: str, output: LogFile | None) -> None:
        self.number = number
        self.host = host
        self.outcome = ""
        self.missed = 0
        self._output = output
        self._rest = b""

    def outReceived(self, data: bytes) -> None:
        # The log has whole lines of one process or another.
        lines, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if self._output is not None and newline:
            self._output.write(lines + newline)

    def errReceived(self, data: bytes) -> None:
        self.outReceived(data)

    def processEnded(self, reason: Failure) -> None:
        ended: Any = reason.value
        self.outcome = f"signal {ended.signal}" if ended.signal else f"status {ended.exitCode}"

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if not self.outcome and self.transport is not None:
            self.transport.signalProcess(number.value)


@implementer(IAgentEndpointFactory)
@attrs.define(eq=False)
class _AdminSockets:
    """Endpoints of the admin listeners of processes, by the name of the host in a URL."""

    reactor: Any
    folder: Path

    def endpointForURI(self, uri: URI) -> UNIXClientEndpoint:
        return UNIXClientEndpoint(self.reactor, str(self.folder / uri.host.decode()))


@attrs.define(kw_only=True, eq=False, slots=False)
class Supervisor(Service):
    """
    Keeps a number of processes running.

    :param listener: of the socket that they share.
    :param arguments: of ``twistd fxprofile`` for each of them.
    :ivar output: the log file; None if they write to the standard output of this process.
    """

    _log = Logger()
    name = "processes"

    _reactor: Any
    listener: Listener | None
    _arguments: Sequence[str]
    _count: int
    output: LogFile | None = None
    _folder: Path = attrs.field(init=False, default=Path())
    _agent: HttpAgent = attrs.field(init=False)
    _started: int = attrs.field(init=False, default=0)
    _problem: str = attrs.field(init=False, default="")
    _loops: list[Deferred[None]] = attrs.field(init=False, factory=list)
    _all: set[SupervisedProcess] = attrs.field(init=False, factory=set)
    _current: dict[int, SupervisedProcess] = attrs.field(init=False, factory=dict)
    _starting: set[int] = attrs.field(init=False, factory=set)

    def startService(self) -> None:
        super().startService()
        self._folder = Path(mkdtemp(prefix="fxprofile-"))
        self._agent = HttpAgent(self._reactor, endpoints=_AdminSockets(self._reactor, self._folder))
        for number in range(1, self._count + 1):
            loop = Deferred.fromCoroutine(self._keep(number))
            self._loops.append(loop.addErrback(self._ended_loop))

    def _ended_loop(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("The supervision of a process has ended", failure=failure)

    def stopService(self) -> Deferred[None]:
        """Stop all processes gracefully, at the same time."""
        super().stopService()
        for loop in self._loops:
            loop.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await all_done(self._end(child) for child in list(self._all))
        await self._agent.stopService()
        shutil.rmtree(self._folder, ignore_errors=True)

    def running_processes(self) -> list[SupervisedProcess]:
        """Return the processes that are ready, in the order of their numbers."""
        return [c for _, c in sorted(self._current.items()) if not c.outcome]

    async def ready(self) -> None:
        """
        Wait until all processes are ready.

        :raises ConfigError: if one of them cannot start; it has logged why.
        """
        while len(self._current) < self._count:
            if self._problem:
                raise ConfigError(f"{self._problem}; see the lines above")
            await sleep(self._reactor, _POLL)

    async def fetch(self, child: SupervisedProcess, path: str) -> bytes:
        """
        Return the response body of a process's admin listener; any status is accepted.

        :raises HttpError: if it does not respond.
        """
        url = f"http://{child.host}{path}".encode()
        response = await self._agent.send(b"GET", url, deadlines=_DEADLINES)
        return await response.read(_MAX_RESPONSE)

    async def watch(self) -> None:
        """Kill each process that has not responded for several calls; it is started again."""
        for child in self.running_processes():
            try:
                await self.fetch(child, "/__lbheartbeat__")
                child.missed = 0
            except HttpError as error:
                child.missed += 1
                if child.missed >= MAX_MISSED:
                    self._log.error(
                        "Process {number} does not respond: {error}; killing it",
                        number=child.number,
                        error=error,
                    )
                    child.kill(signal.SIGKILL)

    async def reload(self) -> None:
        """Replace the processes, one at a time, each when its successor is ready."""
        try:
            for number in range(1, self._count + 1):
                await self._replace(number)
            self._log.info("All {count} processes have been replaced", count=self._count)
        except ProcessFailed as error:
            if self.running:
                problem = "Processes not replaced: {error}; the running ones continue"
                self._log.error(problem, error=error)

    async def _replace(self, number: int) -> None:
        while number in self._starting:
            await sleep(self._reactor, _POLL)
        new = await self._bring_up(number)
        old, self._current[number] = self._current.get(number), new
        if old is not None:
            await self._end(old)

    async def _keep(self, number: int) -> None:
        """Keep a process of this number running."""
        failures = 0
        while self.running:
            child = self._current.get(number)
            if number in self._starting or (child is not None and not child.outcome):
                await sleep(self._reactor, _POLL)
                continue
            if failures or child is not None:
                outcome = self._problem if child is None else f"process {number}: {child.outcome}"
                delay = RETRIES.delay(failures + 1)
                problem = "Process ended ({outcome}); starting another in {delay:.1f} s"
                self._log.error(problem, outcome=outcome, delay=delay)
                await sleep(self._reactor, delay)
                if number in self._starting or self._current.get(number) is not child:
                    # A reload has replaced it.
                    continue
            try:
                self._current[number] = await self._bring_up(number)
                failures = 0
            except ProcessFailed as error:
                failures += 1
                self._problem = str(error)

    async def _bring_up(self, number: int) -> SupervisedProcess:
        """
        Start a process, and wait until it accepts requests.

        :raises ProcessFailed: if it does not.
        """
        self._starting.add(number)
        try:
            child = self._spawn(number)
            deadline = self._reactor.seconds() + READY_WITHIN
            while not await self._accepts(child):
                if child.outcome:
                    raise ProcessFailed(f"process {number} ended with {child.outcome}")
                if self._reactor.seconds() > deadline:
                    child.kill(signal.SIGKILL)
                    raise ProcessFailed(f"process {number} was not ready in {READY_WITHIN} s")
                await sleep(self._reactor, _POLL)
            return child
        finally:
            self._starting.discard(number)

    async def _accepts(self, child: SupervisedProcess) -> bool:
        try:
            return b'"ok"' in await self.fetch(child, "/__lbheartbeat__")
        except HttpError:
            return False

    def _spawn(self, number: int) -> SupervisedProcess:
        if not self.running:
            raise ProcessFailed("the supervisor stops")
        self._started += 1
        host = f"p{self._started}"
        child = SupervisedProcess(number, host, self.output)
        if self.listener is None:
            raise ConfigError("the processes have no socket")
        descriptor, family = self.listener.hold()
        inherited = Inherited(_DESCRIPTOR, family, os.getpid())
        path = quoteStringArgument(str(self._folder / host))
        arguments = [
            *(sys.executable, "-P", "-c", _RUN, "-n", "--pidfile=", "fxprofile"),
            *self._arguments,
            f"--set=admin.listen=unix:{path}:mode=600:lockfile=0",
            f"--inherit={inherited}",
        ]
        log: dict[int, Any] = {1: 1, 2: 2} if self.output is None else {1: "r", 2: "r"}
        self._all = {c for c in self._all if not c.outcome} | {child}
        self._reactor.spawnProcess(
            child,
            sys.executable,
            arguments,
            env={k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)},
            childFDs={0: 0, **log, _DESCRIPTOR: descriptor},
        )
        return child

    async def _end(self, child: SupervisedProcess) -> None:
        child.kill(signal.SIGTERM)
        deadline = self._reactor.seconds() + STOP_WITHIN
        while not child.outcome:
            if self._reactor.seconds() > deadline:
                self._log.error("Process {number} did not stop", number=child.number)
                child.kill(signal.SIGKILL)
                return
            await sleep(self._reactor, _POLL / 2)
