"""The sandbox: what each layer stops, and all of them together."""

from __future__ import annotations

import atexit
import errno
import itertools
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from fxprofile.crunch import sandbox
from fxprofile.crunch.sandbox import landlock, seccomp
from tests.crunch import bpf
from tests.crunch.attacks import ATTACKS, EXECUTE

ROOT = Path(__file__).parents[3]

EVERYTHING = {*ATTACKS, EXECUTE}
NOBODY = 65534
#: The errors of system calls that are missing or forbidden.
REFUSALS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
#: Attacks by way of files and of other processes.
FILES = {"read_file", "list_root", "write_file", "other_environ"}
PROCESSES = {"other_environ", "other_memory", "trace", "send_signal"}

if not sys.platform.startswith("linux"):
    raise SkipTest("the sandbox needs Linux")


@cache
def started(program: str) -> subprocess.Popen[str]:
    """Start one of our programs, which loads its modules once and ends with the tests."""
    process = subprocess.Popen(
        [sys.executable, "-m", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def run(program: str, **config: Any) -> dict[str, Any]:
    """Return what one of our programs prints, run in a process of its own."""
    process = started(program)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(config) + "\n")
    process.stdin.flush()
    status, printed, errors = json.loads(process.stdout.readline())
    if status:
        raise AssertionError(errors)
    answer: dict[str, Any] = json.loads(printed)
    return answer


def stopped(**config: Any) -> set[str]:
    """Return the attacks that fail under this configuration."""
    found = run("tests.crunch.attacks", **config)["attacks"]
    return {name for name, code in found.items() if code}


def needs_root() -> None:
    if os.geteuid() != 0:
        raise SkipTest("only root can become another user")


def needs_landlock(version: int) -> None:
    try:
        found = sandbox.libc.call("syscall", 444, None, 0, 1)
    except OSError:
        found = 0
    if found < version:
        raise SkipTest(f"this kernel has Landlock {found}, not {version}")


class AttackTests(SynchronousTestCase):
    """The attacks without a sandbox."""

    def test_attacks_succeed_without_layers(self) -> None:
        """Without any layer, every attack by root that the system allows succeeds."""
        needs_root()
        # A container may stop some by itself.
        self.assertLessEqual(
            stopped(),
            {"perf", "bpf", "io_uring", "userfaultfd", "keyring", "user_namespace"}
            | {"network_namespace", "mount", "raise_limit", "trace", "other_memory"},
        )


class LayerTests(SynchronousTestCase):
    """What each layer stops alone."""

    def test_landlock_stops_files_programs_and_processes(self) -> None:
        """Landlock alone stops files, programs, TCP and access to other processes."""
        needs_landlock(6)
        promised = FILES | PROCESSES | {"tcp", "abstract_socket", EXECUTE}
        self.assertLessEqual(promised, stopped(layers=["landlock"]))

    def test_seccomp_stops_every_attack(self) -> None:
        """Seccomp alone stops every attack."""
        self.assertEqual(stopped(layers=["seccomp"]), EVERYTHING)

    def test_rlimits_stop_new_descriptors(self) -> None:
        """The resource limits alone stop every attack that needs a descriptor."""
        promised = FILES | {"tcp", "udp", "abstract_socket", "memory_file", "raise_limit"}
        self.assertLessEqual(promised, stopped(layers=["rlimits"]))

    def test_rlimits_stop_processes_of_users(self) -> None:
        """The resource limits stop new processes and threads of any user but root."""
        needs_root()
        self.assertLessEqual(
            {"fork", "thread", "two_threads"}, stopped(layers=["rlimits"], user=NOBODY)
        )

    def test_another_user_cannot_reach_root(self) -> None:
        """Another user can neither reach the processes of root nor become root."""
        needs_root()
        self.assertLessEqual(
            PROCESSES | {"become_root", "network_namespace"}, stopped(layers=["uid"])
        )

    def test_root_without_capabilities_is_powerless(self) -> None:
        """Root without capabilities cannot use the powers of root."""
        needs_root()
        self.assertLessEqual({"become_root", "network_namespace"}, stopped(layers=["capabilities"]))

    def test_undumpable_processes_keep_their_secrets(self) -> None:
        """A process that forbids inspection is closed to other processes of its user."""
        needs_root()
        for forbidden in (False, True):
            answer = run("tests.crunch.inspected", user=NOBODY, forbidden=forbidden)
            self.assertEqual({*map(bool, answer.values())}, {forbidden}, answer)

    def test_namespaces_stop_every_network(self) -> None:
        """Namespaces alone stop every kind of network."""
        for user in {os.getuid(), NOBODY if os.getuid() == 0 else os.getuid()}:
            answer = run("tests.crunch.attacks", layers=["namespaces"], user=user)
            if "namespaces" not in answer["layers"]:
                raise SkipTest("this system does not allow new namespaces")
            for attack in ("tcp", "udp", "abstract_socket"):
                self.assertNotEqual(answer["attacks"][attack], 0, attack)


class LockTests(SynchronousTestCase):
    """All layers together, on systems that lack some."""

    users: ClassVar = (0, NOBODY) if os.geteuid() == 0 else (os.getuid(),)

    def without(self, call: str) -> list[dict[str, Any]]:
        """Return the answer for each user and each error of a system call."""
        configs = [
            {"mode": "strict", "user": user, "fake": {call: code}}
            for user, code in itertools.product(self.users, REFUSALS)
        ]
        answers = [run("tests.crunch.attacks", **config) for config in configs]
        self.assertEqual(len(answers), len(configs))
        return answers

    def test_all_layers_stop_every_attack(self) -> None:
        """All layers together stop every attack."""
        for user in self.users:
            self.assertEqual(stopped(mode="strict", user=user), EVERYTHING)

    def test_without_landlock_every_attack_is_stopped(self) -> None:
        """Without Landlock, the other layers stop every attack."""
        for answer in self.without("landlock"):
            self.assertFalse({"landlock", "landlock_network"} & set(answer["layers"]))
            self.assertNotIn(0, answer["attacks"].values())

    def test_without_seccomp_the_process_is_isolated(self) -> None:
        """Without seccomp, the other layers stop every attack on the rest of the system."""
        needs_landlock(6)
        promised = (
            FILES | PROCESSES | {"tcp", "udp", "abstract_socket", "fork", "thread", "two_threads"}
        )
        promised |= {EXECUTE, "memory_file", "become_root", "network_namespace", "raise_limit"}
        for answer in self.without("seccomp"):
            self.assertNotIn("seccomp", answer["layers"])
            self.assertIn("landlock", answer["layers"])
            blocked = {name for name, found in answer["attacks"].items() if found}
            self.assertLessEqual(promised, blocked)

    def test_without_namespaces_every_attack_is_stopped(self) -> None:
        """Without namespaces, the other layers stop every attack."""
        for answer in self.without("unshare"):
            self.assertNotIn("namespaces", answer["layers"])
            self.assertNotIn(0, answer["attacks"].values())


class HeicTests(SynchronousTestCase):
    """The sandbox of a child whose image is HEIC, with a decoder that starts a thread."""

    def test_heic_children_may_start_threads_only(self) -> None:
        """All layers together stop every attack by a HEIC child except new threads."""
        for user in LockTests.users:
            found = stopped(mode="strict", user=user, heic=True)
            self.assertEqual(found | {"two_threads"}, EVERYTHING - {"thread"})

    def test_seccomp_for_heic_allows_threads_only(self) -> None:
        """The seccomp filter of a HEIC child alone stops every attack except new threads."""
        self.assertEqual(
            stopped(layers=["seccomp"], heic=True), EVERYTHING - {"thread", "two_threads"}
        )

    def test_a_heic_child_with_a_user_of_its_own_has_one_thread(self) -> None:
        """A HEIC child with a user of its own may start one thread, and no second one."""
        needs_root()
        for fake in ({}, {"seccomp": errno.EPERM}):
            found = stopped(mode="best-effort", heic=True, fake=fake)
            self.assertIn("two_threads", found)
            self.assertNotIn("thread", found)


class PoolOnSystemsTests(SynchronousTestCase):
    """A pool on systems that lack some layers."""

    nothing: ClassVar = [{"landlock": code, "seccomp": code, "unshare": code} for code in REFUSALS]
    users: ClassVar = LockTests.users

    def with_nothing(self, mode: str) -> list[dict[str, Any]]:
        """Return the answer for each user of each system without layers."""
        configs = [
            {"mode": mode, "user": user, "fake": fake}
            for user, fake in itertools.product(self.users, self.nothing)
        ]
        answers = [run("tests.crunch.outer", **config) for config in configs]
        self.assertEqual(len(answers), len(configs))
        return answers

    def test_strict_crunches_under_every_layer(self) -> None:
        """If every layer is available, a picture is crunched under all of them."""
        for user in self.users:
            answer = run("tests.crunch.outer", mode="strict", user=user)
            self.assertIsNone(answer["reason"], answer["detail"])
            self.assertLessEqual(
                {"no_new_privs", "seccomp", "rlimits", "uid", "parent_death", "undumpable"},
                set(answer["layers"]),
            )

    def test_strict_refuses_without_seccomp_and_landlock(self) -> None:
        """Strict mode refuses to work with neither seccomp nor Landlock."""
        for answer in self.with_nothing("strict"):
            self.assertIn("strict", answer["unavailable"])

    def test_best_effort_crunches_with_the_remaining_layers(self) -> None:
        """Best-effort mode crunches with the layers that are available."""
        for answer in self.with_nothing("best-effort"):
            self.assertIsNone(answer["reason"], answer["detail"])
            self.assertLessEqual({"no_new_privs", "rlimits", "uid"}, set(answer["layers"]))
            self.assertFalse({"seccomp", "landlock", "namespaces"} & set(answer["layers"]))

    def test_off_keeps_the_resource_limits(self) -> None:
        """Mode off crunches without isolation, but within the resource limits."""
        answer = run("tests.crunch.outer", mode="off")
        self.assertIsNone(answer["reason"], answer["detail"])
        self.assertIn("rlimits", answer["layers"])
        self.assertNotIn("no_new_privs", answer["layers"])


#: Lowers the priority, and prints the policy, nice value and slice that the kernel then reports.
LOWER_AND_PRINT = """
import ctypes, struct
from fxprofile.crunch.sandbox import libc, process
number = {"x86_64": 315, "aarch64": 275}[process.platform.machine()]
assert process.lower_priority()
attributes = ctypes.create_string_buffer(48)
libc.call("syscall", number, 0, ctypes.addressof(attributes), 48, 0)
_, policy, _, nice, _, slice_ns, _, _ = struct.unpack("=IIQiIQQQ", attributes.raw)
print(policy, nice, slice_ns)
"""


class PriorityTests(SynchronousTestCase):
    """The layer ``priority``."""

    def test_children_are_preempted_at_once(self) -> None:
        """A child keeps a share of a busy processor, and has the longest slice of time."""
        ours = os.nice(0)
        printed = subprocess.check_output([sys.executable, "-c", LOWER_AND_PRINT], cwd=ROOT)
        policy, nice, slice_ns = map(int, printed.split())
        self.assertEqual((policy, nice), (os.SCHED_OTHER, min(ours + 10, 19)))
        if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 12):
            raise SkipTest("slices are ignored before Linux 6.12")
        self.assertEqual(slice_ns, 100_000_000)


class EnoughTests(SynchronousTestCase):
    """Which layers are enough for a mode, and which claims of a child count."""

    def test_strict_needs_no_new_privs_and_seccomp_or_landlock(self) -> None:
        """Strict mode needs no_new_privs, and seccomp or Landlock."""
        for layers, enough in (
            ({"no_new_privs", "seccomp"}, True),
            ({"no_new_privs", "landlock"}, True),
            ({"seccomp", "landlock"}, False),
            ({"no_new_privs", "rlimits"}, False),
            (set(), False),
        ):
            self.assertIs(sandbox.is_enough(layers, "strict"), enough, layers)
            self.assertIs(sandbox.is_enough(layers, "best-effort"), True)

    def test_claims_that_the_kernel_denies_are_dropped(self) -> None:
        """A layer that a process claims but the kernel denies does not count."""
        claimed = {"no_new_privs", "seccomp", "landlock", "no such layer"}
        with open("/proc/self/status") as status:
            found = sandbox.verified(claimed, status.fileno())
        self.assertEqual(found - {"landlock"}, set())

    def test_claims_of_an_ended_process_are_dropped(self) -> None:
        """Layers that the kernel would confirm do not count for a process that has ended."""
        gone = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
        with open(f"/proc/{gone.pid}/status") as status:
            gone.communicate()
            found = sandbox.verified({"no_new_privs", "seccomp"}, status.fileno())
        self.assertEqual(found, set())


class FilterTests(SynchronousTestCase):
    """The seccomp filter, run by an interpreter of BPF."""

    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM

    def test_other_architectures_are_killed(self) -> None:
        """A call of another architecture, or of the x32 ABI, kills the process."""
        for machine, architecture in seccomp.ARCHITECTURES.items():
            code = seccomp.program(machine)
            self.assertEqual(bpf.run(code, architecture ^ 1, 0), self.kill)
            self.assertEqual(bpf.run(code, architecture, 0x40000000), self.kill)

    @given(number=st.integers(0, 1000), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
    def test_only_listed_calls_are_allowed(self, number: int, arguments: list[int]) -> None:
        """Only listed system calls are allowed, and no executable memory."""
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

    def test_dangerous_calls_are_refused(self) -> None:
        """No call that opens, connects, executes or forks is allowed."""
        never = {
            "x86_64": {2, 41, 42, 56, 57, 58, 59, 62, 101, 157, 165, 200, 257, 272, 317, 322, 425},
            "aarch64": {56, 117, 129, 131, 167, 198, 203, 220, 221, 277, 281, 425, 97, 40},
        }
        for machine, numbers in never.items():
            architecture = seccomp.ARCHITECTURES[machine]
            code = seccomp.program(machine)
            for number in numbers:
                self.assertEqual(bpf.run(code, architecture, number), self.refuse, number)

    def test_clone_makes_threads_only(self) -> None:
        """If threads are allowed, clone makes threads but no processes."""
        for column, (machine, architecture) in enumerate(seccomp.ARCHITECTURES.items()):
            clone = seccomp.CLONE[column]
            code = seccomp.program(machine, threads=True)
            # CLONE_VM, FS, FILES, SIGHAND, THREAD … as the C library sets them.
            self.assertEqual(bpf.run(code, architecture, clone, [0x3D0F00]), self.allow)
            self.assertEqual(bpf.run(code, architecture, clone, [0x1200011]), self.refuse)
            self.assertEqual(
                bpf.run(seccomp.program(machine), architecture, clone, [0x3D0F00]), self.refuse
            )

    def test_unknown_machines_have_no_filter(self) -> None:
        """For a machine without known numbers there is no filter."""
        with self.assertRaises(KeyError):
            seccomp.program("pdp11")


class RulesetTests(SynchronousTestCase):
    """The rulesets of Landlock."""

    def test_later_versions_handle_more(self) -> None:
        """Each version of Landlock handles at least what the one before it handles."""
        versions = [landlock._RIGHTS[number] for number in sorted(landlock._RIGHTS)]
        for older, newer in itertools.pairwise(versions):
            self.assertTrue(all(a <= b for a, b in zip(older, newer, strict=True)))
