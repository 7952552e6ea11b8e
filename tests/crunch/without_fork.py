"""The job of a helper that can fork no child while a file of the pool's process exists."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tests.crunch.children import run

__all__ = ["flag", "run"]

_fork = os.fork


def flag(pool: int) -> Path:
    """Return the path of the file, given the process id of the pool."""
    return Path(f"/tmp/fxprofile-test-no-fork-{pool}")


def _fork_if_allowed() -> int:
    if flag(os.getppid()).exists():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return _fork()


os.fork = _fork_if_allowed
