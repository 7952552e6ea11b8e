"""
A process that has all modules imported and forks for each command.

A command is a process of its own, with its own reactor, streams and exit status; but
most of the time of a short one goes into imports, and this saves that.  It must not
import a reactor: two processes cannot share one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any

from tests.support.servers.local import die_with_parent

PRELOADED = (
    "alembic.command",
    "fxprofile.admin.main",
    "fxprofile.drivers.sql.engine",
    "fxprofile.drivers.sql.migrate",
    "fxprofile.drivers.sql.store",
    "fxprofile.drivers.sql.queue",
    "fxprofile.drivers.filesystem.bucket",
    "pymysql",
    "psycopg",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
    "twisted.internet.epollreactor",
    "twisted.internet.threads",
)


def main() -> None:
    """Accept commands on the socket that is the standard input, until the tests close it."""
    die_with_parent()
    for name in PRELOADED:
        importlib.import_module(name)
    if "twisted.internet.reactor" in sys.modules:
        raise RuntimeError("something that is preloaded imports the reactor")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=0) as tests:
        while True:
            # One datagram a command: its streams, and where its status goes.
            data, descriptors, _, _ = socket.recv_fds(tests, 1 << 20, 4)
            if not data:
                return
            if os.fork() == 0:
                tests.close()
                _become(json.loads(data), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _become(what: Any, descriptors: list[int]) -> None:
    """Run a command in this process, and end with it."""
    die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 255
    try:
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
            os.close(descriptor)
        report = descriptors[3]
        os.write(report, f"{os.getpid()}\n".encode())
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(0, encoding="utf-8"),
            os.fdopen(1, "w", encoding="utf-8"),
            os.fdopen(2, "w", encoding="utf-8", buffering=1),
        )
        os.chdir(what["cwd"])
        os.environ.clear()
        os.environ.update(what["environ"])
        sys.argv = ["fxprofile-admin", *what["arguments"]]
        status = _run()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(report, f"{status}\n".encode())
    finally:
        os._exit(status)


def _run() -> int:
    from fxprofile.admin.main import main as command

    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
