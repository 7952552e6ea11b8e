"""
Jobs of hostile children, which a helper runs instead of the real one.

The first word of an "image" says which of them to run; :data:`HEIC` may stand before it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import threading
import time

from fxprofile.crunch.codec import job
from fxprofile.crunch.codec.containers.contents import Buffer
from fxprofile.crunch.limits import Limits

#: What an image begins with to be taken for HEIC.
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def run(data: Buffer, limits: Limits) -> None:
    """Run the job that the first word of the image names, or else crunch the image."""
    word = bytes(data[:64]).removeprefix(HEIC).split(b" ")[0].decode("ascii", "replace")
    if word == "labour":
        labour()
        job.run(data[len(word) + 1 :], limits)
    elif word in WORDS:
        WORDS[word](limits)
    else:
        job.run(data, limits)


def labour() -> None:
    """Work for a while; the image follows the word."""
    for _ in range(10_000_000):
        pass


def kill_helper(limits: Limits) -> None:
    """Kill the helper, as no child of a sandbox can."""
    os.kill(os.getppid(), signal.SIGKILL)
    _block()


def starve(limits: Limits) -> None:
    """Be runnable at the timeout, after having had little of the processor."""
    time.sleep(limits.timeout * 0.7)
    spin(limits)


def spin(limits: Limits) -> None:
    """Loop for ever."""
    while True:
        pass


def sleep(limits: Limits) -> None:
    """Sleep for ever, which costs no processor time."""
    while True:
        _block()


def _block() -> None:
    # The sandbox may forbid time.sleep; reading the control socket blocks for ever.
    try:
        time.sleep(60)
    except OSError:
        os.read(job.CONTROL, 1)


def allocate(limits: Limits) -> None:
    """Allocate more memory than the limit."""
    hoard = [bytearray(limits.memory // 4) for _ in range(16)]
    job.write(job.OUTPUT, b"got it" + hoard[0][:1])


def flood_stderr(limits: Limits) -> None:
    """Write megabytes to standard error, and no result."""
    for _ in range(10_000):
        with contextlib.suppress(BlockingIOError):
            os.write(job.STDERR, b"A" * 4096)


def flood_result(limits: Limits) -> None:
    """Write an endless result."""
    while True:
        os.write(job.OUTPUT, b"A" * (1 << 16))


def half_result(limits: Limits) -> None:
    """Write half of a header."""
    os.write(job.OUTPUT, struct.pack(">I", 100) + b'{"v": 1')


def nothing(limits: Limits) -> None:
    """Return without a result."""


def leave(limits: Limits) -> None:
    """Exit with a status."""
    os._exit(33)


def segfault(limits: Limits) -> None:
    """Read from address 0."""
    ctypes.string_at(0)


def stop(limits: Limits) -> None:
    """Stop with SIGSTOP."""
    os.kill(os.getpid(), signal.SIGSTOP)
    _block()


def raise_error(limits: Limits) -> None:
    """Raise an exception."""
    raise LookupError("a bug")


def hang_up(limits: Limits) -> None:
    """Close all descriptors, and loop for ever."""
    os.closerange(0, 100)
    spin(limits)


def chatter(limits: Limits) -> None:
    """Report layers to the helper again and again."""
    for _ in range(1000):
        os.write(job.CONTROL, b"no_new_privs seccomp\n")
    _block()


def thread(limits: Limits) -> None:
    """Start a thread, and return without a result."""
    threading.Thread(target=int).start()


WORDS = {
    function.__name__: function
    for function in (
        kill_helper,
        starve,
        spin,
        sleep,
        allocate,
        flood_stderr,
        flood_result,
        half_result,
        nothing,
        leave,
        segfault,
        stop,
        raise_error,
        hang_up,
        chatter,
        thread,
    )
}
