"""
Seccomp: the system calls that decoding takes, and no others.

A filter is a program of the classic BPF machine (Documentation/networking/filter.rst)
that sees the number and the arguments of each call.  Constants are from
include/uapi/linux/seccomp.h, audit.h and bpf_common.h, numbers of system calls from
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from functools import cache
from typing import Final

from fxprofile.crunch.sandbox.libc import call, prctl

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_SECCOMP_SET_MODE_FILTER: Final = 1

_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

#: Offsets in struct seccomp_data; the low half of an argument comes first on both of
#: our architectures.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FLAGS: Final = 16
_PROTECTION: Final = 16 + 2 * 8

_PROT_EXEC: Final = 4
#: x86_64 has a second set of numbers from here, that of the x32 ABI.
_X32: Final = 0x40000000

#: The value of AUDIT_ARCH and the numbers, by machine.
_MACHINES: Final[dict[str, tuple[int, dict[str, int]]]] = {
    "x86_64": (
        0xC000003E,
        {
            "read": 0,
            "write": 1,
            "close": 3,
            "lseek": 8,
            "mmap": 9,
            "mprotect": 10,
            "munmap": 11,
            "brk": 12,
            "rt_sigaction": 13,
            "rt_sigprocmask": 14,
            "rt_sigreturn": 15,
            "pread64": 17,
            "sched_yield": 24,
            "mremap": 25,
            "madvise": 28,
            "exit": 60,
            "gettimeofday": 96,
            "futex": 202,
            "clock_gettime": 228,
            "exit_group": 231,
            "getrandom": 318,
            "clone3": 435,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "close": 57,
            "lseek": 62,
            "read": 63,
            "write": 64,
            "pread64": 67,
            "exit": 93,
            "exit_group": 94,
            "futex": 98,
            "clock_gettime": 113,
            "sched_yield": 124,
            "rt_sigaction": 134,
            "rt_sigprocmask": 135,
            "rt_sigreturn": 139,
            "gettimeofday": 169,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "mmap": 222,
            "mprotect": 226,
            "madvise": 233,
            "getrandom": 278,
            "clone3": 435,
        },
    ),
}
#: What a thread takes besides, by machine, for decoders that cannot do without one.
_THREADS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {"clone": 56, "set_robust_list": 273, "rseq": 334},
    "aarch64": {"clone": 220, "set_robust_list": 99, "rseq": 293},
}
#: The flag of clone(2) with which it makes a thread, and no process.
_CLONE_THREAD: Final = 0x00010000

#: Allowed, unless what they make could be executed.
_NOT_EXECUTABLE: Final = ("mmap", "mprotect")


def program(machine: str, *, threads: bool = False) -> bytes:
    """
    The filter for a machine.

    :param threads: whether threads may be started.
    :raises KeyError: if there is none for it.
    """
    architecture, numbers = _MACHINES[machine]
    numbers = dict(numbers)
    no_thread = numbers.pop("clone3")
    if threads:
        numbers |= _THREADS[machine]
    clone = numbers.pop("clone", None)
    guarded = [numbers.pop(name) for name in _NOT_EXECUTABLE]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in sorted(numbers.values()):
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in guarded:
        steps += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _PROTECTION),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    if clone is not None:
        steps += [
            (_EQUAL, 0, 4, clone),
            (_LOAD, 0, 0, _FLAGS),
            (_ANY_BIT, 1, 0, _CLONE_THREAD),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    # The C library then tries the older call, which is refused below.
    steps += [(_EQUAL, 0, 1, no_thread), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    steps += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@cache
def program_here(*, threads: bool = False) -> bytes | None:
    """The filter for this machine, made once; None if there is none for it."""
    try:
        return program(platform.machine(), threads=threads)
    except KeyError:
        return None


def apply(*, threads: bool = False) -> bool:
    """
    Allow this process no more than decoding takes; it must have given up gaining
    privileges before.

    :param threads: whether decoding takes threads.
    """
    code = program_here(threads=threads)
    if code is None:
        return False
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a short, then a pointer where pointers belong.
    filters = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    try:
        call("syscall", _SECCOMP_NUMBER[platform.machine()], _SECCOMP_SET_MODE_FILTER, 0, filters)
    except OSError:
        try:
            prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters)
        except OSError:
            return False
    return True


_SECCOMP_NUMBER: Final = {"x86_64": 317, "aarch64": 277}
