"""
A program that inspects another process of the same user.

It prints the errno with which each attempt was stopped, or 0.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from fxprofile.crunch.sandbox import process
from fxprofile.crunch.sandbox.libc import prctl
from tests.crunch import attacks


def main(config: Any) -> None:
    """
    :param config: with ``user``, a number, and ``forbidden``: whether the inspected process
        forbids it.
    """
    attacks.become(config["user"])
    # The change of user has made this process undumpable; undo that.
    prctl(4, 1)  # PR_SET_DUMPABLE
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        if config["forbidden"]:
            process.forbid_inspection()
        os.write(writing, b"x")
        signal.pause()
    try:
        os.read(reading, 1)
        attacks._victim = pid
        ways = (attacks.other_environ, attacks.other_memory, attacks.trace)
        print(json.dumps({way.__name__: attacks._tried(way) for way in ways}))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    attacks.in_forks(main)
