"""System calls that the standard library lacks."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes | None) -> int:
    """
    Call a function of the C library.

    :param arguments: integers are passed as unsigned long, which is what variadic system
        call wrappers read.
    :raises OSError: if it returned -1, or does not exist.
    """
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    ctypes.set_errno(0)
    value: int = function(
        *(ctypes.c_ulong(a & (1 << 64) - 1) if isinstance(a, int) else a for a in arguments)
    )
    if value == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return value


def prctl(option: int, *arguments: int | bytes) -> int:
    """
    Call ``prctl(2)`` with all of its five arguments.

    :raises OSError: if it failed.
    """
    return call("prctl", option, *arguments, *(0 for _ in range(4 - len(arguments))))
