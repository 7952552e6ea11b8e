"""Tests of the sandbox: each layer by what it stops, and all of them together."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from fxprofile.crunch import sandbox
from fxprofile.crunch.sandbox import landlock, seccomp
from tests.crunch import bpf
from tests.crunch.attacks import ATTACKS, EXECUTE

EVERYTHING = {*ATTACKS, EXECUTE}
NOBODY = 65534
#: What systems answer to calls that they do not have, or do not let us have.
REFUSALS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
#: What files and other processes can give away.
FILES = {"read_file", "list_root", "write_file", "other_environ"}
PROCESSES = {"other_environ", "other_memory", "trace", "send_signal"}

if not sys.platform.startswith("linux"):
    raise SkipTest("the layers are Linux's")


def run(program: str, **config: Any) -> dict[str, Any]:
    """What one of our programs says."""
    done = subprocess.run(
        [sys.executable, "-m", program, json.dumps(config)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def stopped(**config: Any) -> set[str]:
    """The attacks that fail under this configuration."""
    found = run("tests.crunch.attacks", **config)["attacks"]
    return {name for name, code in found.items() if code}


def needs_root() -> None:
    if os.geteuid() != 0:
        raise SkipTest("only root can become somebody else")


def needs_landlock(version: int) -> None:
    try:
        found = sandbox.libc.call("syscall", 444, None, 0, 1)
    except OSError:
        found = 0
    if found < version:
        raise SkipTest(f"this kernel has Landlock {found}, not {version}")


class AttackTests(SynchronousTestCase):
    """The attacks themselves."""

    def test_without_layers(self) -> None:
        """With no layer on, every attack of root that the system allows succeeds."""
        needs_root()
        # A container may stop a few of its own accord.
        self.assertLessEqual(
            stopped(),
            {"perf", "bpf", "io_uring", "userfaultfd", "keyring", "user_namespace"}
            | {"network_namespace", "mount", "raise_limit", "trace", "other_memory"},
        )


class LayerTests(SynchronousTestCase):
    """What each layer stops when it is alone."""

    def test_landlock(self) -> None:
        """Landlock alone stops files, programs, TCP, and reaching other processes."""
        needs_landlock(6)
        promised = FILES | PROCESSES | {"tcp", "abstract_socket", EXECUTE}
        self.assertLessEqual(promised, stopped(layers=["landlock"]))

    def test_seccomp(self) -> None:
        """Seccomp alone stops everything."""
        self.assertEqual(stopped(layers=["seccomp"]), EVERYTHING)

    def test_rlimits(self) -> None:
        """The limits alone stop whatever needs a descriptor."""
        promised = FILES | {"tcp", "udp", "abstract_socket", "memory_file", "raise_limit"}
        self.assertLessEqual(promised, stopped(layers=["rlimits"]))

    def test_rlimits_of_a_user(self) -> None:
        """For anyone but root they stop new processes and threads too."""
        needs_root()
        self.assertLessEqual({"fork", "thread"}, stopped(layers=["rlimits"], user=NOBODY))

    def test_uid(self) -> None:
        """Another user cannot reach the processes of root, nor become root."""
        needs_root()
        self.assertLessEqual(
            PROCESSES | {"become_root", "network_namespace"}, stopped(layers=["uid"])
        )

    def test_capabilities(self) -> None:
        """Root without capabilities cannot do as root."""
        needs_root()
        self.assertLessEqual({"become_root", "network_namespace"}, stopped(layers=["capabilities"]))

    def test_undumpable(self) -> None:
        """A process that cannot be inspected keeps its secrets from others of its user."""
        needs_root()
        for forbidden in (False, True):
            answer = run("tests.crunch.inspected", user=NOBODY, forbidden=forbidden)
            self.assertEqual({*map(bool, answer.values())}, {forbidden}, answer)

    def test_namespaces(self) -> None:
        """Namespaces alone stop every kind of network."""
        for user in {os.getuid(), NOBODY if os.getuid() == 0 else os.getuid()}:
            answer = run("tests.crunch.attacks", layers=["namespaces"], user=user)
            if "namespaces" not in answer["layers"]:
                raise SkipTest("this system does not let us leave its namespaces")
            for attack in ("tcp", "udp", "abstract_socket"):
                self.assertNotEqual(answer["attacks"][attack], 0, attack)


class LockTests(SynchronousTestCase):
    """All layers together, on systems that lack some of them."""

    users: ClassVar = (0, NOBODY) if os.geteuid() == 0 else (os.getuid(),)

    def test_whole(self) -> None:
        """The whole lock stops everything."""
        for user in self.users:
            self.assertEqual(stopped(mode="strict", user=user), EVERYTHING)

    def test_without_landlock(self) -> None:
        """Where the kernel has no Landlock, or does not let us, seccomp stops everything."""
        for user in self.users:
            for code in REFUSALS:
                config = {"fake": {"landlock": code}, "user": user}
                answer = run("tests.crunch.attacks", mode="strict", **config)
                self.assertFalse({"landlock", "landlock_network"} & set(answer["layers"]))
                self.assertNotIn(0, answer["attacks"].values())

    def test_without_seccomp(self) -> None:
        """Without seccomp the others stop whatever reaches out of the process."""
        needs_landlock(6)
        promised = FILES | PROCESSES | {"tcp", "udp", "abstract_socket", "fork", "thread"}
        promised |= {EXECUTE, "memory_file", "become_root", "network_namespace", "raise_limit"}
        for user in self.users:
            for code in REFUSALS:
                config = {"fake": {"seccomp": code}, "user": user}
                answer = run("tests.crunch.attacks", mode="strict", **config)
                self.assertNotIn("seccomp", answer["layers"])
                self.assertIn("landlock", answer["layers"])
                blocked = {name for name, found in answer["attacks"].items() if found}
                self.assertLessEqual(promised, blocked)

    def test_without_namespaces(self) -> None:
        """Where namespaces cannot be left, the rest stops everything."""
        for user in self.users:
            for code in REFUSALS:
                config = {"fake": {"unshare": code}, "user": user}
                answer = run("tests.crunch.attacks", mode="strict", **config)
                self.assertNotIn("namespaces", answer["layers"])
                self.assertNotIn(0, answer["attacks"].values())


class PoolOnSystemsTests(SynchronousTestCase):
    """A pool on systems that lack something."""

    nothing: ClassVar = [{"landlock": code, "seccomp": code, "unshare": code} for code in REFUSALS]
    users: ClassVar = LockTests.users

    def test_whole(self) -> None:
        """Where everything is to be had, a picture is crunched under every layer."""
        for user in self.users:
            answer = run("tests.crunch.outer", mode="strict", user=user)
            self.assertIsNone(answer["reason"], answer["detail"])
            self.assertLessEqual(
                {"no_new_privs", "seccomp", "rlimits", "uid", "parent_death", "undumpable"},
                set(answer["layers"]),
            )

    def test_strict(self) -> None:
        """Strict refuses where there is neither seccomp nor Landlock."""
        for user, fake in itertools.product(self.users, self.nothing):
            answer = run("tests.crunch.outer", mode="strict", user=user, fake=fake)
            self.assertIn("strict", answer["unavailable"])

    def test_best_effort(self) -> None:
        """Best effort crunches there, with what is left."""
        for user, fake in itertools.product(self.users, self.nothing):
            answer = run("tests.crunch.outer", mode="best-effort", user=user, fake=fake)
            self.assertIsNone(answer["reason"], answer["detail"])
            self.assertLessEqual({"no_new_privs", "rlimits", "uid"}, set(answer["layers"]))
            self.assertFalse({"seccomp", "landlock", "namespaces"} & set(answer["layers"]))

    def test_off(self) -> None:
        """Off crunches without what keeps a child apart, and still within its limits."""
        answer = run("tests.crunch.outer", mode="off")
        self.assertIsNone(answer["reason"], answer["detail"])
        self.assertIn("rlimits", answer["layers"])
        self.assertNotIn("no_new_privs", answer["layers"])


class HoldsTests(SynchronousTestCase):
    """What is enough for a mode, and what is believed of a child."""

    def test_strict(self) -> None:
        """Strict wants no new privileges, and seccomp or Landlock."""
        for layers, enough in (
            ({"no_new_privs", "seccomp"}, True),
            ({"no_new_privs", "landlock"}, True),
            ({"seccomp", "landlock"}, False),
            ({"no_new_privs", "rlimits"}, False),
            (set(), False),
        ):
            self.assertIs(sandbox.is_enough(layers, "strict"), enough, layers)
            self.assertIs(sandbox.is_enough(layers, "best-effort"), True)

    def test_not_believed(self) -> None:
        """A process that says it is locked, and of which the kernel says it is not, is not."""
        claimed = {"no_new_privs", "seccomp", "landlock", "no such layer"}
        self.assertEqual(sandbox.verified(claimed, os.getpid()) - {"landlock"}, set())

    def test_no_such_process(self) -> None:
        """Of a process that is gone nothing is believed that the kernel would know."""
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        self.assertEqual(sandbox.verified({"no_new_privs", "seccomp"}, gone.pid), set())


class FilterTests(SynchronousTestCase):
    """The seccomp filter, run by a machine of our own."""

    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

    def test_architecture(self) -> None:
        """A call of another architecture, or of the x32 set, ends the process."""
        for machine, architecture in seccomp.ARCHITECTURES.items():
            code = seccomp.program(machine)
            self.assertEqual(bpf.run(code, architecture ^ 1, 0), self.kill)
            self.assertEqual(bpf.run(code, architecture, 0x40000000), self.kill)

    @given(number=st.integers(0, 1000), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
    def test_numbers(self, number: int, arguments: list[int]) -> None:
        """Only the calls of the list are allowed, and memory never to be executed."""
        for column, (machine, architecture) in enumerate(seccomp.ARCHITECTURES.items()):
            protection = arguments[2] if len(arguments) > 2 else 0
            memory = {numbers[column] for numbers in seccomp.NOT_EXECUTABLE.values()}
            allowed = {numbers[column] for numbers in seccomp.ALLOWED.values()}
            if number == seccomp.CLONE3[column]:
                wanted = 0x00050000 | errno.ENOSYS
            elif number in allowed or (number in memory and not protection & 4):
                wanted = self.allow
            else:
                wanted = self.refuse
            code = seccomp.program(machine)
            self.assertEqual(bpf.run(code, architecture, number, arguments), wanted)

    def test_never(self) -> None:
        """No call that opens, connects, executes or forks is on the list."""
        never = {
            "x86_64": {2, 41, 42, 56, 57, 58, 59, 62, 101, 157, 165, 200, 257, 272, 317, 322, 425},
            "aarch64": {56, 117, 129, 131, 167, 198, 203, 220, 221, 277, 281, 425, 97, 40},
        }
        for machine, numbers in never.items():
            architecture = seccomp.ARCHITECTURES[machine]
            code = seccomp.program(machine)
            for number in numbers:
                self.assertEqual(bpf.run(code, architecture, number), self.refuse, number)

    def test_threads(self) -> None:
        """Where threads are allowed, clone makes those and no process."""
        for column, (machine, architecture) in enumerate(seccomp.ARCHITECTURES.items()):
            clone = seccomp.CLONE[column]
            code = seccomp.program(machine, threads=True)
            # CLONE_VM, FS, FILES, SIGHAND, THREAD … as the C library sets them.
            self.assertEqual(bpf.run(code, architecture, clone, [0x3D0F00]), self.allow)
            self.assertEqual(bpf.run(code, architecture, clone, [0x1200011]), self.refuse)
            self.assertEqual(
                bpf.run(seccomp.program(machine), architecture, clone, [0x3D0F00]), self.refuse
            )

    def test_unknown_machine(self) -> None:
        """There is no filter for a machine whose numbers nobody wrote down."""
        with self.assertRaises(KeyError):
            seccomp.program("pdp11")


class RulesetTests(SynchronousTestCase):
    """The rules for Landlock."""

    def test_versions(self) -> None:
        """A version knows at least what the one before it knew."""
        versions = [landlock._RIGHTS[number] for number in sorted(landlock._RIGHTS)]
        for older, newer in itertools.pairwise(versions):
            self.assertTrue(all(a <= b for a, b in zip(older, newer, strict=True)))
