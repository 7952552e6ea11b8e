"""
The memory that a child takes from the C library, in pages as large as there are.

A child touches all of its memory for the first time.  For each page the kernel is asked,
which takes longer than most of what is then done with it; so the pages are to be large, and
none of them one that the helper has used, which would be copied, piece by piece.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: The size of a large page on x86_64, and on aarch64 with pages of 4 KiB.
_LARGE: Final = 2 << 20
#: What the C library writes around a piece of memory, and more.
_EDGE: Final = 64

#: For the environment of the helper: what the GNU C library is to do, in all of its
#: processes.  Large pages, where it knows of them (from version 2.35); pictures lie in the
#: heap, with what was freed before them, and not each in a mapping of its own.
TUNABLES: Final = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        "glibc.malloc.mmap_threshold=33554432",
        "glibc.malloc.trim_threshold=1073741824",
        "glibc.malloc.top_pad=0",
    )
)

_libc: Final = ctypes.CDLL(None)
_malloc: Final = _libc.malloc
_malloc.argtypes, _malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
_free: Final = _libc.free
_free.argtypes, _free.restype = (ctypes.c_void_p,), None


def start_afresh() -> None:
    """
    Let what this process asks for from now on begin in a large page of its own.

    What is left of the last one that the helper has used is given away.
    """
    start = _malloc(_LARGE)
    if start is not None:
        _free(start)
        _malloc(max(-start % _LARGE - _EDGE, _EDGE))
