"""
Database and cache servers that tests start on this host.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Seconds that a server may take to start or to stop.
PATIENCE = 60

#: The password of every server; it must not appear in any text.
PASSWORD = "Tr0ub4dor-p4ssword"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

_reserved: list[socket.socket] = []


def free_port() -> int:
    """
    Return a TCP port of 127.0.0.1 that stays reserved while this process lives.

    A socket stays bound to the port, without listening: the kernel gives the port to no other
    process that asks for a free one, and to no outgoing connection.  A server that sets
    SO_REUSEADDR, as servers do, can listen there, also again after a restart; until it does,
    connections are refused.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    # Only after binding: before, the port could be one that another process has reserved so.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _reserved.append(holder)
    port: int = holder.getsockname()[1]
    return port


def die_with_parent() -> None:
    """
    End this process when the thread that started it ends, even by SIGKILL.

    To be called in a child process before exec.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class LocalServer:
    """
    A server process on its own port, with its files in a temporary directory.

    It must be started from the main thread: it ends with the thread that started it, so that
    a killed test run leaves no server.

    :cvar quit_signal: makes the server shut down cleanly.
    :cvar look_every: seconds between checks whether it is ready.
    """

    quit_signal = signal.SIGTERM
    look_every = 0.05

    def __init__(self, name: str, user: str | None = None) -> None:
        """
        :param user: to run it as, in place of the user of the tests.
        """
        self.user = user
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"fxprofile-{name}-"))
        if user is not None:
            shutil.chown(self.directory, user)
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    def command(self) -> Sequence[str]:
        """Return the command that starts the server."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server is ready."""
        raise NotImplementedError

    def run(self, *command: str) -> None:
        """Run a command as the user of the server; it must succeed."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
            **self._identity(),
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout.decode(errors='replace')}")

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        with open(self.directory / "output", "ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
                **self._identity(),
            )
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.directory / "output").read_text(errors="replace"))
            time.sleep(self.look_every)

    def stop(self) -> None:
        """Shut the server down cleanly."""
        self._end(self.quit_signal)

    def kill(self) -> None:
        """Kill the server."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the processes of the server, so that it hangs."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the processes of the server."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def _end(self, how: int) -> None:
        pids = self._pids()
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # The children of a killed server would end only after a while.
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        """The server and its children, which have no children."""
        if self._process is None:
            return []
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    def remove(self) -> None:
        """Kill the server and remove its files."""
        atexit.unregister(self.remove)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _identity(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        group = pwd.getpwnam(self.user).pw_gid
        return {"user": self.user, "group": group, "extra_groups": []}
