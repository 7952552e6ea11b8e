"""
The heap of a child: memory that the helper has not used.

A child that writes to a page which the helper has used gets a copy of it first; so a child
begins in a large page of its own (:data:`fxprofile.crunch.helper_connection.TUNABLES`).
"""

from __future__ import annotations

import ctypes
from typing import Final

#: The size of a large page on x86_64, and on aarch64 with pages of 4 KiB.
_LARGE: Final = 2 << 20
#: More than the C library writes around a piece of memory.
_EDGE: Final = 64

_libc: Final = ctypes.CDLL(None)
_malloc: Final = _libc.malloc
_malloc.argtypes, _malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
_free: Final = _libc.free
_free.argtypes, _free.restype = (ctypes.c_void_p,), None


def start_at_large_page() -> None:
    """
    Let the memory that this process allocates next begin at a large page.

    The rest of the last page that the helper has used is given up.
    """
    start = _malloc(_LARGE)
    if start is not None:
        _free(start)
        _malloc(max(-start % _LARGE - _EDGE, _EDGE))
