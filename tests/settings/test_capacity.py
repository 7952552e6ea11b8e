"""Tests of :mod:`fxprofile.settings.capacity`."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from fxprofile.settings.capacity import default_slots, memory, processors
from fxprofile.settings.load import load

GIB = 1 << 30


class CapacityTests(SynchronousTestCase):
    """Limits of control groups, on file systems that the tests make."""

    def root(self, groups: str, **files: str) -> Path:
        """Return the root of a file system with the control groups of a process."""
        root = Path(self.mktemp())
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        return root

    def setUp(self) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise SkipTest("this system has no processor affinity")
        self.available = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, self.available)

    def test_affinity_limits_processors(self) -> None:
        """Only the processors that the affinity allows are counted."""
        os.sched_setaffinity(0, [min(self.available)])
        self.assertEqual(processors(self.root("0::/")), 1)
        self.assertEqual(load(environ={"FXPROFILE_CRUNCH__TIMEOUT": "5"}).crunch.processes, 1)

    def test_quota_limits_processors(self) -> None:
        """The lowest quota of a group and those above it counts, in both versions."""
        top, v1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
        for groups, files, expected in (
            ("0::/a/b", {f"{top}/a/cpu.max": "150000 100000"}, 1),
            ("0::/a/b", {f"{top}/a/b/cpu.max": "20000 100000"}, 1),
            ("0::/outside", {f"{top}/cpu.max": "100000 100000"}, 1),
            (
                "3:cpu,cpuacct:/a\n0::/",
                {f"{v1}/a/cpu.cfs_quota_us": "100000", f"{v1}/a/cpu.cfs_period_us": "100000"},
                1,
            ),
            ("0::/a", {f"{top}/a/cpu.max": "max 100000"}, len(self.available)),
            (
                "3:cpu:/",
                {f"{v1}/cpu.cfs_quota_us": "-1", f"{v1}/cpu.cfs_period_us": "100000"},
                len(self.available),
            ),
        ):
            self.assertEqual(processors(self.root(groups, **files)), expected, groups)

    def test_control_groups_limit_memory(self) -> None:
        """The lowest memory limit of a group and those above it counts, in both versions."""
        top = "sys/fs/cgroup"
        for groups, files in (
            ("0::/a/b", {f"{top}/a/memory.max": str(GIB), f"{top}/a/b/memory.max": "max"}),
            ("4:memory:/a", {f"{top}/memory/a/memory.limit_in_bytes": str(GIB)}),
        ):
            self.assertEqual(memory(self.root(groups, **files)), GIB)
        self.assertGreater(memory(self.root("0::/")), 64 << 20)
        self.assertEqual(memory(Path(self.mktemp())), memory(self.root("0::/")))

    def test_memory_limits_slots(self) -> None:
        """There is at least one slot, and no more than the memory has room for images."""
        root = self.root("0::/", **{"sys/fs/cgroup/memory.max": str(GIB)})
        for image, expected in ((GIB, 1), (512 << 20, 1), (1 << 20, len(self.available))):
            self.assertEqual(default_slots(image, root), expected)
