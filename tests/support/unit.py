"""
Runs a command under the restrictions of a systemd unit, without systemd.

    python -m tests.support.unit UNIT WRITABLE COMMAND…

This needs root and libseccomp.  The filters of system calls are those of systemd's
src/shared/seccomp-util.c.  A directive that is neither applied nor in :data:`OTHERS` is an error.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from fxprofile.crunch.sandbox.libc import call, prctl
from fxprofile.crunch.sandbox.process import forbid_new_privileges
from tests.crunch.attacks import become
from tests.support.servers.local import die_with_parent

ROOT: Final = Path(__file__).parents[2]

#: A user that owns nothing.
USER: Final = 61_234

#: What is not applied.
OTHERS: Final = {
    *("Type", "NotifyAccess", "WatchdogSec", "ExecReload", "ExecStart", "KillMode", "Restart"),
    *("RestartSec", "SuccessExitStatus", "TimeoutStopSec", "EnvironmentFile"),
    # The caller chooses them.
    *("User", "Group", "WorkingDirectory", "StateDirectory"),
    # Limits of the control group, and one that is higher than usual.
    *("MemoryMax", "TasksMax", "LimitNOFILE"),
    # The interpreter of the tests may be in a home; nothing uses a key or a control group.
    *("ProtectHome", "KeyringMode", "RemoveIPC", "ProtectControlGroups"),
    # Of these, only the filters of system calls are applied, or they are of another architecture.
    *("PrivateDevices", "SystemCallArchitectures", "SystemCallErrorNumber"),
}

#: Directives that deny system calls, and the group of these.
GROUPS: Final = {
    "PrivateDevices": "@raw-io",
    "ProtectClock": "@clock",
    "ProtectKernelModules": "@module",
}
CALLS: Final = {
    "ProtectHostname": ("sethostname", "setdomainname"),
    "ProtectKernelLogs": ("syslog",),
    "ProtectKernelTunables": ("_sysctl",),
    "LockPersonality": ("personality",),
}

NAMESPACES: Final = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "user": 0x10000000,
    "uts": 0x04000000,
}

# From seccomp.h of libseccomp.
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NOT_EQUAL, _EQUAL, _GREATER, _MASKED_EQUAL = 1, 4, 6, 7

# System calls, and constants from include/uapi/linux/mount.h and fcntl.h.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_HERE, _RECURSIVE, _CLONE, _EMPTY_PATH, _READ_ONLY = -100, 0x8000, 1, 4, 1
_BIND, _ALL_BELOW, _PRIVATE = 4096, 16384, 1 << 18

_DROP_FROM_BOUNDING_SET: Final = 24
_DAC_READ_SEARCH: Final = 2


class Filter:
    """A filter of system calls, which allows those that are not denied."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(_ALLOW)))

    def deny(self, name: str, *conditions: tuple[int, ...], error: int = errno.EPERM) -> None:
        """
        Deny a system call, if this architecture has it.

        :param conditions: of its arguments: number, comparison, one value or two.
        """
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        items = (_Comparison * len(conditions))(*(_Comparison(*c) for c in conditions))
        arguments = (ctypes.c_uint32(_ERRNO | error), number, len(conditions), items)
        self._check(self._library.seccomp_rule_add_array(self._context, *arguments))

    def load(self) -> None:
        """Put it in force."""
        self._check(self._library.seccomp_load(self._context))

    def _check(self, code: int) -> None:
        if code:
            raise OSError(-code, os.strerror(-code))


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("comparison", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def directives(unit: Path) -> dict[str, str]:
    """Return the directives of the section ``Service``."""
    section = unit.read_text().partition("[Service]\n")[2].partition("\n[")[0]
    lines = (line.partition("=") for line in section.splitlines() if line[:1] not in ("", "#"))
    return {name: value for name, _, value in lines}


def members(*groups: str) -> list[str]:
    """Return the system calls of groups such as ``@clock``, and of the groups in them."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager", *groups]
    names = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).splitlines()
    names = [name.strip() for name in names if name.startswith(" ") and "#" not in name]
    inner = [name for name in names if name.startswith("@")]
    return [name for name in names if name not in inner] + (members(*inner) if inner else [])


def filters(unit: dict[str, str]) -> list[Filter]:
    """Take the directives that filter system calls, and return their filters."""
    filter_ = Filter()
    denied = unit.pop("SystemCallFilter")
    if denied[0] != "~":
        raise SystemExit("SystemCallFilter is no list of what is denied")
    names = [name for group in denied[1:].split() for name in members(group)]
    for directive, group in GROUPS.items():
        names += members(group) if unit.pop(directive, "") == "yes" else ()
    for directive, calls in CALLS.items():
        names += calls if unit.pop(directive, "") == "yes" else ()
    for name in set(names):
        filter_.deny(name)
    if unit.pop("RestrictRealtime", "") == "yes":
        for policy in (1, 2):
            filter_.deny("sched_setscheduler", (1, _EQUAL, policy))
        filter_.deny("sched_setscheduler", (1, _GREATER, 5))
    if unit.pop("RestrictSUIDSGID", "") == "yes":
        for name, argument in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdirat", 2)):
            for bit in (0o4000, 0o2000):
                filter_.deny(name, (argument, _MASKED_EQUAL, bit, bit))
        filter_.deny("openat2", error=errno.ENOSYS)
    return [filter_, _namespaces(unit), _families(unit)]


def _namespaces(unit: dict[str, str]) -> Filter:
    filter_ = Filter()
    allowed = unit.pop("RestrictNamespaces", None)
    if allowed is not None:
        for name in NAMESPACES.keys() - set(allowed.split()):
            flag = NAMESPACES[name]
            for argument, kind in enumerate(("unshare", "setns")):
                filter_.deny(kind, (argument, _MASKED_EQUAL, flag, flag))
            filter_.deny("clone", (0, _MASKED_EQUAL, flag, flag))
        filter_.deny("setns", (1, _EQUAL, 0))
        filter_.deny("clone3", error=errno.ENOSYS)
    return filter_


def _families(unit: dict[str, str]) -> Filter:
    filter_ = Filter()
    allowed = {getattr(socket, name) for name in unit.pop("RestrictAddressFamilies").split()}
    for family in set(range(max(allowed))) - allowed:
        filter_.deny("socket", (0, _EQUAL, family), error=errno.EAFNOSUPPORT)
    filter_.deny("socket", (0, _GREATER, max(allowed)), error=errno.EAFNOSUPPORT)
    return filter_


def mount(unit: dict[str, str], writable: str) -> None:
    """
    Take the directives that restrict the file system, and apply them.

    :param writable: the state directory, which stays where it is, and can be written.
    """
    call("unshare", NAMESPACES["mnt"])
    call("mount", b"none", b"/", None, _ALL_BELOW | _PRIVATE, None)
    state = _open_tree(writable)
    if unit.pop("ProtectSystem") != "strict":
        raise SystemExit("ProtectSystem is not strict")
    for path in (b"/dev", b"/proc", b"/sys"):
        call("mount", path, path, None, _BIND | _ALL_BELOW, None)
    _set_read_only(b"/", True)
    _set_read_only(b"/dev", False)
    proc = unit.pop("ProtectProc", "default")
    call("mount", b"proc", b"/proc", b"proc", 0, f"hidepid={proc}".encode())
    if unit["ProtectKernelTunables"] == "yes":
        call("mount", b"/proc/sys", b"/proc/sys", None, _BIND | _ALL_BELOW, None)
        _set_read_only(b"/proc/sys", True)
    # Read only now.  The tests may be in a temporary folder.
    code = {ROOT, *(Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix))}
    trees = {path: _open_tree(path) for path in code}
    if unit.pop("PrivateTmp") == "yes":
        for folder in (b"/tmp", b"/var/tmp"):
            call("mount", b"tmpfs", folder, b"tmpfs", 0, None)
    for path, tree in trees.items():
        if not path.exists():
            _attach(tree, path)
    _attach(state, Path(writable))


def _attach(tree: int, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    call("syscall", _MOVE_MOUNT, tree, b"", _HERE, os.fsencode(path), _EMPTY_PATH)


def _open_tree(path: Path | str) -> int:
    """Return a descriptor of a copy of what is mounted at a path, which is not attached."""
    return call("syscall", _OPEN_TREE, _HERE, os.fsencode(path), _CLONE)


def _set_read_only(path: bytes, value: bool) -> None:
    # struct mount_attr: set, clear, propagation, user namespace.
    attributes = [0, 0, 0, 0]
    attributes[0 if value else 1] = _READ_ONLY
    packed = b"".join(number.to_bytes(8, sys.byteorder) for number in attributes)
    call("syscall", _MOUNT_SETATTR, _HERE, path, _RECURSIVE, packed, len(packed))


def drop_privileges(unit: dict[str, str]) -> None:
    """Take the directives of privileges, and become the user."""
    os.umask(int(unit.pop("UMask"), 8))
    if unit.pop("CapabilityBoundingSet"):
        raise SystemExit("CapabilityBoundingSet is not empty")
    # One is kept, to read an interpreter in a directory of root.
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - {_DAC_READ_SEARCH}:
        prctl(_DROP_FROM_BOUNDING_SET, number)
    become(USER, reading=True)
    die_with_parent()
    if unit.pop("NoNewPrivileges") != "yes" or not forbid_new_privileges():
        raise SystemExit("NoNewPrivileges is not yes")


def main(path: str, writable: str, *command: str) -> None:
    """Become the command."""
    unit: dict[str, str] = directives(Path(path))
    mount(unit, writable)
    denied = filters(unit)
    drop_privileges(unit)
    if unit.keys() - OTHERS:
        raise SystemExit(f"tests/support/unit.py does not know {unit.keys() - OTHERS}")
    for filter_ in denied:
        filter_.load()
    os.chdir(writable)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
