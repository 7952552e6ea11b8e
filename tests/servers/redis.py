"""
A Redis server for tests.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.servers.sql import _PR_SET_PDEATHSIG, PASSWORD, PATIENCE, _libc, free_port


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    try:
        import txredisapi  # noqa: F401
    except ImportError:
        return "txredisapi is not installed"
    return None


class RedisServer:
    """
    A server that keeps nothing, on a port and a socket of its own.

    It must be started from the main thread: it dies with the thread that started it, so
    that nothing is left of a test run that was killed.

    :param password: what clients have to log in with.
    """

    def __init__(self, *, password: str | None = None) -> None:
        self.port = free_port()
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="fxprofile-redis-"))
        self.socket = str(self.directory / "socket")
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    def url(self, password: str | None = None, database: int | None = None) -> str:
        """What ``cache.url`` is for this server."""
        password = password or self.password
        secret = f":{password}@" if password else ""
        path = "" if database is None else f"/{database}"
        return f"redis://{secret}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Start the server and wait until it serves."""
        arguments = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": self.socket,
            "save": "",
            "appendonly": "no",
            "dir": str(self.directory),
        }
        if self.password is not None:
            arguments["requirepass"] = self.password
        command = [shutil.which("redis-server") or "redis-server"]
        for name, value in arguments.items():
            command += [f"--{name}", value]
        with open(self.directory / "output", "ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self.directory / "output").read_text(errors="replace"))
            time.sleep(0.005)

    def answers(self) -> bool:
        """Whether the server serves."""
        try:
            self.ask("PING")
        except OSError:
            return False
        return True

    def ask(self, *command: str) -> str:
        """Send a command and give the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self.password is not None:
                connection.sendall(f"AUTH {self.password}\r\n".encode())
                connection.recv(100)
            words = b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in command)
            connection.sendall(b"*%d\r\n%s" % (len(command), words))
            return connection.recv(1 << 16).decode(errors="replace")

    def pause(self) -> None:
        """Let the server hang."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End that."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(PATIENCE)

    def remove(self) -> None:
        """End the server and remove its files."""
        atexit.unregister(self.remove)
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


__all__ = ["PASSWORD", "RedisServer", "missing"]
