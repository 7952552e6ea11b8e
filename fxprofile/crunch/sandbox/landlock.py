"""
Landlock: no file, no TCP, no signal, even if the system calls for them are allowed.

Constants and structures are from include/uapi/linux/landlock.h; what each version of
the interface handles is in Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from fxprofile.crunch.sandbox.libc import call
from fxprofile.crunch.sandbox.process import layer

#: The same numbers on every architecture.
_CREATE_RULESET: Final = 444
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1

#: By version, how many rights on files, on the network and of scope it handles:
#: EXECUTE to MAKE_SYM, then REFER, TRUNCATE, IOCTL_DEV; BIND_TCP and CONNECT_TCP;
#: ABSTRACT_UNIX_SOCKET and SIGNAL.
_RIGHTS: Final = {
    1: (13, 0, 0),
    2: (14, 0, 0),
    3: (15, 0, 0),
    4: (15, 2, 0),
    5: (16, 2, 0),
    6: (16, 2, 2),
}
_LAYERS: Final = ("landlock", "landlock_network", "landlock_scope")


def ruleset() -> tuple[int, list[str]] | None:
    """
    Create a ruleset that allows nothing of what Landlock handles.

    :returns: a descriptor for :func:`restrict`, and the layers that it will put in
        force; None if Landlock is unavailable.
    """
    try:
        version = call("syscall", _CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
        rights = _RIGHTS[min(version, max(_RIGHTS))]
        # The structure grew with the versions; the kernel tells them apart by its size.
        words = 1 + (version >= 4) + (version >= 6)
        attributes = struct.pack(f"={words}Q", *((1 << count) - 1 for count in rights[:words]))
        descriptor = call("syscall", _CREATE_RULESET, attributes, len(attributes), 0)
    except (OSError, KeyError):
        return None
    return descriptor, [name for name, count in zip(_LAYERS, rights, strict=True) if count]


@layer
def restrict(descriptor: int) -> None:
    """
    Put this process under a ruleset; it must have given up gaining privileges before.

    :param descriptor: of the ruleset; it is closed.
    """
    try:
        call("syscall", _RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
