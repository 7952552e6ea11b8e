"""An interpreter of the classic BPF instructions that a seccomp filter uses."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def run(program: bytes, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """
    Return what a filter returns for a system call.

    :raises IndexError: if it runs past its end, which the kernel would not allow.
    """
    data = struct.pack("<IIQ", number, architecture, 0)
    data += struct.pack("<6Q", *arguments, *(0 for _ in range(6 - len(arguments))))
    steps = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return k
        else:
            holds = {
                0x15: accumulator == k,
                0x35: accumulator >= k,
                0x45: accumulator & k != 0,
            }[code]
            at += yes if holds else no
