"""
Layers by which a process restricts itself: user, capabilities, limits, priority, namespaces.

Constants are from include/uapi/linux/prctl.h, sched.h and capability.h.
"""

from __future__ import annotations

import os
import platform
import resource
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Final, ParamSpec

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox.libc import call, prctl

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

_CAPABILITY_VERSION_3: Final = 0x20080522

_NOBODY: Final = 65534
#: User ids that nothing else uses: each child of root gets one of its own.
_FIRST_USER: Final = 0x7F000000
_NICE: Final = 10
#: The slice of time of a child, in nanoseconds; the longest one that there is.
_SLICE: Final = 100_000_000
#: The number of ``sched_setattr(2)``, which the C library has since glibc 2.41.
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}

#: More than ``/proc/PID/status`` has on a machine with thousands of processors.
_MAX_STATUS: Final = 64 << 10

P = ParamSpec("P")


def layer(apply: Callable[P, object]) -> Callable[P, bool]:
    """Make a function that applies a layer return whether that worked, instead of OSError."""

    @wraps(apply)
    def applied(*args: P.args, **kwargs: P.kwargs) -> bool:
        try:
            apply(*args, **kwargs)
        except OSError:
            return False
        return True

    return applied


@layer
def lower_priority() -> None:
    """
    Take a small share of a busy processor, and leave it at once to a process that wakes up.

    Since Linux 6.12, a process with a shorter slice of time preempts one with a longer slice
    (``PREEMPT_SHORT`` in kernel/sched/features.h); before, the slice is ignored.  ``SCHED_IDLE``
    would do the same, but on a busy processor an image would not end in time.
    """
    nice = os.nice(_NICE)
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        # struct sched_attr: size, policy, flags, nice, priority, slice in ns, deadline, period.
        attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _SLICE, 0, 0)
        # The nice value works without it.
        with suppress(OSError):
            call("syscall", number, 0, attributes, 0)


def leave_root() -> bool:
    """
    Become a user that owns nothing, if this is root.

    :returns: whether this is not root.
    """
    if os.geteuid() != 0:
        return True
    for user in (_FIRST_USER + os.getpid(), _NOBODY):
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        except OSError:
            # In a user namespace most ids are not mapped.
            continue
        return os.geteuid() != 0
    return False


@layer
def drop_capabilities(*kept: int) -> None:
    """
    Give up every capability (``capset(2)``) but some.

    :param kept: numbers below 32, which are left effective and permitted.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    mask = sum(1 << number for number in kept)
    call("capset", header, struct.pack("=6I", mask, mask, 0, 0, 0, 0))


@layer
def die_with(parent: int) -> None:
    """Be killed when the parent ends, and exit at once if it already has."""
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    finally:
        if os.getppid() != parent:
            os._exit(1)


@layer
def forbid_inspection() -> None:
    """
    Let no process of the same user read this one's memory and environment, or trace it.

    For a process with credentials, and for its children.
    """
    prctl(_PR_SET_DUMPABLE, 0)


@layer
def forbid_new_privileges() -> None:
    """Gain nothing from set-user-id programs; Landlock and seccomp require this."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


@layer
def die_first() -> None:
    """Be what the kernel kills first when memory runs out; children inherit it."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


@layer
def leave_namespaces() -> None:
    """
    Move to an empty network and IPC namespace; children inherit them.

    Many hosts do not allow this to unprivileged processes.
    """
    flags = _CLONE_NEWNET | _CLONE_NEWIPC
    if os.geteuid() == 0:
        call("unshare", flags)
    else:
        call("unshare", flags | _CLONE_NEWUSER)
        # The new user namespace granted all of them, over its own objects.
        drop_capabilities()


def limit_resources(limits: Limits) -> bool:
    """
    Limit what this process may take (``setrlimit(2)``).

    The memory is that of the image: what the helper had before the fork, and shares,
    is added to it.
    """
    wanted = {
        resource.RLIMIT_AS: (address_space() + limits.memory,) * 2,
        # The signal of the soft limit can be ignored, that of the hard one cannot.
        resource.RLIMIT_CPU: (limits.cpu, limits.cpu + 1),
        resource.RLIMIT_FSIZE: (limits.max_result,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        # All that is needed is open: it gets no further file, socket or pipe.
        resource.RLIMIT_NOFILE: (0, 0),
    }
    if not limits.heic:
        # Not even threads, except for root.
        wanted[resource.RLIMIT_NPROC] = (0, 0)
    elif os.getuid() == _FIRST_USER + os.getpid():
        # This process and one thread.  Any other user may have more processes.
        wanted[resource.RLIMIT_NPROC] = (2, 2)
    in_force = True
    for kind, (soft, hard) in wanted.items():
        try:
            resource.setrlimit(kind, (soft, hard))
        except (OSError, ValueError):
            # The limit of this process may be lower already.
            in_force = resource.getrlimit(kind)[1] in range(hard + 1) and in_force
    # The helper kills a child in time; this is for a child whose helper cannot.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.timeout + 1)
    return in_force


def status(descriptor: int) -> dict[str, str]:
    """Return an open ``/proc/PID/status`` by field; empty if it cannot be read."""
    try:
        lines = os.pread(descriptor, _MAX_STATUS, 0).decode(errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def address_space() -> int:
    """Return the size of this process's address space, in bytes; 0 if unknown."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            # The first of its numbers, in pages (Documentation/filesystems/proc.rst).
            return int(file.read(100).split()[0]) * resource.getpagesize()
    except OSError:
        return 0
