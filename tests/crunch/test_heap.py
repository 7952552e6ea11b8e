"""Where the heap of a child begins."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from fxprofile.crunch.helper_connection import TUNABLES

LARGE = 2 << 20
#: As a helper, uses some of the heap; as its child, prints where the memory for a picture is.
PROGRAM = """
import os, sys
from fxprofile.crunch.helper import heap

used = [heap._malloc(100_000) for _ in range(int(sys.argv[1]))]
if os.fork() == 0:
    heap.start_at_large_page()
    print(heap._malloc(300_000), heap._malloc(1_000_000), max(used), flush=True)
    os._exit(0)
os.wait()
"""


class HeapTests(SynchronousTestCase):
    """A child's own part of the heap."""

    if platform.libc_ver()[0] != "glibc":
        skip = "the allocator of this C library is not known"

    def test_allocations_begin_at_a_large_page(self) -> None:
        """Allocations of a child begin at a large page, however much the helper has used."""
        for used in (1, 7, 40):
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, str(used)],
                env={"GLIBC_TUNABLES": TUNABLES, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                check=True,
            )
            first, second, before = map(int, done.stdout.split())
            self.assertGreater(first, before)
            self.assertLess(min(first % LARGE, -first % LARGE), 256)
            self.assertLess(second - first, LARGE)
            self.assertGreater(second, first)

    def test_tunables_are_known_to_the_c_library(self) -> None:
        """The C library knows the tunables by these names."""
        paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        loader = next(path for path in paths if os.path.basename(path).startswith("ld-"))
        done = subprocess.run(
            [loader, "--list-tunables"], capture_output=True, text=True, check=False
        )
        if done.returncode or "hugetlb" not in done.stdout:
            raise SkipTest("this C library is older, or does not list its tunables")
        for part in TUNABLES.split(":"):
            self.assertIn(f"{part.partition('=')[0]}: ", done.stdout)
