"""The pool's side of one helper: its process, and the connection to it."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.amp import AMP
from twisted.python.failure import Failure

import fxprofile
from fxprofile.crunch.commands import CONNECTION, Cancel, Crunch, HelperConfig, Ready
from fxprofile.crunch.heap import TUNABLES

_log = Logger()

#: Seconds in which a helper must have everything loaded.
PATIENCE: Final = 60
#: Seconds in which it must be gone after its connection was closed.
_STOP: Final = 5
#: How much of what a helper has to complain about is logged.
_MAX_STDERR: Final = 8 << 10

_BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from fxprofile.crunch.helper.main import main; main(sys.argv[2])"
)
#: A library that starts threads at its import would do so in each helper.
_ENVIRONMENT: Final = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": TUNABLES,
}


def _search_path() -> list[str]:
    """Where this process finds its modules, for one that starts without an environment."""
    package = str(Path(fxprofile.__file__).resolve().parent.parent)
    # Other entries are the marks of import hooks, which that process does not have.
    found = [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or ".")]
    return found if package in found else [package, *found]


def _environment() -> dict[str, str]:
    """All that a helper sees of ours: where the interpreter finds its libraries."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return _ENVIRONMENT | kept


class HelperLink:
    """
    One helper process.

    :ivar jobs: how many children it has.
    :ivar lost: fires when it can no longer be spoken to.
    :ivar ended: fires when its process is gone.
    """

    def __init__(self, reactor: Any, config: HelperConfig) -> None:
        self._reactor = reactor
        self._config = config
        self._amp = _Connection(self)
        self._process: Any = None
        self.jobs = 0
        self.lost: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    @property
    def pid(self) -> int | None:
        """Of the helper, while there is one."""
        pid: int | None = getattr(self._process, "pid", None)
        return pid

    async def start(self) -> tuple[frozenset[str], dict[str, str]]:
        """
        Spawn the helper and wait until it is ready.

        :returns: the layers that its children have, and the versions of its codecs.
        :raises Exception: if it does not get there; it is gone then.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            nothing = os.open(os.devnull, os.O_RDWR)
            try:
                self._process = self._reactor.spawnProcess(
                    _Process(self),
                    sys.executable,
                    [
                        sys.executable,
                        *("-I", "-S", "-c", _BOOT),
                        json.dumps(_search_path()),
                        self._config.encode(),
                    ],
                    env=_environment(),
                    path="/",
                    childFDs={0: nothing, 1: nothing, 2: "r", CONNECTION: theirs.fileno()},
                )
            finally:
                os.close(nothing)
            factory = Factory.forProtocol(lambda: self._amp)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        try:
            answer = await self._amp.callRemote(Ready).addTimeout(PATIENCE, self._reactor)
        except BaseException:
            self.kill()
            raise
        versions = dict(line.split(" ", 1) for line in answer["versions"].splitlines())
        return frozenset(answer["layers"].split()), versions

    def crunch(self, job: int, original: int, output: int) -> Deferred[dict[str, Any]]:
        """
        Have an image crunched in a child.

        :param original: a descriptor; it must stay open until the answer is here.
        :param output: likewise.
        :returns: the members of the response to
            :class:`fxprofile.crunch.commands.Crunch`, or whatever error AMP has.
        """
        self.jobs += 1

        def done(result: Any) -> Any:
            self.jobs -= 1
            return result

        call = self._amp.callRemote(Crunch, job=job, original=original, output=output)
        return call.addBoth(done)

    def cancel(self, job: int) -> None:
        """End the child of a job; the answer to the job comes all the same."""
        # If the helper is gone, so is the child.
        self._amp.callRemote(Cancel, job=job).addErrback(lambda _: None)

    def close(self) -> Deferred[None]:
        """Let the helper end; it takes its children with it."""
        self._amp.hang_up()
        if not self.ended.called:
            late = self._reactor.callLater(_STOP, self.kill)
            self.ended.addBoth(lambda _: late.cancel() if late.active() else None)
        return self.ended

    def kill(self) -> None:
        """End the helper at once."""
        self._amp.hang_up()
        if self.pid is not None:
            self._process.signalProcess("KILL")


class _Connection(AMP):
    """Says when a helper can no longer be spoken to."""

    def __init__(self, link: HelperLink) -> None:
        super().__init__()
        self._link = link

    def hang_up(self) -> None:
        """Drop the connection and what waits in it, if there is one."""
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # First, so that nobody who hears of a failed job comes here with the next one.
        self._link.lost.callback(None)
        super().connectionLost(reason)


class _Process(ProcessProtocol):
    """Says what a helper complains of, and that it is gone."""

    def __init__(self, link: HelperLink) -> None:
        self._link = link
        self._left = _MAX_STDERR

    def errReceived(self, data: bytes) -> None:
        if self._left > 0:
            text = ascii(data[: self._left].decode("utf-8", "replace"))[1:-1]
            self._left -= len(data)
            _log.warn("The crunch helper says: {text}", text=text)

    def processEnded(self, reason: Any) -> None:
        if not reason.check(ProcessDone):
            _log.warn("A crunch helper ended: {reason}", reason=reason.getErrorMessage())
        self._link.kill()
        self._link.ended.callback(None)
