"""
What a process can give up of itself: its user, its capabilities, its place in line.

Constants are from include/uapi/linux/prctl.h, sched.h and capability.h.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
from typing import Final

from fxprofile.crunch.sandbox.libc import call, prctl

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_CLONE_NEWIPC: Final = 0x08000000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000

_CAPABILITY_VERSION_3: Final = 0x20080522

_NOBODY: Final = 65534
#: Users whom nothing else belongs to: each child of root becomes one of its own.
_FIRST_USER: Final = 0x7F000000
_NICE: Final = 10


def lower_priority() -> bool:
    """Let everything else go first."""
    try:
        os.nice(_NICE)
    except OSError:
        return False
    return True


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
            # In a user namespace most ids stand for nobody.
            continue
        return os.geteuid() != 0
    return False


def drop_capabilities() -> bool:
    """Give up every capability."""
    try:
        call(
            "capset",
            struct.pack("=Ii", _CAPABILITY_VERSION_3, 0),
            struct.pack("=6I", 0, 0, 0, 0, 0, 0),
        )
    except OSError:
        return False
    return True


def die_with(parent: int) -> bool:
    """Be killed when the parent ends, and at once if it already has."""
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except OSError:
        return False
    finally:
        if os.getppid() != parent:
            os._exit(1)
    return True


def forbid_inspection() -> bool:
    """
    Let no other process of the same user read this one's memory and environment, or
    trace it; for a process with credentials, and for its children.
    """
    try:
        prctl(_PR_SET_DUMPABLE, 0)
    except OSError:
        return False
    return True


def forbid_new_privileges() -> bool:
    """Gain nothing from set-user-id programs; Landlock and seccomp ask for this."""
    try:
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except OSError:
        return False
    return True


def die_first() -> bool:
    """Be what the kernel ends first when memory runs out; children inherit it."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        return False
    return True


def leave_namespaces() -> bool:
    """
    Move to a network and an IPC namespace with nothing in them; children inherit them.

    Many hosts do not let unprivileged processes do this.
    """
    flags = _CLONE_NEWNET | _CLONE_NEWIPC
    if os.geteuid() != 0:
        flags |= _CLONE_NEWUSER
    try:
        call("unshare", flags)
    except OSError:
        return False
    if flags & _CLONE_NEWUSER:
        # The new namespace gave them all, over things of its own.
        drop_capabilities()
    return True


def status(pid: int) -> dict[str, str]:
    """What the kernel says of a process; nothing if it says nothing."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return {
                name: value.strip() for name, _, value in (line.partition(":") for line in file)
            }
    except OSError:
        return {}


def address_space() -> int:
    """The bytes of address space that this process has; 0 if nobody tells."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            # The first of its numbers, in pages (Documentation/filesystems/proc.rst).
            return int(file.read(100).split()[0]) * resource.getpagesize()
    except OSError:
        return 0
