"""
A Redis server for tests.
"""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Sequence

from tests.support.servers.local import LocalServer


def missing() -> str | None:
    """Return the reason why no server can run on this machine, or None."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed"
    try:
        import txredisapi  # noqa: F401
    except ImportError:
        return "txredisapi is not installed"
    return None


class RedisServer(LocalServer):
    """
    A server that keeps nothing, on a port and a socket of its own.

    :param password: what clients have to log in with.
    """

    # There is nothing that it could lose.
    quit_signal = signal.SIGKILL
    look_every = 0.005

    def __init__(self, *, password: str | None = None) -> None:
        super().__init__("redis")
        self.password = password
        self.socket = str(self.directory / "socket")

    def url(self, password: str | None = None, database: int | None = None) -> str:
        """What ``cache.url`` is for this server."""
        password = password or self.password
        secret = f":{password}@" if password else ""
        path = "" if database is None else f"/{database}"
        return f"redis://{secret}127.0.0.1:{self.port}{path}"

    def command(self) -> Sequence[str]:
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
        return command

    def answers(self) -> bool:
        """Return whether the server responds."""
        try:
            self.ask("PING")
        except OSError:
            return False
        return True

    def ask(self, *command: str) -> str:
        """Send a command, and return the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self.password is not None:
                connection.sendall(f"AUTH {self.password}\r\n".encode())
                connection.recv(100)
            words = b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in command)
            connection.sendall(b"*%d\r\n%s" % (len(command), words))
            return connection.recv(1 << 16).decode(errors="replace")
