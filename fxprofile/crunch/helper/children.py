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
from typing import Final, NoReturn

from fxprofile.crunch import sandbox
from fxprofile.crunch.codec.containers.contents import Buffer
from fxprofile.crunch.codec.job import CONTROL, INPUT, OUTPUT, STATUS, STDERR
from fxprofile.crunch.helper import heap
from fxprofile.crunch.helper.loop import Loop
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.protocol import ChildExit, HelperConfig
from fxprofile.crunch.sandbox import process

Job = Callable[[Buffer, Limits], None]

#: No descriptor of a helper has a number as high as this.
MAX_DESCRIPTORS: Final = 4096
#: The exit status of a child whose job raised.
RAISED: Final = 70

_MAX_STDERR: Final = 2 << 10
_MAX_REPORT: Final = 4 << 10
_GO: Final = b"G"
#: A child that was runnable at its timeout, and had less than this share of a processor, was
#: starved: with more it would have reached its CPU limit first (10 of 15 seconds by default).
_FAIR_SHARE: Final = 2 / 3
#: Seconds between two looks at a process if the kernel has no descriptor for it.
_POLL: Final = 0.005


class Child:
    """
    One child of a helper.

    :ivar layers: its sandbox layers, once it has reported them.
    """

    def __init__(
        self,
        loop: Loop,
        config: HelperConfig,
        base: int,
        baseline: set[str] | None,
        gone: Callable[[ChildExit], None],
    ) -> None:
        """
        :param base: the address space of the helper, in bytes.
        :param baseline: the layers that each child must have; None if not yet known.
        :param gone: called when the child has ended.
        """
        self.layers: set[str] = set()
        self._loop = loop
        self._config = config
        self._base = base
        self._baseline = baseline
        self._gone = gone
        self._ended = ""
        self._is_gone = False
        self._status = -1
        self._was_runnable = False
        self._cleanup = ExitStack()

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
        self._watch(self._control.fileno(), self._read_report)
        self._start_timer()
        self._cleanup.callback(self._loop.cancel, self)
        try:
            handle = os.pidfd_open(self._pid)
        except (OSError, AttributeError):
            self._cleanup.callback(self._loop.cancel, self._pid)
            self._poll()
        else:
            self._cleanup.callback(os.close, handle)
            self._watch(handle, self._reap)

    def kill(self, why: str) -> None:
        """
        Kill the child, unless it has ended.

        :param why: for ``ended`` in the response.
        """
        if self._is_gone:
            return
        self._ended = self._ended or why
        # It is our child and not yet reaped, so no other process has this number.
        os.kill(self._pid, signal.SIGKILL)

    def _time_out(self) -> None:
        # A child that waits for the processor or a disk, and not for anything of its own.
        self._was_runnable = process.status(self._status).get("State", "")[:1] in ("R", "D")
        self.kill("timeout")

    def _start_timer(self) -> None:
        self._loop.call_later(self, self._config.limits.timeout, self._time_out)

    def _watch(self, descriptor: int, read: Callable[[], None]) -> None:
        self._loop.watch(descriptor, read)
        self._cleanup.callback(self._loop.forget, descriptor)

    def _poll(self) -> None:
        self._loop.call_later(self._pid, _POLL, self._poll)
        self._reap()

    def _read_report(self) -> None:
        """Read what the child sends at once: its status file, then its layers; nothing more."""
        try:
            report, received, _, _ = socket.recv_fds(self._control, _MAX_REPORT, 1)
        except OSError:
            report, received = b"", []
        if received:
            (self._status,) = received
            self._cleanup.callback(os.close, self._status)
            return
        self._loop.forget(self._control.fileno())
        if not report:
            # It is about to end.
            return
        self.layers = sandbox.verified(report.decode("ascii", "replace").split(), self._status)
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
        if not self._ended:
            self._start_timer()

    def _reap(self) -> None:
        pid, status, usage = os.wait4(self._pid, os.WNOHANG)
        if pid == 0:
            return
        wall = time.monotonic() - self._started
        cpu = usage.ru_utime + usage.ru_stime
        exit_code = os.waitstatus_to_exitcode(status)
        # Its own alarm ends it only if this process was late.
        was_runnable = self._was_runnable or exit_code == -signal.SIGALRM
        if was_runnable and cpu < _FAIR_SHARE * wall:
            self._ended = "starved"
        try:
            stderr = os.read(self._stderr, _MAX_STDERR)
        except OSError:
            stderr = b""
        self._cleanup.close()
        self._is_gone = True
        self._gone(
            {
                "ended": self._ended,
                "status": exit_code,
                "cpu": cpu,
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
        _keep_only(kept)
        _send_status()
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


def _send_status() -> None:
    """
    Send the helper the file with this process's status.

    The helper could not open it where ``/proc`` hides what a process may not trace (``hidepid``).
    """
    control = socket.socket(fileno=CONTROL)
    socket.send_fds(control, [b"S"], [STATUS])
    control.detach()


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
