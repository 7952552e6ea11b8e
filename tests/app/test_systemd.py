"""Tests of what systemd is told, of socket activation, and of the restrictions of the unit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from ctypes.util import find_library
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

import fxprofile
from fxprofile.app.systemd import ServiceManager
from tests.integration.client import Client
from tests.integration.photos import jpeg
from tests.support import unit
from tests.support.daemon import Daemon

UNIT = Path(fxprofile.__file__).parent.parent / "etc/systemd/fxprofile@.service"

ROOT = UNIT.parents[2]
UNDER_UNIT = [sys.executable, "-m", "tests.support.unit", str(UNIT)]

#: Tries what the unit denies, and prints the errors.
FORBIDDEN = """
import errno, socket
from fxprofile.crunch.sandbox.libc import call
for attempt in (
    lambda: call("unshare", 0x04000000),  # CLONE_NEWUTS
    lambda: call("ptrace", 0, 0, 0, 0),
    lambda: socket.socket(socket.AF_NETLINK),
    lambda: open("/etc/fxprofile-was-here", "w"),
    lambda: open("/proc/1/status"),
):
    try:
        attempt()
        print("allowed")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""

#: The system calls with which a child locks itself, and with which children are made.
SANDBOX_CALLS = {
    *("unshare", "seccomp", "prctl", "capset", "setresuid", "setresgid", "setgroups"),
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    *("clone", "clone3", "pidfd_open", "memfd_create", "setrlimit", "prlimit64", "setpriority"),
}

#: Starts twistd with the descriptor 3 as systemd passes a socket.
ACTIVATED = (
    "import os, sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1',"
    "LISTEN_FDNAMES='images.socket');"
    "os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"
)


class _Received:
    """A socket such as systemd has for notifications."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.settimeout(60)

    def next(self, *, watchdog: bool = False) -> str:
        """Return the next notification, by default without those of the watchdog."""
        while True:
            text = self.socket.recv(4096).decode()
            if watchdog or text != "WATCHDOG=1":
                return text


class ServiceManagerTests(SynchronousTestCase):
    """Notifications."""

    def received(self, address: str) -> _Received:
        received = _Received(address)
        received.socket.setblocking(False)
        self.addCleanup(received.socket.close)
        return received

    def test_watchdog_is_notified_twice_in_an_interval(self) -> None:
        """While the reactor runs, the watchdog gets two notifications in each interval."""
        address, clock = f"@fxprofile-{os.getpid()}", Clock()
        received = self.received(address)
        manager = ServiceManager(clock, {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"})
        manager.startService()
        for _ in range(4):
            clock.advance(5)
        for _ in range(5):
            self.assertEqual(received.next(watchdog=True), "WATCHDOG=1")
        self.assertRaises(BlockingIOError, received.next)

    def test_nothing_happens_without_systemd(self) -> None:
        """Without its variables, or with those of another process, no timer runs."""
        for environ in ({}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}):
            clock = Clock()
            manager = ServiceManager(clock, environ)
            manager.startService()
            manager.ready()
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_absent_socket_is_no_error(self) -> None:
        """A socket that does not exist is logged, and nothing else happens."""
        ServiceManager(Clock(), {"NOTIFY_SOCKET": "/nowhere/notify"}).ready()


class DaemonTests(TestCase):
    """A daemon as systemd starts it."""

    timeout = 120

    def notifying_daemon(self, watchdog: str) -> tuple[Daemon, _Received]:
        """
        Return a daemon that is not started, and what receives its notifications.

        :param watchdog: the watchdog's interval, in microseconds.
        """
        folder = tempfile.mkdtemp(prefix="fxprofile-notify-")
        self.addCleanup(shutil.rmtree, folder)
        received = _Received(f"{folder}/notify")
        self.addCleanup(received.socket.close)
        environ = {"NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": watchdog}
        daemon = Daemon(role="images", environ=environ)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        return daemon, received

    async def test_states_of_a_daemon(self) -> None:
        """A daemon reports that it is ready, alive, reloading, ready again, and stopping."""
        daemon, received = self.notifying_daemon("400000")
        await daemon.start()
        self.assertEqual(await deferToThread(received.next), "READY=1")
        self.assertEqual(await deferToThread(received.next, watchdog=True), "WATCHDOG=1")
        daemon.send_signal(signal.SIGHUP)
        self.assertIn("RELOADING=1\nMONOTONIC_USEC=", await deferToThread(received.next))
        self.assertEqual(await deferToThread(received.next), "READY=1")
        await daemon.stop()
        self.assertEqual(await deferToThread(received.next), "STOPPING=1")

    async def test_blocked_reactor_does_not_notify_the_watchdog(self) -> None:
        """A daemon whose reactor is blocked does not notify the watchdog until it runs again."""
        daemon, received = self.notifying_daemon("200000")
        # Its log is a pipe: when that is full, the next line blocks the reactor.
        log = daemon.directory / "images.log"
        os.mkfifo(log)
        reader = os.open(log, os.O_RDWR | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        await daemon.start()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(reader, b"x")
        daemon.send_signal(signal.SIGUSR1)
        received.socket.settimeout(2)
        with self.assertRaises(TimeoutError):
            await deferToThread(lambda: [received.next(watchdog=True) for _ in iter(int, 1)])
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(reader, 1 << 16)
        received.socket.settimeout(60)
        self.assertEqual(await deferToThread(received.next, watchdog=True), "WATCHDOG=1")

    def activate(self, daemon: Daemon, listening: socket.socket) -> subprocess.Popen[bytes]:
        """Start a daemon with a socket."""
        return subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listening.fileno()), *daemon.command()],
            cwd=daemon.directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            pass_fds=[listening.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def test_socket_activation(self) -> None:
        """A daemon accepts connections from the socket that systemd has opened."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        daemon = Daemon(role="images", settings={"images.listen": "systemd:domain=INET:index=0"})
        process = self.activate(daemon, listening)
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        port = listening.getsockname()[1]
        url = f"http://127.0.0.1:{port}/a/00000000000000000000000000000000"
        with await deferToThread(urllib.request.urlopen, url, timeout=60) as response:
            self.assertEqual(response.status, 200)


class UnitTests(SynchronousTestCase):
    """``etc/systemd/fxprofile@.service``."""

    def analyze(self, *arguments: str) -> str:
        """Return the output of systemd-analyze."""
        program = shutil.which("systemd-analyze")
        if program is None:
            raise SkipTest(
                "systemd-analyze is not installed: neither the exposure of the unit nor the"
                " system calls that it denies are checked"
            )
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def test_exposure(self) -> None:
        """``systemd-analyze security`` rates the exposure of the unit at most 2.2."""
        output = self.analyze("security", "--offline=true", "--no-pager", str(UNIT))
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
        self.assertTrue(found, output)
        assert found is not None
        self.assertLessEqual(float(found[1]), 2.2)

    def test_sandbox_may_use_its_system_calls(self) -> None:
        """The unit denies no system call with which a child locks itself."""
        denied = re.search(r"^SystemCallFilter=~(.*)$", UNIT.read_text(), re.MULTILINE)
        assert denied is not None
        calls = set(self.analyze("syscall-filter", "--no-pager", *denied[1].split()).split())
        self.assertIn("ptrace", calls)
        self.assertFalse(calls & SANDBOX_CALLS)


class RestrictedDaemon(Daemon):
    """A daemon under the restrictions of the unit, as an ordinary user."""

    def command(self) -> list[str]:
        """Return the command line."""
        os.chown(self.directory, unit.USER, unit.USER)
        return [*UNDER_UNIT, str(self.directory), *super().command()]


class RestrictedTests(TestCase):
    """Processes under the restrictions of the unit."""

    timeout = 180

    def setUp(self) -> None:
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
            raise SkipTest("only root can restrict a process as systemd does, outside containers")
        if not shutil.which("systemd-analyze") or not find_library("seccomp"):
            raise SkipTest("systemd-analyze or libseccomp is not installed")

    def test_restrictions_are_in_force(self) -> None:
        """The unit denies other namespaces, tracing, other sockets, files and processes."""
        folder = tempfile.mkdtemp(prefix="fxprofile-unit-")
        self.addCleanup(shutil.rmtree, folder)
        command = [*UNDER_UNIT, folder, sys.executable, "-c", FORBIDDEN]
        errors = subprocess.check_output(command, cwd=ROOT, text=True, timeout=60).split()
        self.assertEqual(errors, ["EPERM", "EPERM", "EAFNOSUPPORT", "EROFS", "ENOENT"])

    async def test_sandbox_has_all_its_layers(self) -> None:
        """Under the unit, an upload is crunched under every layer that its user has without it."""
        config = json.dumps({"mode": "strict", "user": unit.USER})
        command = [sys.executable, "-m", "tests.crunch.outer"]
        line = await deferToThread(
            subprocess.check_output, command, cwd=ROOT, text=True, input=f"{config}\n"
        )
        status, printed, errors = json.loads(line)
        self.assertEqual(status, 0, errors)
        alone = json.loads(printed)
        daemon = RestrictedDaemon(settings={"crunch.sandbox": "strict", "uploads.wait": 30})
        self.addCleanup(lambda: Deferred.fromCoroutine(daemon.remove()))
        await daemon.start()
        status, answer = await Client(daemon).upload(jpeg())
        self.assertEqual((status, answer["status"]), (201, "ready"), daemon.output)
        with await deferToThread(urllib.request.urlopen, f"{daemon.admin_url}/metrics") as response:
            metrics = response.read().decode()
        layers = re.findall(
            r'^fxprofile_sandbox_layer\{layer="(\w+)"\} 1\.0', metrics, re.MULTILINE
        )
        self.assertEqual(sorted(layers), alone["layers"])
