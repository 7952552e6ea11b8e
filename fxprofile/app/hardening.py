"""
What a running role gives up to protect its secrets: privileges, and memory that others can read.

No library does this without a C extension of its own; the calls are those of
:mod:`fxprofile.crunch.sandbox.process`, with which a child locks itself.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from fxprofile.crunch.sandbox import process
from fxprofile.settings.model import ENVIRONMENT_PREFIX, Role

#: Variables whose values may be secrets: our settings, and the credentials of AWS.
_SECRETS: Final = (ENVIRONMENT_PREFIX.encode(), b"AWS_")

#: The fields of ``/proc/self/stat`` behind the name of the program (proc(5)): ``env_start``
#: and ``env_end`` are fields 50 and 51, and the first one behind the name is field 3.
_ENV_START: Final = 50 - 3

#: The capabilities that the sandbox of images needs (capabilities(7)): it kills children of
#: other users, makes them other users, and leaves namespaces.
_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 5, 6, 7, 21
_SANDBOX_CAPABILITIES: Final = (_CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN)


def harden(role: Role, *, production: bool) -> None:
    """
    Restrict this process, after its ports are open and its settings are read.

    No process of the same user can read its memory or environment, or trace it
    (``PR_SET_DUMPABLE``), and it can gain no privileges (``PR_SET_NO_NEW_PRIVS``).  In
    production, a process of root keeps no capabilities but those that the sandbox of images
    needs: it cannot read or write the files of other users, as a development checkout may be.
    Where the kernel lacks one of these, the others still apply.
    """
    clear_environment_block()
    process.forbid_inspection()
    process.forbid_new_privileges()
    if production and os.geteuid() == 0:
        crunches = role in (Role.WORKER, Role.COMBINED)
        process.drop_capabilities(*(_SANDBOX_CAPABILITIES if crunches else ()))


def clear_environment_block() -> None:
    """
    Overwrite the secrets in what ``/proc/PID/environ`` shows.

    ``os.environ`` is a copy, which keeps them for a later reading of the settings and for the
    credential chain of AWS.  ``unsetenv(3)`` would leave the original bytes in place.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return
    start, end = map(int, fields[_ENV_START : _ENV_START + 2])
    for variable in ctypes.string_at(start, end - start).split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name.startswith(_SECRETS):
            ctypes.memset(start + len(name) + 1, 0, len(value))
        start += len(variable) + 1
