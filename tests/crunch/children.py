"""
Jobs that do what a child in hostile hands could do; a helper runs them in place of the
real one.  What each does is written in the bytes of its "image".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time

from fxprofile.crunch.codec import job
from fxprofile.crunch.codec.headers import Buffer
from fxprofile.crunch.limits import Limits


def run(data: Buffer, limits: Limits) -> None:
    """Do what the first word of the image says; crunch whatever is no word of ours."""
    word = bytes(data[:64]).split(b" ")[0].decode("ascii", "replace")
    if word in WORDS:
        WORDS[word](limits)
    else:
        job.run(data, limits)


def spin(limits: Limits) -> None:
    """Use the processor for ever."""
    while True:
        pass


def sleep(limits: Limits) -> None:
    """Wait for ever, which costs no processor time."""
    while True:
        _block()


def _block() -> None:
    # time.sleep may not be allowed; a read of the control socket blocks for good.
    try:
        time.sleep(60)
    except OSError:
        os.read(job.CONTROL, 1)


def allocate(limits: Limits) -> None:
    """Take more memory than there is for one."""
    hoard = [bytearray(limits.memory // 4) for _ in range(16)]
    job.write(job.OUTPUT, b"got it" + hoard[0][:1])


def flood_stderr(limits: Limits) -> None:
    """Write more to standard error than anybody wants to read, then nothing else."""
    for _ in range(10_000):
        with contextlib.suppress(BlockingIOError):
            os.write(job.STDERR, b"A" * 4096)


def flood_result(limits: Limits) -> None:
    """Write a result without an end."""
    while True:
        os.write(job.OUTPUT, b"A" * (1 << 16))


def half_result(limits: Limits) -> None:
    """Announce a header and write half of it."""
    os.write(job.OUTPUT, struct.pack(">I", 100) + b'{"v": 1')


def nothing(limits: Limits) -> None:
    """Claim that all went well, and leave no result."""


def leave(limits: Limits) -> None:
    """Leave with a status of its own choice."""
    os._exit(33)


def segfault(limits: Limits) -> None:
    """Touch memory that is not there."""
    ctypes.string_at(0)


def stop(limits: Limits) -> None:
    """Stop, so that it neither works nor ends."""
    os.kill(os.getpid(), signal.SIGSTOP)
    _block()


def raise_error(limits: Limits) -> None:
    """Have a mistake in it."""
    raise LookupError("a mistake")


def hang_up(limits: Limits) -> None:
    """Close all that it has, and go on."""
    os.closerange(0, 100)
    spin(limits)


def chatter(limits: Limits) -> None:
    """Talk to the helper as if it had to be locked again."""
    for _ in range(1000):
        os.write(job.CONTROL, b"no_new_privs seccomp\n")
    _block()


WORDS = {
    function.__name__: function
    for function in (
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
    )
}
