"""
Seccomp: only the system calls that decoding needs.

A filter is a program of the classic BPF machine (Documentation/networking/filter.rst)
that sees the number and the arguments of each call.  Constants are from
include/uapi/linux/seccomp.h, audit.h and bpf_common.h, numbers of system calls from
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.  libseccomp
could compile such a filter, but its Python bindings need the shared library on each host.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from functools import cache
from typing import Final

from fxprofile.crunch.sandbox.libc import prctl
from fxprofile.crunch.sandbox.process import layer

_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K

#: Offsets in struct seccomp_data; the low half of an argument comes first on both
#: architectures.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FLAGS: Final = 16
_PROTECTION: Final = 16 + 2 * 8

_PROT_EXEC: Final = 4
#: The flag with which clone(2) makes a thread and not a process.
_CLONE_THREAD: Final = 0x00010000
#: x86_64 has a second set of numbers from here, that of the x32 ABI.
_X32: Final = 0x40000000

#: The supported machines, and the value of AUDIT_ARCH of each.
ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

#: The system calls that are allowed, and their numbers on each of these machines.
ALLOWED: Final = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
#: Allowed unless the memory could be executed.
NOT_EXECUTABLE: Final = {"mmap": (9, 222), "mprotect": (10, 226)}
#: Allowed besides, for decoders that need a thread.
THREADS: Final = {"set_robust_list": (273, 99), "rseq": (334, 293)}
#: Allowed with threads, if it makes one.
CLONE: Final = (56, 220)
#: Reported as unknown: the C library then tries clone.
CLONE3: Final = (435, 435)


#: An instruction: code, jumps if true and if false, and its constant.
Step = tuple[int, int, int, int]


def program(machine: str, *, threads: bool = False) -> bytes:
    """
    Return the filter for a machine.

    :param threads: whether threads may be started.
    :raises KeyError: if there is none for it.
    """
    architecture = ARCHITECTURES[machine]
    column = list(ARCHITECTURES).index(machine)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    allowed = [*ALLOWED.values(), *(THREADS.values() if threads else ())]
    for number in sorted(numbers[column] for numbers in allowed):
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    refused = _ERRNO | errno.EPERM
    for numbers in NOT_EXECUTABLE.values():
        steps += _by_flag(numbers[column], _PROTECTION, _PROT_EXEC, refused, _ALLOW)
    if threads:
        steps += _by_flag(CLONE[column], _FLAGS, _CLONE_THREAD, _ALLOW, refused)
    steps += [(_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    steps += [(_RETURN, 0, 0, refused)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _by_flag(number: int, offset: int, flag: int, if_set: int, if_not: int) -> list[Step]:
    """Return from the filter by a flag in the argument at an offset, for one system call."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, offset),
        (_ANY_BIT, 0, 1, flag),
        (_RETURN, 0, 0, if_set),
        (_RETURN, 0, 0, if_not),
    ]


@cache
def program_here(*, threads: bool = False) -> bytes | None:
    """Return the filter for this machine, made once; None if there is none for it."""
    try:
        return program(platform.machine(), threads=threads)
    except KeyError:
        return None


@layer
def restrict(*, threads: bool = False) -> None:
    """
    Allow this process only what decoding needs.

    It must have given up gaining privileges before.

    :param threads: whether decoding needs threads.
    """
    code = program_here(threads=threads)
    if code is None:
        raise OSError(errno.ENOSYS, "no filter for this machine")
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a short, then a pointer aligned as pointers are.
    filters = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filters)
