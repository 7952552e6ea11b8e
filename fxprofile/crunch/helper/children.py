"""
The children of a helper: from the fork to the last word on how they ended.

The helper itself never reads an image, nor what a child writes except for one line
from before its job and a little of its standard error.
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
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from fxprofile.crunch import heap, sandbox
from fxprofile.crunch.codec.headers import Buffer
from fxprofile.crunch.codec.job import CONTROL, INPUT, OUTPUT, STATUS, STDERR
from fxprofile.crunch.commands import HelperConfig
from fxprofile.crunch.limits import Limits

Job = Callable[[Buffer, Limits], None]

#: No descriptor of a helper has a number as high as this.
MAX_DESCRIPTORS: Final = 4096
#: The exit status of a child whose job raised.
RAISED: Final = 70

_MAX_STDERR: Final = 2 << 10
_MAX_REPORT: Final = 4 << 10
_GO: Final = b"G"
#: Seconds between two looks at a process where the kernel has no descriptor for it.
_LOOK: Final = 0.005


@implementer(IReadDescriptor)
class _Readable:
    """Calls back whenever a descriptor can be read."""

    def __init__(self, descriptor: int, name: str, read: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._name = name
        self.doRead = read

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return self._name

    def connectionLost(self, reason: Any) -> None:
        """The reactor ends; so do the children."""


class Child:
    """
    One child, in the helper.

    :ivar gone: fires with the members of a response to
        :class:`fxprofile.crunch.commands.Crunch` when the child is gone for good.
    """

    def __init__(
        self, reactor: Any, config: HelperConfig, base: int, baseline: set[str] | None
    ) -> None:
        """
        :param base: the address space of the helper, in bytes.
        :param baseline: layers that each child is to have; None if it is not yet known.
        """
        self._reactor = reactor
        self._config = config
        self._base = base
        self._baseline = baseline
        self._ended = ""
        self._report = b""
        self._open: list[int] = []
        self._readers: list[_Readable] = []
        self._calls: list[Any] = []
        self.layers: set[str] = set()
        self.gone: Deferred[dict[str, Any]] = Deferred()

    def start(self, job: Job, original: int, output: int) -> None:
        """
        Fork the child.

        :param original: a descriptor of the image, to be read.
        :param output: a descriptor of the result, to be written.
        :raises OSError: if there can be no child.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stderr, stderr_of_child = os.pipe()
            try:
                # Nobody reads it before the end: what does not fit in is lost.
                os.set_blocking(stderr, False)
                os.set_blocking(stderr_of_child, False)
                parent = os.getpid()
                self._started = time.monotonic()
                self._pid = os.fork()
                if self._pid == 0:
                    wanted = (original, output, stderr_of_child, theirs.fileno())
                    _be_child(job, wanted, parent, self._config)
            except BaseException:
                os.close(stderr)
                raise
            finally:
                os.close(stderr_of_child)
            ours.setblocking(False)
            self._stderr, self._control = stderr, ours.detach()
            self._open += [self._stderr, self._control]
        self._watch()

    def end(self, why: str) -> None:
        """
        Kill the child, wherever it is.

        :param why: the word for it in the response.
        """
        if self.gone.called:
            return
        self._ended = self._ended or why
        # It is our child and not yet waited for, so nobody else can have this number.
        os.kill(self._pid, signal.SIGKILL)

    def _watch(self) -> None:
        self._read_with(self._control, self._heard)
        try:
            handle = os.pidfd_open(self._pid)
        except (OSError, AttributeError):
            self._later(_LOOK, self._look)
        else:
            self._open.append(handle)
            self._read_with(handle, self._reap)
        self._later(self._config.limits.timeout, self.end, "timeout")

    def _read_with(self, descriptor: int, read: Callable[[], None]) -> None:
        reader = _Readable(descriptor, f"child {self._pid}", read)
        self._readers.append(reader)
        self._reactor.addReader(reader)

    def _later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        self._calls.append(self._reactor.callLater(seconds, call, *arguments))

    def _heard(self) -> None:
        """The child has something to say: what holds it, and nothing else ever."""
        try:
            piece = os.read(self._control, _MAX_REPORT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self._report += piece
        if piece and not self._report.endswith(b"\n") and len(self._report) < _MAX_REPORT:
            return
        # It has said all that it may; its end is told by other means.
        self._reactor.removeReader(self._readers[0])
        if not piece:
            return
        said = self._report.decode("ascii", "replace").split()
        self.layers = sandbox.verified(said, self._pid)
        missing = (self._baseline or set()) - self.layers
        if missing or (
            self._baseline is not None and not sandbox.holds(self.layers, self._config.mode)
        ):
            self.end("unlocked")
            return
        try:
            os.write(self._control, _GO)
        except OSError:
            self.end("failed")

    def _look(self) -> None:
        self._reap()
        if not self.gone.called:
            self._later(_LOOK, self._look)

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
        for call in self._calls:
            if call.active():
                call.cancel()
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
    job: Job, wanted: tuple[int, int, int, int], parent: int, config: HelperConfig
) -> NoReturn:
    """The whole life of the child.  Nothing leaves this function but the end of it."""
    try:
        gc.disable()
        signal.set_wakeup_fd(-1)
        _keep_only(wanted)
        data = _mapped()
        layers = sandbox.lock(parent=parent, limits=config.limits, mode=config.mode)
        os.write(CONTROL, " ".join(sorted(layers)).encode() + b"\n")
        # The helper asks the kernel whether that is so.
        if os.read(CONTROL, 1) != _GO:
            os._exit(1)
        heap.start_afresh()
        job(data, config.limits)
        os._exit(0)
    except BaseException:
        os.write(STDERR, traceback.format_exc()[-_MAX_STDERR:].encode(errors="replace"))
    finally:
        os._exit(RAISED)


def _keep_only(wanted: tuple[int, int, int, int]) -> None:
    """Give the wanted descriptors their numbers, and close all others."""
    # First out of one another's way: a wanted number may be taken by another of them.
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 16) for descriptor in wanted]
    for descriptor, number in zip(high, (INPUT, OUTPUT, STDERR, CONTROL), strict=True):
        os.dup2(descriptor, number)
    try:
        os.dup2(os.open("/proc/self/status", os.O_RDONLY), STATUS)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDONLY), STATUS)
    os.closerange(STATUS + 1, MAX_DESCRIPTORS)


def _mapped() -> Buffer:
    """The original, which nobody has read yet."""
    length = os.fstat(INPUT).st_size
    data: Buffer = mmap.mmap(INPUT, length, access=mmap.ACCESS_READ) if length else b""
    os.close(INPUT)
    return data


def bound_descriptors() -> None:
    """See to it that :data:`MAX_DESCRIPTORS` is true of this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
