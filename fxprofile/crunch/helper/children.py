"""
A child of a helper: fork it, verify its sandbox, let it work, and report how it ended.

The helper never reads an image, nor what a child writes, except for the names of its
layers from before its job and the beginning of its standard error.
"""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.posixbase import PosixReactorBase
from twisted.python.failure import Failure
from zope.interface import implementer

from fxprofile.crunch import sandbox
from fxprofile.crunch.codec.headers import Buffer
from fxprofile.crunch.codec.job import CONTROL, INPUT, OUTPUT, STATUS, STDERR
from fxprofile.crunch.commands import ChildExit, HelperConfig
from fxprofile.crunch.helper import heap
from fxprofile.crunch.limits import Limits

Job = Callable[[Buffer, Limits], None]

#: No descriptor of a helper has a number as high as this.
MAX_DESCRIPTORS: Final = 4096
#: The exit status of a child whose job raised.
RAISED: Final = 70

_MAX_STDERR: Final = 2 << 10
_MAX_REPORT: Final = 4 << 10
_GO: Final = b"G"
#: Seconds between two looks at a process if the kernel has no descriptor for it.
_POLL: Final = 0.005


@implementer(IReadDescriptor)
class _Readable:
    """Calls back when a descriptor can be read."""

    def __init__(self, descriptor: int, name: str, read: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._name = name
        self.doRead = read

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return self._name

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops; so does the helper."""


class Child:
    """
    One child of a helper.

    :ivar layers: its sandbox layers, once it has reported them.
    :ivar gone: fires when the child has ended.
    """

    def __init__(
        self,
        reactor: PosixReactorBase,
        config: HelperConfig,
        base: int,
        baseline: set[str] | None,
    ) -> None:
        """
        :param base: the address space of the helper, in bytes.
        :param baseline: the layers that each child must have; None if not yet known.
        """
        self._reactor = reactor
        self._config = config
        self._base = base
        self._baseline = baseline
        self._ended = ""
        self._open: list[int] = []
        self._readers: list[_Readable] = []
        self._timers: list[IDelayedCall] = []
        self.layers: set[str] = set()
        self.gone: Deferred[ChildExit] = Deferred()

    def start(self, job: Job, original: int, output: int) -> None:
        """
        Fork the child.

        :param original: a descriptor of the image, for reading.
        :param output: a descriptor of the result file, for writing.
        :raises OSError: if there can be no child.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stderr, childs_stderr = os.pipe()
            try:
                # It is read only at the end: what does not fit is lost.
                os.set_blocking(stderr, False)
                os.set_blocking(childs_stderr, False)
                parent = os.getpid()
                self._started = time.monotonic()
                self._pid = os.fork()
                if self._pid == 0:
                    kept = (original, output, childs_stderr, theirs.fileno())
                    _be_child(job, kept, parent, self._config)
            except BaseException:
                os.close(stderr)
                raise
            finally:
                os.close(childs_stderr)
            ours.setblocking(False)
            self._stderr, self._control = stderr, ours.detach()
        self._open += [self._stderr, self._control]
        self._read_when_ready(self._control, self._read_report)
        timeout = self._reactor.callLater(self._config.limits.timeout, self.kill, "timeout")
        self._timers.append(timeout)
        try:
            handle = os.pidfd_open(self._pid)
        except (OSError, AttributeError):
            self._poll()
        else:
            self._open.append(handle)
            self._read_when_ready(handle, self._reap)

    def kill(self, why: str) -> None:
        """
        Kill the child, unless it has ended.

        :param why: for ``ended`` in the response.
        """
        if self.gone.called:
            return
        self._ended = self._ended or why
        # It is our child and not yet reaped, so no other process has this number.
        os.kill(self._pid, signal.SIGKILL)

    def _read_when_ready(self, descriptor: int, read: Callable[[], None]) -> None:
        reader = _Readable(descriptor, f"child {self._pid}", read)
        self._readers.append(reader)
        self._reactor.addReader(reader)

    def _read_report(self) -> None:
        """Read the names of the child's layers, which it writes at once, and nothing more."""
        try:
            report = os.read(self._control, _MAX_REPORT)
        except OSError:
            report = b""
        self._reactor.removeReader(self._readers[0])
        if not report:
            # It is about to end.
            return
        self.layers = sandbox.verified(report.decode("ascii", "replace").split(), self._pid)
        # The first child has no job, and defines what the others must have.
        if self._baseline is not None and not (
            self._baseline <= self.layers and sandbox.is_enough(self.layers, self._config.mode)
        ):
            self.kill("unlocked")
            return
        try:
            os.write(self._control, _GO)
        except OSError:
            self.kill("failed")

    def _poll(self) -> None:
        self._reap()
        if not self.gone.called:
            self._timers.append(self._reactor.callLater(_POLL, self._poll))

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self._pid, os.WNOHANG)
        if pid == 0:
            return
        wall = time.monotonic() - self._started
        try:
            stderr = os.read(self._stderr, _MAX_STDERR)
        except OSError:
            stderr = b""
        for reader in self._readers:
            self._reactor.removeReader(reader)
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        for descriptor in self._open:
            os.close(descriptor)
        self.gone.callback(
            {
                "ended": self._ended,
                "status": os.waitstatus_to_exitcode(status),
                "cpu": usage.ru_utime + usage.ru_stime,
                "wall": wall,
                "resident": usage.ru_maxrss << 10,
                "base": self._base,
                "stderr": stderr,
            }
        )


def _be_child(
    job: Job, kept: tuple[int, int, int, int], parent: int, config: HelperConfig
) -> NoReturn:
    """Run the whole life of the child, which ends in here."""
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        _keep_only(kept)
        data = _map_original()
        layers = sandbox.lock(parent=parent, limits=config.limits, mode=config.mode)
        os.write(CONTROL, " ".join(sorted(layers)).encode() or b" ")
        # The helper asks the kernel whether that is true.
        if os.read(CONTROL, 1) != _GO:
            os._exit(1)
        heap.start_at_large_page()
        job(data, config.limits)
        os._exit(0)
    except BaseException:
        os.write(STDERR, traceback.format_exc()[-_MAX_STDERR:].encode(errors="replace"))
    finally:
        os._exit(RAISED)


def _keep_only(kept: tuple[int, int, int, int]) -> None:
    """Give these descriptors the numbers that a job expects, and close all others."""
    # Out of the way first: one of them may have a number that another one gets.
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16) for descriptor in kept]
    for descriptor, number in zip(high, (INPUT, OUTPUT, STDERR, CONTROL), strict=True):
        os.dup2(descriptor, number)
    try:
        os.dup2(os.open("/proc/self/status", os.O_RDONLY), STATUS)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDONLY), STATUS)
    os.closerange(STATUS + 1, MAX_DESCRIPTORS)


def _map_original() -> Buffer:
    """Map the original into memory, without reading it."""
    length = os.fstat(INPUT).st_size
    data: Buffer = mmap.mmap(INPUT, length, access=mmap.ACCESS_READ) if length else b""
    os.close(INPUT)
    return data


def bound_descriptors() -> None:
    """Ensure that no descriptor of this process reaches :data:`MAX_DESCRIPTORS`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
