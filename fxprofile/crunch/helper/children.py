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
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from fxprofile.crunch import sandbox
from fxprofile.crunch.codec.containers.contents import Buffer
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
        *,
        heic: bool = False,
    ) -> None:
        """
        :param base: the address space of the helper, in bytes.
        :param baseline: the layers that each child must have; None if not yet known.
        :param heic: whether its image is HEIC; only then it may start a thread.
        """
        self._reactor = reactor
        self._config = replace(config, limits=replace(config.limits, heic=heic))
        self._base = base
        self._baseline = baseline
        self._ended = ""
        self._cleanup = ExitStack()
        self.layers: set[str] = set()
        self.gone: Deferred[ChildExit] = Deferred()

    def start(self, job: Job, original: int, output: int) -> None:
        """
        Fork the child.

        :param original: a descriptor of the image, for reading.
        :param output: a descriptor of the result file, for writing.
        :raises OSError: if there can be no child.
        """
        self._control, control = socket.socketpair()
        self._cleanup.enter_context(self._control)
        self._stderr, stderr = os.pipe()
        self._cleanup.callback(os.close, self._stderr)
        with control, open(stderr, "wb"):
            # It is read only at the end: what does not fit is lost.
            os.set_blocking(self._stderr, False)
            os.set_blocking(stderr, False)
            parent = os.getpid()
            self._started = time.monotonic()
            try:
                self._pid = os.fork()
            except OSError:
                self._cleanup.close()
                raise
            if self._pid == 0:
                _be_child(job, (original, output, stderr, control.fileno()), parent, self._config)
        self._control.setblocking(False)
        self._reporter = self._read_when_ready(self._control.fileno(), self._read_report)
        timer = self._reactor.callLater(self._config.limits.timeout, self.kill, "timeout")
        self._cleanup.callback(lambda: timer.cancel() if timer.active() else None)
        try:
            handle = os.pidfd_open(self._pid)
        except (OSError, AttributeError):
            poll = LoopingCall(self._reap)
            poll.clock = self._reactor
            self._cleanup.callback(poll.stop)
            poll.start(_POLL)
        else:
            self._cleanup.callback(os.close, handle)
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

    def _read_when_ready(self, descriptor: int, read: Callable[[], None]) -> _Readable:
        reader = _Readable(descriptor, f"child {self._pid}", read)
        self._reactor.addReader(reader)
        self._cleanup.callback(self._reactor.removeReader, reader)
        return reader

    def _read_report(self) -> None:
        """Read the names of the child's layers, which it writes at once, and nothing more."""
        try:
            report = self._control.recv(_MAX_REPORT)
        except OSError:
            report = b""
        self._reactor.removeReader(self._reporter)
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
            self._control.send(_GO)
        except OSError:
            self.kill("failed")

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self._pid, os.WNOHANG)
        if pid == 0:
            return
        wall = time.monotonic() - self._started
        try:
            stderr = os.read(self._stderr, _MAX_STDERR)
        except OSError:
            stderr = b""
        self._cleanup.close()
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
