"""
What this process may use: processors and memory, of the machine or of its control groups.

Python knows the machine and, from 3.13, the affinity; control groups limit containers and
systemd units (https://docs.kernel.org/admin-guide/cgroup-v2.html, and cgroup-v1/ there).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: Memory that the roles of a process need besides their images, in bytes.
_RESERVE: Final = 512 << 20


def default_slots(image_memory: int, root: Path = Path("/")) -> int:
    """
    Return how many images can be crunched at the same time, at least 1.

    :param image_memory: of one image, in bytes.
    :param root: of the file system; other than the default only in tests.
    """
    by_memory = (memory(root) - _RESERVE) // image_memory
    return max(1, min(processors(root), by_memory))


def processors(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, at least 1."""
    try:
        found = len(os.sched_getaffinity(0))
    except AttributeError:
        found = os.cpu_count() or 1
    quotas = [quota / period for quota, period in _quotas(root) if quota > 0 and period > 0]
    return max(1, int(min([found, *quotas])))


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _groups(root, "memory"):
        limits += _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    return min(limits)


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Yield each quota of processor time and its period, in microseconds."""
    for folder in _groups(root, "cpu"):
        for numbers in (
            _numbers(folder / "cpu.max"),
            _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us"),
        ):
            if len(numbers) == 2:
                yield numbers[0], numbers[1]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and those above it, of both versions."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        group = (mounted / controller if controllers else mounted) / path.lstrip("/")
        # In a container, the path may be that outside of it; its top group is the container's.
        yield group
        yield from (parent for parent in group.parents if parent.is_relative_to(mounted))


def _numbers(file: Path) -> list[int]:
    """Return the numbers in a file; none if it does not exist, or a limit is ``max``."""
    try:
        text = file.read_text()
    except OSError:
        return []
    return [] if "max" in text else [int(number) for number in re.findall(r"-?\d+", text)]
