"""The pool's connection to one helper, and the helper's process."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.amp import AMP
from twisted.python.failure import Failure

import fxprofile
from fxprofile.crunch.commands import CancelCommand, PingCommand, ReadyCommand
from fxprofile.crunch.protocol import CONNECTION, HelperConfig

_log = Logger()

#: Seconds that a helper gets to import everything and become ready.
START_TIMEOUT: Final = 60
#: Seconds that a helper gets to exit after its connection was closed.
_STOP_TIMEOUT: Final = 5
#: Seconds within which a helper must respond to one of two pings.
_PING_TIMEOUT: Final = 2
#: How much of the standard error of a helper is logged, in bytes.
_MAX_STDERR: Final = 8 << 10

_BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from fxprofile.crunch.helper.main import main; main(sys.argv[2])"
)

#: The C library's allocator in a helper and its children.  Large pages, where it knows them
#: (glibc 2.35): a child touches all of its memory for the first time, and asking the kernel
#: for each page takes longer than most of the work on it.  Pictures come from the heap, where
#: freed memory is reused, and not from mappings of their own.
TUNABLES: Final = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=33554432",
        "glibc.malloc.trim_threshold=1073741824",
        "glibc.malloc.top_pad=0",
    )
)
#: The whole environment of a helper, but for ``LD_LIBRARY_PATH``.  Libraries that start
#: threads when they are imported would do so in each helper.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": TUNABLES,
}


def _search_path() -> list[str]:
    """Return this process's module search path, for a process without an environment."""
    package = str(Path(fxprofile.__file__).resolve().parent.parent)
    # Entries that are no paths belong to import hooks, which that process does not have.
    found = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or ".")]
    return found if package in found else [package, *found]


class HelperConnection(AMP):
    """
    The pool's end of the connection to one helper process.

    :ivar jobs: how many children it has now; counted by the pool.
    :ivar problem: why it gets no jobs; empty if it does.
    :ivar proven: when it last crunched an image, in seconds.
    :ivar lost: fires when the connection is lost.
    :ivar ended: fires when the process has ended.
    """

    def __init__(self, reactor: Any, config: HelperConfig) -> None:
        super().__init__()
        self._reactor = reactor
        self._config = config
        self._process: IProcessTransport | None = None
        self.jobs = 0
        self.problem = "starting"
        self.proven = -math.inf
        self.lost: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    @property
    def pid(self) -> int | None:
        """The process id of the helper, while it runs."""
        pid: int | None = getattr(self._process, "pid", None)
        return pid

    async def start(self) -> tuple[frozenset[str], dict[str, str]]:
        """
        Spawn the helper and wait until it is ready.

        :returns: the sandbox layers of its children, and the versions of its codecs by name.
        :raises Exception: if it is not ready within :data:`START_TIMEOUT`.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs, open(os.devnull, "r+b") as null:  # noqa: ASYNC230
            ours.setblocking(False)
            boot = [sys.executable, "-I", "-S", "-c", _BOOT]
            kept = {n: value for n, value in os.environ.items() if n == "LD_LIBRARY_PATH"}
            self._process = self._reactor.spawnProcess(
                _HelperProcess(self),
                sys.executable,
                [*boot, json.dumps(_search_path()), self._config.encode()],
                env=_ENVIRONMENT | kept,
                path="/",
                childFDs={
                    0: null.fileno(),
                    1: null.fileno(),
                    2: "r",
                    CONNECTION: theirs.fileno(),
                },
            )
            factory = Factory.forProtocol(lambda: self)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        response = await self.callRemote(ReadyCommand).addTimeout(START_TIMEOUT, self._reactor)
        versions = dict(line.split(" ", 1) for line in response["versions"].splitlines())
        return frozenset(response["layers"].split()), versions

    async def responds(self) -> bool:
        """Return whether the helper responds to a ping."""
        # If this process was paused, the first ping times out before its response is read.
        for _ in range(2):
            with suppress(TimeoutError):
                await self.callRemote(PingCommand).addTimeout(_PING_TIMEOUT / 2, self._reactor)
                return True
        return False

    def cancel(self, job: int) -> None:
        """Kill the child of a job; the job's response still comes."""
        # If the helper is gone, so is the child.
        self.callRemote(CancelCommand, job=job).addErrback(lambda _: None)

    def close(self) -> Deferred[None]:
        """Close the connection, on which the helper and its children end; wait for that."""
        self._abort()
        if self._process is None:
            return succeed(None)
        if not self.ended.called:
            late = self._reactor.callLater(_STOP_TIMEOUT, self.kill)
            self.ended.addBoth(lambda _: late.cancel() if late.active() else None)
        return self.ended

    def kill(self) -> None:
        """Kill the helper."""
        self._abort()
        if self._process is not None and self.pid is not None:
            self._process.signalProcess("KILL")

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.problem = "ended"
        # First, so that a caller whose job fails does not get this helper for its next one.
        self.lost.callback(None)
        super().connectionLost(reason)


class _HelperProcess(ProcessProtocol):
    """Logs the standard error and the end of a helper's process."""

    def __init__(self, connection: HelperConnection) -> None:
        self._connection = connection
        self._left = _MAX_STDERR

    def errReceived(self, data: bytes) -> None:
        if self._left > 0:
            text = ascii(data[: self._left].decode("utf-8", "replace"))[1:-1]
            self._left -= len(data)
            _log.warn("Crunch helper wrote to standard error: {text}", text=text)

    def processEnded(self, reason: Failure) -> None:
        if not reason.check(ProcessDone):
            _log.warn("Crunch helper ended: {reason}", reason=reason.getErrorMessage())
        self._connection.kill()
        self._connection.ended.callback(None)
