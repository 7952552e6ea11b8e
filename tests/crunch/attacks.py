"""
The attacks that a hostile child might try; each is a function.

It runs as a program, since a process cannot undo what it does to itself.  It takes JSON objects
on its command line (see :func:`main`), and for each of them prints another one, with the errno
with which each attack was stopped, or 0.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fxprofile.crunch import sandbox
from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox import landlock, process, seccomp
from fxprofile.crunch.sandbox.libc import call, prctl

#: Errors by which the kernel rejects the arguments, which are invalid on purpose: the call
#: itself was allowed.
REACHED = {errno.EFAULT, errno.EINVAL, errno.ENOENT, errno.E2BIG, errno.EBADF, errno.ENODEV}

NUMBERS = {
    "x86_64": {"bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "keyctl": 250},
    "aarch64": {"bpf": 280, "userfaultfd": 282, "perf_event_open": 241, "keyctl": 219},
}[platform.machine()]
IO_URING_SETUP = 425
PTRACE_SEIZE = 0x4206

_victim = 0
_port = 0
_abstract = ""


def read_file() -> None:
    os.close(os.open("/etc/passwd", os.O_RDONLY))


def list_root() -> None:
    os.listdir("/")


def write_file() -> None:
    path = f"/tmp/fxprofile-attack-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.unlink(path)


def other_environ() -> None:
    os.close(os.open(f"/proc/{_victim}/environ", os.O_RDONLY))


def other_memory() -> None:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("PN", ctypes.addressof(buffer), 8)
    remote = struct.pack("PN", 0, 8)
    call("process_vm_readv", _victim, local, 1, remote, 1, 0)


def trace() -> None:
    call("ptrace", PTRACE_SEIZE, _victim, 0, 0)


def send_signal() -> None:
    os.kill(_victim, signal.SIGWINCH)


def tcp() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", _port))


def udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", _port))


def abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(_abstract)


def fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def thread(count: int = 1) -> None:
    done, started = threading.Event(), []
    try:
        for _ in range(count):
            one = threading.Thread(target=done.wait)
            one.start()
            started.append(one)
    except RuntimeError:
        raise OSError(errno.EAGAIN, "no thread") from None
    finally:
        done.set()
        for one in started:
            one.join()


def two_threads() -> None:
    thread(2)


def memory_file() -> None:
    os.close(os.memfd_create("attack"))


def run_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def user_namespace() -> None:
    call("unshare", 0x10000000)


def network_namespace() -> None:
    call("unshare", 0x40000000)


def mount() -> None:
    call("mount", b"none", b"/there-is-no-such-directory", b"tmpfs", 0, None)


def io_uring() -> None:
    call("syscall", IO_URING_SETUP, 1, None)


def bpf() -> None:
    call("syscall", NUMBERS["bpf"], 5, None, 8)


def userfaultfd() -> None:
    os.close(call("syscall", NUMBERS["userfaultfd"], 0))


def perf() -> None:
    call("syscall", NUMBERS["perf_event_open"], None, 0, -1, -1, 0)


def keyring() -> None:
    call("syscall", NUMBERS["keyctl"], 0, -3, 1)


def become_root() -> None:
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        # In a user namespace without root, the error differs.
        raise OSError(errno.EPERM, "not allowed") from None
    # Being root is not enough for success; its powers are.
    os.setgroups([1])


def raise_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    wanted = resource.RLIM_INFINITY if hard != resource.RLIM_INFINITY else hard
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (wanted, wanted))
    except ValueError:
        raise OSError(errno.EPERM, "not allowed") from None


#: In this order: the later ones change the process that runs them.
ATTACKS: Mapping[str, Callable[[], None]] = {
    attack.__name__: attack
    for attack in (
        read_file,
        list_root,
        write_file,
        other_environ,
        other_memory,
        trace,
        send_signal,
        tcp,
        udp,
        abstract_socket,
        fork,
        memory_file,
        run_code,
        mount,
        io_uring,
        bpf,
        userfaultfd,
        perf,
        keyring,
        raise_limit,
        become_root,
        network_namespace,
        user_namespace,
        thread,
        two_threads,
    )
}
#: The attack from which no function returns; see :func:`_attack`.
EXECUTE = "execute"
_EXECUTED = 77


def _tried(attack: Callable[[], None]) -> int:
    try:
        attack()
    except OSError as error:
        code = error.errno or errno.EPERM
        return 0 if code in REACHED else code
    return 0


def _apply(layers: list[str], limits: Limits) -> None:
    """Apply only these layers."""
    rules = landlock.ruleset() if "landlock" in layers else None
    if "uid" in layers:
        process.leave_root()
    if "capabilities" in layers:
        process.drop_capabilities()
    if "rlimits" in layers:
        process.limit_resources(limits)
    if "landlock" in layers or "seccomp" in layers:
        process.forbid_new_privileges()
    if rules is not None:
        landlock.restrict(rules[0])
    if "seccomp" in layers:
        seccomp.restrict(threads=limits.heic)


def _attack(config: Mapping[str, object], descriptor: int, parent: int) -> None:
    """Lock this process as configured, and run every attack."""
    held: list[str] = []
    limits = Limits(heic=bool(config.get("heic")))
    if config.get("mode"):
        held = sorted(sandbox.lock(parent=parent, limits=limits, mode=config["mode"]))
    else:
        _apply(list(config.get("layers", [])), limits)
    found: dict[str, int] = {name: _tried(attack) for name, attack in ATTACKS.items()}
    os.write(descriptor, json.dumps({"layers": held, "attacks": found}).encode() + b"\n")
    try:
        os.execv("/bin/sh", ["sh", "-c", f"exit {_EXECUTED}"])
    except OSError as error:
        os._exit(error.errno or 1)


def fake(errors: Mapping[str, int]) -> None:
    """
    Make some system calls of this process fail, as in containers.

    :param errors: the errno by ``landlock``, ``seccomp`` and ``unshare``.
    """
    machine = platform.machine()
    numbers = {
        "landlock": [444, 445, 446],
        "seccomp": [{"x86_64": 317, "aarch64": 277}[machine]],
        "unshare": [{"x86_64": 272, "aarch64": 97}[machine]],
    }
    if not errors:
        return
    if os.geteuid() != 0:
        process.forbid_new_privileges()
    steps = [(0x20, 0, 0, 0)]
    for name, code in errors.items():
        for number in numbers[name]:
            steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | code)]
    if "seccomp" in errors:
        # prctl(PR_SET_SECCOMP) does the same.
        prctl_number = {"x86_64": 157, "aarch64": 167}[machine]
        steps += [
            (0x15, 0, 3, prctl_number),
            (0x20, 0, 0, 16),
            (0x15, 0, 1, 22),
            (0x06, 0, 0, 0x00050000 | errors["seccomp"]),
        ]
    steps += [(0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    prctl(22, 2, struct.pack("@HP", len(steps), ctypes.addressof(buffer)))


def become(user: int, *, reading: bool = False) -> None:
    """
    Become another user, for the rest of this process.

    :param reading: keep the right to read all files: the interpreter may be in a directory
        of root.
    """
    if user == os.getuid():
        return
    if reading:
        prctl(8, 1)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if reading:
        bit = 1 << 2  # CAP_DAC_READ_SEARCH
        header = struct.pack("=Ii", 0x20080522, 0)
        call("capset", header, struct.pack("=6I", bit, bit, bit, 0, 0, 0))
        prctl(47, 2, 2)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


def in_forks(run: Callable[[Any], None]) -> None:
    """
    Run a function for each line of JSON of the standard input, in a process of its own, and print
    a line of JSON: its exit status and what it prints on its standard output and error.
    """
    for text in sys.stdin:
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as error:
            pid = os.fork()
            if not pid:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(printed.fileno(), 1)
                os.dup2(error.fileno(), 2)
                printed.close()
                error.close()
                run(json.loads(text))
                sys.exit()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            texts = []
            for file in (printed, error):
                file.seek(0)
                texts.append(file.read().decode())
        print(json.dumps([status, *texts]), flush=True)


def main(config: Any) -> None:
    """
    Run every attack, and print the results.

    :param config: with ``user``, a number; ``fake``, see :func:`fake`; and
        either ``mode``, for the sandbox as in production, or ``layers``, the
        names of some layers; and ``heic``, whether the child decodes HEIC.
    """
    global _victim, _port, _abstract
    fake(config.get("fake", {}))
    become(config.get("user", 0))
    with (
        socket.socket() as listener,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        subprocess.Popen(["/bin/sleep", "60"], env={"SECRET": "x"}, cwd="/") as victim,
        tempfile.TemporaryFile() as output,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        _port = listener.getsockname()[1]
        datagrams.bind(("127.0.0.1", _port))
        # Another program of the same kind may run at the same time.
        _abstract = f"\0fxprofile-attacks-{os.getpid()}"
        abstract.bind(_abstract)
        abstract.listen()
        _victim = victim.pid
        own: set[str] = set()
        # A process in between, like the helper: this one must not lose its rights.
        between = os.fork()
        if between == 0:
            if config.get("mode") or "namespaces" in config.get("layers", []):
                own = sandbox.prepare(limits=Limits(), mode=config.get("mode", "strict"))
            parent = os.getpid()
            child = os.fork()
            if child == 0:
                _attack(config, output.fileno(), parent)
            seen = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.write(output.fileno(), json.dumps([sorted(own), seen]).encode())
            os._exit(0)
        os.waitpid(between, 0)
        victim.kill()
        output.seek(0)
        lines = output.read().decode().splitlines()
    if len(lines) != 2:
        sys.exit(f"the child did not finish: {lines}")
    found = json.loads(lines[0])
    prepared, seen = json.loads(lines[1])
    found["layers"] = sorted({*found["layers"], *prepared})
    found["attacks"][EXECUTE] = 0 if seen == _EXECUTED else seen
    print(json.dumps(found))


if __name__ == "__main__":
    in_forks(main)
